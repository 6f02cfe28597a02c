"""Where the commands of `expo w2s` write: a file or a folder that appears whole, and the report about it."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from expo.errors import OutputError
from expo.rows import check_inputs

BESIDE = ".report.json"  # appended to the name of the file that a report is about
_NAMES = ("weak", "icl", "hybrid", "train", "train_1", "train_2", "test", "report")
_OURS = {f"{name}{suffix}" for name in _NAMES for suffix in (".json", ".jsonl")}


def _check_output(output: Path, overwrite: bool) -> None:
    if output.exists() and not overwrite:
        raise OutputError(f"{output} exists. To replace it when the new one is complete: --overwrite.")


@contextlib.contextmanager
def output_file(output: Path, overwrite: bool, dry_run: bool, inputs: Sequence[Path | None]) -> Iterator[Path]:
    """The file to write: OUTPUT, or one that is gone afterwards."""
    check_inputs(output, inputs)
    check_inputs(output.with_name(output.name + BESIDE), inputs)
    with _scratch(output, dry_run) as place:
        if not dry_run:
            _check_output(output, overwrite)
        yield place


@contextlib.contextmanager
def output_folder(
    output: Path,
    overwrite: bool,
    dry_run: bool,
    inputs: Sequence[Path | None],
    ours: Callable[[str], object] = _OURS.__contains__,
) -> Iterator[Path]:
    """A folder to fill, which becomes OUTPUT once everything in it is written. ours: whether a file may be replaced."""
    check_inputs(output, inputs)
    if dry_run:
        with _scratch(output, dry_run) as place:
            yield place
        return
    _check_output(output, overwrite)
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file, and a folder is to be written. Choose another output.")
    strangers = [path.name for path in output.iterdir() if not ours(path.name)] if output.exists() else []
    if strangers:
        raise OutputError(
            f"{output} holds {strangers[0]!r}, which is no file of this command, and is not replaced. "
            "Choose another output."
        )
    partial, old = (output.with_name(f".{output.name}.{os.getpid()}.{word}") for word in ("partial", "old"))
    try:
        yield partial
        if output.exists():
            os.rename(output, old)
        os.rename(partial, output)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _scratch(output: Path, dry_run: bool) -> Iterator[Path]:
    """OUTPUT itself, or for a dry run a path of the same name that does not last."""
    if not dry_run:
        yield output
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / output.name


def keep(report: Mapping[str, Any], path: Path) -> None:
    """Write a report as JSON."""
    from expo.weak_to_strong.keyed import write_text

    write_text(path, json.dumps(report, indent=1) + "\n")


def tell(report: Mapping[str, Any], as_json: bool) -> None:
    """Print a report."""
    from expo.cli.tables import show_facts

    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        show_facts((word, _text(value)) for word, value in report.items())


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{word} {_text(held)}" for word, held in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(_text, value)) or "nothing"
    return "unknown" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
