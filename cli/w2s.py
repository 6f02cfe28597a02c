"""expo w2s: weak-to-strong pipelines, their single steps on JSONL files, and their data sets."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from expo.cli.options import JSON
from expo.cli.w2s_run import named, reasoning

FILE = click.Path(path_type=Path)
_NAMES = ("weak", "icl", "hybrid", "train_1", "train_2", "test", "report")
_OURS = {f"{name}{suffix}" for name in _NAMES for suffix in (".json", ".jsonl")}
OUTPUT = click.option("-o", "--output", type=FILE, required=True, help="What to write; appears whole or not at all.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace OUTPUT, once the new one is complete.")
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


w2s.add_command(reasoning)


@w2s.command(short_help="Keep the questions on which weak and strong model agree.")
@click.option("--weak", type=FILE, required=True, help="The weak model's answers: id, prompt, response, pred.")
@click.option("--icl", type=FILE, help="The strong model's own. Without it: all weak answers, for naive training.")
@click.option("--ids", type=FILE, help="Without --icl: only the ids of this file's rows.")
@click.option("--format", "form", type=click.Choice(["jsonl", "json"]), default="jsonl", show_default=True)
@OUTPUT
@OVERWRITE
@MODE
@EXTRACTION
@EQUIVALENCE
@JSON
def select(weak, icl, ids, form, output, overwrite, mode, extraction, equivalence, as_json) -> None:
    """Write training sets: weak, icl and hybrid into the folder OUTPUT, or without --icl all weak answers to OUTPUT."""
    from expo.weak_to_strong import select as step
    from expo.weak_to_strong.answers import identity
    from expo.weak_to_strong.keyed import read_json
    from expo.weak_to_strong.modes import Mode

    extract = _extract(extraction)
    if icl is None:
        _check_output(output, overwrite)
        wanted = dict.fromkeys(read_json(ids, identity)) if ids else None
        report = step.full_weak(weak, output, ids=wanted, extract=extract)
        _beside(report, output, as_json)
        return
    if ids:
        raise click.UsageError("--ids goes without --icl: agreement decides which ids are kept.")
    with _folder(output, overwrite) as folder:
        same = _same(equivalence)
        report = step.select(weak, icl, folder, mode=Mode(mode), same=same, extract=extract, suffix=f".{form}")
        _keep(report, folder / "report.json")
    _tell(report, output / "report.json", as_json)


@w2s.command(short_help="Find the most frequent final answer of each question's samples.")
@click.argument("samples", nargs=-1, required=True, type=FILE)
@OUTPUT
@OVERWRITE
@MODE
@EXTRACTION
@EQUIVALENCE
@JSON
def vote(samples, output, overwrite, mode, extraction, equivalence, as_json) -> None:
    """Write one vote a question to OUTPUT.

    SAMPLES is one file a seed, or one file whose rows have a field `sample`.
    """
    from expo.weak_to_strong.modes import Mode
    from expo.weak_to_strong.vote import vote_files

    _check_output(output, overwrite)
    same, extract = _same(equivalence), _extract(extraction)
    report = vote_files(samples, output, mode=Mode(mode), same=same, extract=extract)
    _beside(report, output, as_json)


@w2s.command(short_help="Make pairs of a better and a worse response, one of them the weak model's.")
@click.option("--weak", type=FILE, required=True, help="The weak model's answers: id, prompt, response, pred.")
@click.option("--votes", type=FILE, required=True, help="What `expo w2s vote` wrote for the same questions.")
@click.option(
    "--agree", default=0.6, show_default=True, help="Least confidence of a majority on the weak model's side."
)
@click.option("--disagree", default=0.8, show_default=True, help="And of one against it.")
@click.option("--most", default=1, show_default=True, help="Pairs a question; the paper has 1 for GSM8K, 3 for MATH.")
@click.option("--seed", default=42, show_default=True, help="Of the draws.")
@OUTPUT
@OVERWRITE
@MODE
@EXTRACTION
@EQUIVALENCE
@JSON
def pairs(weak, votes, agree, disagree, most, seed, output, overwrite, mode, extraction, equivalence, as_json) -> None:
    """Write preference pairs to OUTPUT (.jsonl, or .json for one array)."""
    from expo.weak_to_strong.modes import Mode
    from expo.weak_to_strong.pairs import Rule, pair_files

    _check_output(output, overwrite)
    rule = Rule(agree, disagree, most, seed, Mode(mode))
    report = pair_files(weak, votes, output, rule, same=_same(equivalence), extract=_extract(extraction))
    _beside(report, output, as_json)


@w2s.command(short_help="Write the questions of a data set as the pipelines read them.")
@click.argument("name", type=click.Choice(["gsm8k", "math", "olympicarena"]))
@click.option(
    "--raw", type=FILE, help="Folder with the authors' train_1, train_2 and test (.jsonl), instead of the Hub."
)
@OUTPUT
@OVERWRITE
@JSON
def data(name, raw, output, overwrite, as_json) -> None:
    """Write train_1, train_2 and test (.jsonl: id, prompt, completion, gold) of NAME into the folder OUTPUT."""
    from expo.weak_to_strong.questions import DATA_SETS

    if raw and name == "olympicarena":
        raise click.UsageError(
            "olympicarena is read from the Hub only: its raw files are not in the authors' repository."
        )
    with _folder(output, overwrite) as folder:
        report = DATA_SETS[name](folder, raw=raw)
        _keep(report, folder / "report.json")
    _tell(report, output / "report.json", as_json)


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
        raise DefectsFound(f"{path}: {len(found.findings)} rules are broken, {broken:,} times in {found.rows:,} rows.")


# --- Shared by the commands ------------------------------------------------------------------------------------------


def _extract(name: str | None) -> Callable[[str], str] | None:
    if name is None:
        return None
    from expo.evaluate import extractor

    return extractor(name)


def _same(equivalence: str) -> Any:
    from expo.weak_to_strong.compare import Comparison

    return Comparison(equivalence)


def _check_output(output: Path, overwrite: bool) -> None:
    from expo.errors import OutputError

    if output.exists() and not overwrite:
        raise OutputError(f"{output} exists. To replace it when the new one is complete: --overwrite.")


@contextlib.contextmanager
def _folder(output: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to fill, which becomes OUTPUT once everything in it is written."""
    from expo.errors import OutputError

    _check_output(output, overwrite)
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file, and a folder is to be written. Choose another output.")
    strangers = [path.name for path in output.iterdir() if path.name not in _OURS] if output.exists() else []
    if strangers:
        problem = (
            f"{output} holds {strangers[0]!r}, which is no file of this command, so --overwrite does not replace it."
        )
        raise OutputError(f"{problem} Choose another output.")
    partial, old = (output.with_name(f".{output.name}.{os.getpid()}.{word}") for word in ("partial", "old"))
    try:
        yield partial
        if output.exists():
            os.rename(output, old)
        os.rename(partial, output)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _keep(report: Mapping[str, Any], path: Path) -> None:
    from expo.weak_to_strong.keyed import write_text

    write_text(path, json.dumps(report, indent=1) + "\n")


