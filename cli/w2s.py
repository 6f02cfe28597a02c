"""expo w2s: weak-to-strong pipelines, their single steps on JSONL files, and their data sets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from expo.cli.options import JSON
from expo.cli.w2s_ask import decompose, judge
from expo.cli.w2s_ensemble import boost, ensemble, label
from expo.cli.w2s_files import BESIDE, keep, output_file, output_folder, tell
from expo.cli.w2s_run import named, reasoning
from expo.cli.w2s_sets import corrupt, mix
from expo.cli.w2s_supervision import supervision

FILE = click.Path(path_type=Path)
SHARE = click.FloatRange(0, 1)
OUTPUT = click.option("-o", "--output", type=FILE, required=True, help="What to write; appears whole or not at all.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace OUTPUT, once the new one is complete.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Read and count everything, print the report, write nothing.")
MODE = click.option(
    "--mode",
    type=click.Choice(["mended", "published"]),
    default="mended",
    show_default=True,
    help="Published repeats the authors' code draw by draw; mended says in its report what it does otherwise.",
)
EXTRACTION = click.option(
    "--extraction",
    metavar="NAME",
    help="How to find final answers where rows have no `pred`: default, published, 'published:The answer is:', "
    "whole, regex:PATTERN.",
)
EQUIVALENCE = click.option(
    "--equivalence",
    default="string",
    show_default=True,
    metavar="NAME",
    help="When two final answers are the same: string, numeric, math-verify, or a command (see `expo eval`).",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def w2s() -> None:
    """Weak-to-strong learning: whole pipelines, and their steps on files of any origin."""


for _command in (reasoning, ensemble, boost, label, supervision, decompose, judge, corrupt, mix):
    w2s.add_command(_command)


@w2s.command(short_help="Keep the questions on which weak and strong model agree.")
@click.option("--weak", type=FILE, required=True, help="The weak model's answers: id, prompt, response, pred.")
@click.option("--icl", type=FILE, help="The strong model's own. Without it: all weak answers, for naive training.")
@click.option("--ids", type=FILE, help="Without --icl: only the ids of this file's rows.")
@click.option("--format", "form", type=click.Choice(["jsonl", "json"]), default="jsonl", show_default=True)
@OUTPUT
@OVERWRITE
@DRY_RUN
@MODE
@EXTRACTION
@EQUIVALENCE
@JSON
def select(weak, icl, ids, form, output, overwrite, dry_run, mode, extraction, equivalence, as_json) -> None:
    """Write training sets: weak, icl and hybrid into the folder OUTPUT, or without --icl all weak answers to OUTPUT."""
    from expo.weak_to_strong import select as step
    from expo.weak_to_strong.answers import identity
    from expo.weak_to_strong.keyed import read_json
    from expo.weak_to_strong.modes import Mode

    extract = _extract(extraction)
    if icl is None:
        wanted = dict.fromkeys(read_json(ids, identity)) if ids else None
        with output_file(output, overwrite, dry_run, [weak, ids]) as place:
            report = step.full_weak(weak, place, ids=wanted, extract=extract)
            keep(report, place.with_name(place.name + BESIDE))
        tell(report, as_json)
        return
    if ids:
        raise click.UsageError("--ids goes without --icl: agreement decides which ids are kept.")
    with output_folder(output, overwrite, dry_run, [weak, icl]) as folder:
        same = _same(equivalence)
        report = step.select(weak, icl, folder, mode=Mode(mode), same=same, extract=extract, suffix=f".{form}")
        keep(report, folder / "report.json")
    tell(report, as_json)


@w2s.command(short_help="Find the most frequent final answer of each question's samples.")
@click.argument("samples", nargs=-1, required=True, type=FILE)
@OUTPUT
@OVERWRITE
@DRY_RUN
@MODE
@EXTRACTION
@EQUIVALENCE
@JSON
def vote(samples, output, overwrite, dry_run, mode, extraction, equivalence, as_json) -> None:
    """Write one vote a question to OUTPUT.

    SAMPLES is one file a seed, or one file whose rows have a field `sample`.
    """
    from expo.weak_to_strong.modes import Mode
    from expo.weak_to_strong.vote import vote_files

    same, extract = _same(equivalence), _extract(extraction)
    with output_file(output, overwrite, dry_run, samples) as place:
        report = vote_files(samples, place, mode=Mode(mode), same=same, extract=extract)
        keep(report, place.with_name(place.name + BESIDE))
    tell(report, as_json)


@w2s.command(short_help="Make pairs of a better and a worse response, one of them the weak model's.")
@click.option("--weak", type=FILE, required=True, help="The weak model's answers: id, prompt, response, pred.")
@click.option("--votes", type=FILE, required=True, help="What `expo w2s vote` wrote for the same questions.")
@click.option(
    "--agree",
    type=SHARE,
    default=0.6,
    show_default=True,
    help="Least confidence of a majority on the weak model's side.",
)
@click.option("--disagree", type=SHARE, default=0.8, show_default=True, help="And of one against it.")
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Pairs a question; the paper has 1 for GSM8K, 3 for MATH.",
)
@click.option("--seed", default=42, show_default=True, help="Of the draws.")
@OUTPUT
@OVERWRITE
@DRY_RUN
@MODE
@EXTRACTION
@EQUIVALENCE
@JSON
def pairs(
    weak, votes, agree, disagree, most, seed, output, overwrite, dry_run, mode, extraction, equivalence, as_json
) -> None:
    """Write preference pairs to OUTPUT (.jsonl, or .json for one array)."""
    from expo.weak_to_strong.modes import Mode
    from expo.weak_to_strong.pairs import Rule, pair_files

    rule, same, extract = Rule(agree, disagree, most, seed, Mode(mode)), _same(equivalence), _extract(extraction)
    with output_file(output, overwrite, dry_run, [weak, votes]) as place:
        report = pair_files(weak, votes, place, rule, same=same, extract=extract)
        keep(report, place.with_name(place.name + BESIDE))
    tell(report, as_json)


@w2s.command(short_help="Write the questions of a data set as the pipelines read them.")
@click.argument("name", type=click.Choice(["gsm8k", "math", "olympicarena", "easy-math"]))
@click.option(
    "--raw", type=FILE, help="Folder with the authors' train_1, train_2 and test (.jsonl), instead of the Hub."
)
@OUTPUT
@OVERWRITE
@DRY_RUN
@JSON
def data(name, raw, output, overwrite, dry_run, as_json) -> None:
    """Write train_1, train_2 and test (.jsonl: id, prompt, completion, gold) of NAME into the folder OUTPUT.

    easy-math is the first stage of `expo w2s supervision released`: train alone.
    """
    from expo.weak_to_strong.questions import DATA_SETS
    from expo.weak_to_strong.supervision.easy import easy_math

    if raw and name in ("olympicarena", "easy-math"):
        raise click.UsageError(f"{name} is read from the Hub only: its raw files are not in the authors' repository.")
    inputs = [raw, *raw.glob("*.jsonl")] if raw else []  # its files may be links into OUTPUT
    with output_folder(output, overwrite, dry_run, inputs) as folder:
        report = (DATA_SETS | {"easy-math": easy_math})[name](folder, raw=raw)
        keep(report, folder / "report.json")
    tell(report, as_json)


@w2s.command(short_help="Look for the defects that such files are known to have.")
@click.argument("path", metavar="FILE", type=FILE)
@click.option("--weak", type=FILE, help="Answers of the weak model that FILE is said to come from.")
@click.option(
    "--other", "others", multiple=True, metavar="NAME=FILE", help="Answers of another weak model. Repeatable."
)
@EXTRACTION
@EQUIVALENCE
@JSON
def validate(path, weak, others, extraction, equivalence, as_json) -> None:
    """Check a file of training rows, pairs, answers or votes. Exit 1 where a rule is broken."""
    from expo.cli.tables import plural
    from expo.weak_to_strong.errors import DefectsFound
    from expo.weak_to_strong.validate import validate as check

    models = named(others, "--other")
    if models and weak is None:
        raise click.UsageError("--other needs --weak, the model that the file should come from.")
    found = check(path, weak=weak, others=models, extract=_extract(extraction), same=_same(equivalence))
    if as_json:
        told = found._asdict() | {"findings": [finding._asdict() for finding in found.findings]}
        click.echo(json.dumps(told, indent=1))
    else:
        _show_findings(found)
    if found.findings:
        broken = sum(finding.count for finding in found.findings)
        rules = f"{plural(len(found.findings), 'rule')} {'is' if len(found.findings) == 1 else 'are'} broken"
        raise DefectsFound(f"{path}: {rules}, {plural(broken, 'time')} in {plural(found.rows, 'row')}.")


# --- Shared by the commands ------------------------------------------------------------------------------------------


def _extract(name: str | None) -> Callable[[str], str] | None:
    if name is None:
        return None
    from expo.evaluate import extractor

    return extractor(name)


def _same(equivalence: str) -> Any:
    from expo.weak_to_strong.compare import Comparison

    return Comparison(equivalence)


def _show_findings(found: Any) -> None:
    from expo.cli.tables import plural, show_table

    click.echo(f"{plural(found.rows, 'row')} of {plural(found.ids, 'id')}: {found.kind}")
    if found.sides:
        click.echo(", ".join(f"{side}: {count:,}" for side, count in found.sides.items()))
    rows = [(one.rule, f"{one.count:,}", one.first, one.detail or one.meaning) for one in found.findings]
    if rows:
        show_table(("rule", "rows", "first", "meaning"), rows)
    else:
        click.echo("nothing wrong was found" + (" by the rules that were checked" if found.unchecked else ""))
    for rule, why in found.unchecked.items():
        click.echo(f"not checked: {rule} ({why})")
