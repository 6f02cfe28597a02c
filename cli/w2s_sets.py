"""expo w2s corrupt | mix: sets with wanted error rates, and what they are mixed to; on JSONL files of any origin."""

import re
from pathlib import Path
from typing import Any

import click

from expo.cli.options import JSON, QUIET
from expo.cli.w2s_ask import DRY_RUN, FILE, OVERWRITE, TOKENIZER
from expo.cli.w2s_files import output_folder, tell

_SETS = re.compile(
    r"(outcome-[\d.e-]+(-steps-[\d.e-]+)?|hard|subtask|hard\+subtask|hard\+paraphrase)\.jsonl|manifest\.json"
)


@click.command(short_help="Make sets with wanted outcome and step-wise error rates.")
@click.argument("judged", nargs=-1, required=True, type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="Folder of the sets and of manifest.json.")
@click.option("--outcome", "outcomes", multiple=True, type=float, required=True, help="From 0 to 1. Repeatable.")
@click.option("--steps", multiple=True, type=float, help="Step-wise error rate at each outcome error rate. Repeatable.")
@click.option("--only-pairs", is_flag=True, help="Leave out tasks without both a correct and an incorrect sample.")
@click.option("--tasks", type=FILE, help="Refuse samples and subtasks that belong to no task of this file.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides, with each id, who gets a wrong sample.")
@OVERWRITE
@DRY_RUN
@JSON
@QUIET
def corrupt(judged: tuple[Path, ...], output: Path, outcomes: tuple[float, ...], **options: Any) -> None:
    """Write one set a rate to the folder OUTPUT: one sample of every task, of what `expo w2s judge` wrote.

    Sets are nested: the wrong tasks at 10 % are wrong at 20 % too. The same seed gives the same sets. Step-wise
    rates are those of the judge that expo w2s judge asked; the paper's were annotated by people, on 50 problems.
    """
    from expo.weak_to_strong.supervision.sets import corrupt_files

    how = {name: options[name] for name in ("steps", "seed", "only_pairs", "tasks")}
    dry_run, overwrite = options["dry_run"], options["overwrite"]
    with output_folder(output, overwrite, dry_run, [*judged, options["tasks"]], _SETS.fullmatch) as folder:
        manifest = corrupt_files(judged, folder, outcomes, **how)
    _say_sets(manifest, options)


@click.command(short_help="Mix training sets: hard, subtask, hard + subtask, hard + paraphrase; of equal size.")
@click.option("--hard", type=FILE, help="A set of hard tasks, such as `expo w2s corrupt` writes.")
@click.option("--subtask", type=FILE, help="A set of their subtasks.")
@click.option("--paraphrase", type=FILE, help="Paraphrases, with the id, teacher and sample of what they paraphrase.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(["hard", "subtask", "hard+subtask", "hard+paraphrase"]),
    help="Default: all that the files allow. Repeatable.",
)
@click.option(
    "--equal",
    type=click.Choice(["none", "counts", "tokens"]),
    default="none",
    show_default=True,
    help="Make all sets of one size, mixed ones half and half.",
)
@click.option(
    "--to",
    type=click.Choice(["least", "most"]),
    default="least",
    show_default=True,
    help="With --equal: cut to the smallest set, or repeat rows up to the largest.",
)
@TOKENIZER
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of rows.")
@click.option("-o", "--output", type=FILE, required=True, help="Folder of the sets and of manifest.json.")
@OVERWRITE
@DRY_RUN
@JSON
@QUIET
def mix(hard: Path | None, subtask: Path | None, paraphrase: Path | None, output: Path, **options: Any) -> None:
    """Write KIND.jsonl for each kind of supervision to the folder OUTPUT, for expo train sft.

    manifest.json states both error rates of every set. Step-wise ones are a judge's; the paper's were annotated by
    people, on 50 problems.
    """
    from expo.weak_to_strong.supervision.lengths import counter
    from expo.weak_to_strong.supervision.mix import mix as make
    from expo.weak_to_strong.supervision.mix import parts_of
    from expo.weak_to_strong.supervision.records import open_judged

    files = {"hard": hard, "subtask": subtask, "paraphrase": paraphrase}
    files = {name: path for name, path in files.items() if path}
    missing = [part for kind in options["kinds"] for part in parts_of(kind) if part not in files]
    if not files or missing or ("paraphrase" in files and "hard" not in files):
        wanted = missing[0] if missing else "hard"
        raise click.UsageError(f"--{wanted} FILE is needed.")
    if options["equal"] == "tokens" and not options["tokenizer"]:
        raise click.UsageError("--equal tokens needs --tokenizer.")
    count = counter(options["tokenizer"]) if options["tokenizer"] else None
    tokens = (lambda one: count(one.prompt) + count(one.response)) if count else None
    how = {name: options[name] for name in ("kinds", "equal", "to", "seed")}
    dry_run, overwrite = options["dry_run"], options["overwrite"]
    with output_folder(output, overwrite, dry_run, list(files.values()), _SETS.fullmatch) as folder:
        parts = {name: list(open_judged(path)) for name, path in files.items()}
        manifest = make(parts, folder, tokens=tokens, **how)
    _say_sets(manifest, options)


def _say_sets(manifest: dict[str, Any], options: dict[str, Any]) -> None:
    """A manifest as JSON, or its sets as a table."""
    if options["as_json"]:
        tell(manifest, True)
        return
    if options["quiet"]:
        return
    from expo.cli.tables import show_table

    rows = []
    for name, told in manifest["sets"].items():
        found = told.get("rates", told)
        steps = found["steps"]["value"] if found["steps"] else None
        shown = [f"{100 * value:.2f} %" if value is not None else "" for value in (found["outcome"]["value"], steps)]
        rows.append((name, f"{found['samples']:,}", f"{found['wrong']:,}", *shown))
    show_table(("set", "rows", "wrong", "outcome errors", "step errors"), rows)
    click.echo(f"note: {manifest['note']}")