def _beside(report: Mapping[str, Any], output: Path, as_json: bool) -> None:
    """Keep the report beside the file OUTPUT, and print it."""
    path = output.with_name(output.name + ".report.json")
    _keep(report, path)
    _tell(report, path, as_json)


def _tell(report: Mapping[str, Any], path: Path, as_json: bool) -> None:
    """Print the report that lies at `path`."""
    from expo.cli.tables import show_facts

    if as_json:
        click.echo(json.dumps(report, indent=1))
        return
    show_facts((word, _text(value)) for word, value in report.items())
    click.echo(f"report: {path}")


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{word} {_text(held)}" for word, held in value.items())
    if isinstance(value, list):
        return "; ".join(map(_text, value)) or "nothing"
    return "unknown" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _show_findings(found: Any) -> None:
    from expo.cli.tables import show_table

    click.echo(f"{found.rows:,} rows of {found.ids:,} ids: {found.kind}")
    if found.sides:
        click.echo(", ".join(f"{side}: {count:,}" for side, count in found.sides.items()))
    rows = [(one.rule, f"{one.count:,}", one.first, one.detail or one.meaning) for one in found.findings]
    if rows:
        show_table(("rule", "rows", "first", "meaning"), rows)
    else:
        click.echo("nothing wrong was found")
