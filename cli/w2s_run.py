"""expo w2s reasoning: a whole weak-to-strong pipeline from one run file; and what all pipelines' commands share."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from expo.cli.options import JSON, QUIET

_OPTIONS = (
    click.argument("run_file", metavar="RUN.yaml", required=False),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        help="Folder of the stages and the report. Default: runs/NAME.",
    ),
    click.option("--from", "from_", metavar="STAGE", help="Make this stage, and all that depends on it, anew."),
    click.option(
        "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting of RUN.yaml. Repeatable."
    ),
    click.option("--list", "listed", is_flag=True, help="List the run files that come with expo."),
    click.option("--show", is_flag=True, help="Print RUN.yaml, to be copied and changed."),
    click.option("--dry-run", is_flag=True, help="Print which stages would run, and why; run none."),
    JSON,
    QUIET,
)


def pipeline_options(command: Callable) -> Callable:
    """The options of every command that runs a pipeline from a run file."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command(short_help="Run a whole pipeline; stages that are done are passed over.")
@pipeline_options
def reasoning(**options: Any) -> None:
    """Weak-to-Strong Reasoning (arXiv:2407.13647), from weak labels to preference training and extrapolation.

    RUN.yaml is a file, or the name of one that comes with expo (--list). A killed run continues when the same command
    is repeated. A stage whose inputs and settings are unchanged is passed over.
    """
    from expo.weak_to_strong.reasoning import build, check
    from expo.weak_to_strong.runfile import RunFile

    drive(RunFile, build, check, lambda facts: _show_tables(facts["tables"]), **options)


def drive(
    kind: type,
    build: Callable,
    check: Callable,
    show_facts: Callable[[Mapping], object],
    *,
    run_file: str | None,
    output: Path | None,
    from_: str | None,
    changes: tuple[str, ...],
    listed: bool,
    show: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """What a pipeline's command does with its options. kind: of run file; show_facts: prints the last stage's facts."""
    from expo.weak_to_strong.runfile import load_run, shipped
    from expo.weak_to_strong.stages import plan_stages

    if listed:
        for name, path in shipped(kind).items():
            click.echo(f"{name}: {path.read_text().splitlines()[0].lstrip('# ')}")
        return
    if run_file is None:
        raise click.UsageError("RUN.yaml is missing; --list shows the run files that come with expo.")
    run = load_run(run_file, named(changes, "--set"), kind)
    if show:
        path = Path(run_file)
        click.echo((path if path.is_file() else shipped(kind)[run_file]).read_text(), nl=False)
        return
    stages, output = build(run), output or Path("runs") / run.name
    check(run)
    if dry_run:
        show_plan(plan_stages(stages, output, from_=from_), as_json)
        return
    facts = run_all(run, stages, output, from_, quiet)
    report = output / "report"
    if as_json:
        click.echo((report / "report.json").read_text(), nl=False)
    elif not quiet:
        show_facts(facts)
        click.echo(f"\nwrote {report / 'report.md'}, report.json and {len(facts['figures'])} figures")


def run_all(run: Any, stages: Sequence[Any], output: Path, from_: str | None, quiet: bool) -> Mapping[str, Any]:
    """Run the stages, telling on stderr what is made; the facts of the last one."""
    from expo.weak_to_strong.stages import run_stages

    say = (lambda text: None) if quiet else (lambda text: click.echo(text, err=True))
    with using_torch(run.threads):
        return run_stages(stages, output, from_=from_, say=say)[-1].facts


def named(given: tuple[str, ...], option: str) -> dict[str, str]:
    """NAME=VALUE texts of a repeatable option, as a dictionary."""
    found = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise click.UsageError(f"{option} {text!r}: NAME=VALUE is expected.")
        found[name] = value
    return found


@contextlib.contextmanager
def using_torch(threads: int | None) -> Iterator[None]:
    """torch with that many threads; transformers without its bars, as one for each model would bury our lines."""
    import torch
    from transformers.utils import logging

    before = torch.get_num_threads()
    logging.disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        logging.enable_progress_bar()


def show_plan(outcomes: list, as_json: bool) -> None:
    """Print which stages would run, and why."""
    from expo.cli.tables import show_table

    if as_json:
        click.echo(json.dumps([{"stage": one.stage, "done": one.done, "why": one.why} for one in outcomes], indent=1))
        return
    show_table(("stage", "would run"), [(one.stage, one.why or "no: done before") for one in outcomes], left=2)


def _show_tables(tables: Mapping[str, list]) -> None:
    from expo.cli.tables import show_table
    from expo.weak_to_strong.report import cells

    headings = ("model", "accuracy", "95 % interval", "n", "against naive", "PGR")
    for at, rows in tables.items():
        click.echo(f"\n{at}")
        show_table(headings, [cells(row) for row in rows])
