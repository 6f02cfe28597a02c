"""expo w2s ensemble | boost | label: experts that are boosted, joined, and teach a stronger model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from expo.cli.options import JSON, QUIET
from expo.cli.w2s_files import BESIDE, keep, output_file, tell
from expo.cli.w2s_run import drive, named, pipeline_options, run_all, show_plan

FILE = click.Path(path_type=Path)
KIND = click.Choice(["classification", "generation"])


@click.command(short_help="EnsemW2S: boost weak experts, label with their ensemble, train the student, report.")
@pipeline_options
def ensemble(**options: Any) -> None:
    """EnsemW2S (arXiv:2410.04571): experts boosted on easy questions label hard ones for a strong student.

    The paper's code was published for two classes. The generative form (tokens as samples, the prior in alpha), all
    guards, the choice of the round on validation instead of the test set, and the rows of merged experts are our
    reading or our addition; the report names each.

    RUN.yaml is a file, or the name of one that comes with expo (--list). A killed run continues when the same command
    is repeated. A stage whose inputs and settings are unchanged is passed over.
    """
    from expo.weak_to_strong.ensemble import build, check
    from expo.weak_to_strong.ensemble_run import EnsembleRun

    drive(EnsembleRun, build, check, _show, **options)


@click.command(short_help="Boost experts on easy questions, and write experts.json.")
@click.option("--kind", type=KIND, required=True, help="Classes to choose, or answers to write.")
@click.option("--model", required=True, help="The weak model that every expert is made from: folder or Hub id.")
@click.option("--data", type=FILE, required=True, help="Easy questions: text and label, or prompt and completion.")
@click.option("--validation", type=FILE, required=True, help="Other easy questions; they choose the round.")
@click.option("-o", "--output", type=FILE, required=True, help="Folder of the rounds, and of experts.json.")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="Experts, at most.")
@click.option(
    "--prior",
    metavar="NAME|ERROR",
    help="Whose error an expert must beat: binary (1/2, the published alpha), samme (a random guess), pretrained "
    "(MODEL as it comes; ours), or an error from 0 to 1. Default: binary for two classes, samme for more, "
    "pretrained for answers.",
)
@click.option(
    "--weighting",
    type=click.Choice(["loss", "resample"]),
    default="loss",
    show_default=True,
    help="Weigh the loss (of tokens, for answers), or draw rows by weight.",
)
@click.option(
    "--combine",
    type=click.Choice(["probabilities", "discrete"]),
    default="probabilities",
    show_default=True,
    help="Join probabilities, or count votes (classes only).",
)
@click.option(
    "--not-better",
    type=click.Choice(["skip", "stop"]),
    default="skip",
    show_default=True,
    help="An expert that is not better than the prior: leave it out and go on with equal weights, or end.",
)
@click.option(
    "--patience",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Rounds without gain on validation; 0: all.",
)
@click.option("--labels", metavar="A,B,...", help="Names of the classes in their order. Default: 0,1.")
@click.option("--seed", default=0, show_default=True, help="Of training and of draws.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of training (expert.learning_rate=1e-5, see `expo train`), answering.max_tokens, extraction, "
    "equivalence, space, device, threads. Repeatable.",
)
@click.option("--from", "from_", metavar="STAGE", help="Make this stage, and all that depends on it, anew.")
@click.option("--dry-run", is_flag=True, help="Print which stages would run, and why; run none.")
@JSON
@QUIET
def boost(model: str, data: Path, validation: Path, output: Path, **options: Any) -> None:
    """Train experts one after the other, each on what the ones before got wrong, and weigh them by their errors.

    For two classes this is EnsemW2S's published code (arXiv:2410.04571) with guards; for answers, whose samples are
    tokens, no code was published, and all but the vote by token probabilities is our reading.
    OUTPUT/experts.json then lists them for `expo generate --ensemble` and `expo w2s label --ensemble`. A killed run
    continues when the same command is repeated.
    """
    import json

    from expo.weak_to_strong.ensemble import boost_run, build_boosting

    from_, dry_run, as_json, quiet = (options.pop(name) for name in ("from_", "dry_run", "as_json", "quiet"))
    run = boost_run(model, options, named(options.pop("changes"), "--set"))
    stages = build_boosting(run, data, validation)
    if dry_run:
        from expo.weak_to_strong.stages import plan_stages

        show_plan(plan_stages(stages, output, from_=from_), as_json)
        return
    facts = run_all(run, stages, output, from_, quiet)
    place = _listed(output)
    if as_json:
        click.echo(json.dumps({"experts": str(place), **facts}, indent=1))
    elif not quiet:
        _show_rounds(facts["rounds"])
        click.echo(f"\nwrote {place}: {facts['said']}")


@click.command(short_help="Label questions with the experts of an experts.json together.")
@click.option("--ensemble", "experts", type=FILE, required=True, help="experts.json, as `expo w2s boost` writes it.")
@click.option("--data", type=FILE, required=True, help="Questions: id and text, or id and prompt. Labels are not read.")
@click.option("-o", "--output", type=FILE, required=True, help="Rows for `expo train classify`, or `expo train sft`.")
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT, once the new one is complete.")
@click.option("--dry-run", is_flag=True, help="Check everything, write nothing.")
@click.option("--max-tokens", type=click.IntRange(1), default=512, show_default=True, help="The longest answer.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End an answer before this text. Repeatable.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 or auto.")
@JSON
def label(experts: Path, data: Path, output: Path, overwrite: bool, dry_run: bool, as_json: bool, **how: Any) -> None:
    """Write the ensemble's labels: probabilities of the classes (soft labels), or answers written token by token.

    Probabilities are added with the experts' weights; with one expert, its own are the labels, as soft as an
    ensemble's.
    """
    from expo.weak_to_strong.labelling import label_file

    with output_file(output, overwrite, dry_run, [experts, data]) as place:
        report = label_file(experts, data, place, write=not dry_run, **how)
        if not dry_run:
            keep(report, place.with_name(place.name + BESIDE))
    tell(report, as_json)


def _listed(output: Path) -> Path:
    """Copy the chosen experts.json to where it is looked for, its paths beginning there."""
    import json

    from expo.rows import replace_file

    found = json.loads((output / "ensemble" / "experts.json").read_text())
    for one in found["experts"]:
        one["model"] = one["model"].removeprefix("../")
    replace_file(output / "experts.json", (json.dumps(found, indent=1) + "\n").encode())
    return output / "experts.json"


def _show(facts: Mapping[str, Any]) -> None:
    from expo.cli.tables import show_table
    from expo.weak_to_strong.ensemble_report import row_cells

    _show_rounds(facts["rounds"])
    for part, rows in facts["tables"].items():
        click.echo(f"\n{part}")
        headings = ("model", "accuracy", "95 % interval", "n", "against", "PGR")
        show_table(headings, [row_cells(row) for row in rows])


def _show_rounds(rounds: list) -> None:
    from expo.cli.tables import show_table

    parts = list(rounds[0]["own"])
    names = [f"{who}: {part}" for part in parts for who in ("own", "ensemble")]
    rows = []
    for one in rounds:
        alpha = f"{one['alpha']:.3f}" if one["alpha"] else "left out"
        shares = [_share(one[who].get(part)) for part in parts for who in ("own", "ensemble")]
        rows.append((str(one["round"]), f"{one['error']:.4f}", alpha, *shares))
    show_table(("round", "weighted error", "alpha", *names), rows)


def _share(found: Mapping[str, Any] | None) -> str:
    value = found and found.get("value", found.get("accuracy"))
    return "" if value is None else f"{100 * value:.1f} %"
