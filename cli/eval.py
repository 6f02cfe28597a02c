"""expo eval: how often models are right, how sure that is, and how they differ."""

import json
from pathlib import Path
from typing import Any

import click

from expo.cli.asking import ENSEMBLE, AnswerProgress, asking, model_of, sampling_of
from expo.cli.options import JSON, QUIET
from expo.cli.tables import plural, show_table


@click.command(name="eval", short_help="Accuracy, pass@k and paired differences on questions with answers.")
@click.option("--model", help="Folder or Hub id; with --endpoint the server's name of the model.")
@ENSEMBLE
@click.option("--compare", multiple=True, metavar="MODEL", help="Another model, on the same questions. Repeatable.")
@click.option(
    "--answers",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file of answers instead of a model, such as `expo generate` writes. Repeatable.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="JSONL of questions with their true answers (gold, answer, solution or completion).",
)
@click.option("--gold-field", metavar="NAME", help="The field with the true answer.")
@click.option(
    "--extraction",
    default="default",
    show_default=True,
    help="How an answer is found in a response: default, 'published:####', 'published:The answer is:', whole or "
    "regex:PATTERN.",
)
@click.option(
    "--equivalence",
    default="numeric",
    show_default=True,
    help="When two answers are the same: string, numeric, math-verify, or a command that judges (JSONL in, JSONL out). "
    "numeric reads 1e3 as 1000; math-verify reads LaTeX, in which 1e3 is 1 times e times 3.",
)
@click.option(
    "--judge-seconds",
    type=click.FloatRange(min=0.001),
    default=10.0,
    show_default=True,
    help="Time for one comparison, with math-verify or a command; a command gets at least 60 s for a batch.",
)
@click.option("--k", "ks", type=int, multiple=True, help="pass@K to show. Repeatable. Default: 1, 2, 5, ..., samples.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to keep answers, grades and report.json in; a second run continues it.",
)
@asking
@click.option("--dry-run", is_flag=True, help="Check everything short of loading a model, and say what would be done.")
@JSON
@QUIET
def eval(model: str | None, ensemble: str | None, compare: tuple[str, ...], data: Path, **options: Any) -> None:
    """Print how often MODEL, an ENSEMBLE, or a file of answers, is right on DATA, with 95 % intervals.

    With several of them, also how each differs from the first, question by question. Models are asked greedily
    unless --samples or --temperature say otherwise.
    """
    model = model_of(model, ensemble, options["endpoint"])
    if compare and model is None and not options["answers"]:
        raise click.UsageError("--compare needs something to compare with: --model, --ensemble or --answers.")
    as_json, quiet, dry_run = (options.pop(name) for name in ("as_json", "quiet", "dry_run"))
    options |= {"models": [model] if model else [], "compare": compare}
    options |= {"seconds": options.pop("judge_seconds"), "ks": options["ks"] or None}
    sampling = sampling_of(options)
    if dry_run:
        _dry_run(data, options, sampling, as_json, quiet)
        return
    record = _evaluate(data, options, sampling, quiet or as_json)
    for warning in record["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(record))
    elif not quiet:
        _show(record)


def _evaluate(data: Path, options: dict[str, Any], sampling: Any, quiet: bool) -> dict[str, Any]:
    from contextlib import ExitStack

    from expo.evaluate import evaluate

    if options["models"] or options["compare"]:
        from expo.cli.asking import silence_transformers

        silence_transformers()
    with ExitStack() as stack:

        def progress(name: str) -> AnswerProgress:
            return stack.enter_context(AnswerProgress(title=f"{name}: ", quiet=quiet))

        return evaluate(data, sampling=sampling, progress=progress, **options)


def _dry_run(data: Path, options: dict[str, Any], sampling: Any, as_json: bool, quiet: bool) -> None:
    from expo.evaluate.run import check

    names = ("extraction", "equivalence", "seconds", "gold_field")
    models = [*options["models"], *options["compare"]]
    references = check(data, models, options["answers"], *(options[name] for name in names))
    n_answers = len(references) * sampling.samples
    plan = {
        "questions": len(references),
        "models": models,
        "answers_for_each": n_answers,
        "settings": sampling.record(),
    }
    if as_json:
        click.echo(json.dumps(plan))
    elif not quiet:
        for name in models:
            click.echo(f"{name} would write {plural(n_answers, 'answer')} to {plural(len(references), 'question')}")
        for path in options["answers"]:
            click.echo(f"{path} would be graded on {plural(len(references), 'question')}")


def _show(record: dict[str, Any]) -> None:
    rows = []
    for name, found in record["models"].items():
        rows.append((name, "accuracy", *_figures(found["accuracy"])))
        rows += [(name, f"pass@{k}", *_figures(rate)) for k, rate in found["pass_at"].items() if k != "1"]
    show_table(("model", "", "value", "95 % interval", "questions"), rows, left=2)
    for name, found in record["models"].items():
        if found["empty"]:
            n = found["n"] * found["samples"]
            click.echo(f"{name}: no answer found in {found['empty']:,} of {n:,} responses; they count as wrong")
    for found in record["differences"]:
        low, high = found["interval"]
        sure = "distinguishable from 0" if low > 0 or high < 0 else "not distinguishable from 0"
        click.echo(
            f"\n{found['to']} - {found['from']}: {100 * found['value']:+.1f} points on the same {found['n']:,} "
            f"questions, 95 % interval {100 * low:+.1f} to {100 * high:+.1f} ({found['method']}): {sure}\n"
            f"  better on {found['won']:,} questions, worse on {found['lost']:,}; exact sign test p = "
            f"{found['p_value']:.2g}"
        )
    first = next(iter(record["models"].values()))
    click.echo(f"\nextraction {first['extraction']}, equivalence {first['equivalence']}; intervals of shares: Wilson")


def _figures(found: dict[str, Any]) -> tuple[str, str, str]:
    low, high = found["interval"]
    return f"{found['value']:.1%}", f"{low:.1%} to {high:.1%}", f"{found['n']:,}"
