"""expo generate: questions in, answers out."""

import json
from pathlib import Path
from typing import Any

import click

from expo.cli.asking import ENSEMBLE, AnswerProgress, asking, model_of, sampling_of, silence_transformers
from expo.cli.options import JSON, QUIET
from expo.cli.tables import plural
from expo.generate.run import FORMATS


@click.command(short_help="Let a model, local or behind an endpoint, answer questions.")
@click.option("--model", help="Folder or Hub id; with --endpoint the server's name of the model.")
@ENSEMBLE
@click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="JSONL of questions: id, and messages, prompt or question.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="JSONL of answers to write."
)
@asking
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="jsonl",
    show_default=True,
    help="alpaca_eval: also a list of instruction, output and generator, as alpaca_eval reads it.",
)
@click.option("--overwrite", is_flag=True, help="Forget what OUTPUT holds; without it the command continues.")
@click.option("--dry-run", is_flag=True, help="Check everything and say what would be asked; write nothing.")
@JSON
@QUIET
def generate(model: str | None, ensemble: str | None, data: Path, output: Path, **options: Any) -> None:
    """Write answers of MODEL, or of the experts of an ENSEMBLE, to the questions in DATA, to OUTPUT.

    A row for each question and sample. An ensemble draws from p(v) = sum of weight * p_expert(v) / sum of weights;
    temperature, top_p and top_k apply to that p.

    The same command continues after a kill. An answer is decided by the seed, the question's id and the sample's
    number, not by batch size or order (in float32; see --dtype).
    """
    as_json, quiet, dry_run = (options.pop(name) for name in ("as_json", "quiet", "dry_run"))
    model = model_of(model, ensemble, options["endpoint"])
    if model is None:
        raise click.UsageError("Who shall answer? Give --model MODEL or --ensemble EXPERTS.JSON.")
    sampling = sampling_of(options)
    silence_transformers()
    if dry_run:
        _show_plan(_plan(model, data, output, sampling, options), as_json, quiet)
        return
    from expo.generate import generate as run

    with AnswerProgress(quiet=quiet or as_json) as progress:
        report = run(model, data, output, sampling=sampling, progress=progress, **options)
    for warning in report.warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(report.record()))
    elif not quiet:
        record = report.record()
        rate = f", {record['tokens_per_second']:,.0f} tokens/s" if report.n_tokens else ""
        resumed = (
            f" ({report.n_resumed:,} {'was' if report.n_resumed == 1 else 'were'} there already)"
            if report.n_resumed
            else ""
        )
        click.echo(f"{_asked(report.n_answers, report.n_questions)}{resumed}{rate}: {output}")


def _plan(model: str, data: Path, output: Path, sampling: Any, options: dict[str, Any]) -> dict[str, Any]:
    """What would be asked; reads the tokenizer, not the weights."""
    from expo.generate.run import check_output, prepare
    from expo.generate.write import tasks_of

    check_output(output, options["form"], [data, options["demos"]])
    for name in ("overwrite", "batch_tokens", "concurrency"):
        options.pop(name)
    prepared = prepare(model, data, sampling=sampling, **options)
    plan = {"questions": len(prepared.questions), "answers": len(prepared.questions) * sampling.samples}
    plan |= {"output": str(output), "settings": prepared.settings}
    if prepared.local:
        asked = [(question, 0) for question in prepared.questions]
        policy = prepared.long_prompts
        tasks, skipped = tasks_of(asked, prepared.answerer, prepared.demos, sampling, policy)
        lengths = [len(task.tokens) for task in tasks]
        plan |= {"longest_prompt": max(lengths, default=0), "window": prepared.answerer.context}
        plan |= {"too_long": len(skipped)}
    return plan


def _show_plan(plan: dict[str, Any], as_json: bool, quiet: bool) -> None:
    if as_json:
        click.echo(json.dumps(plan))
        return
    if quiet:
        return
    click.echo(f"{_asked(plan['answers'], plan['questions'])} would go to {plan['output']}")
    if "longest_prompt" in plan:
        longest, window = plural(plan["longest_prompt"], "token"), plan["window"] or "unknown"
        click.echo(f"longest prompt: {longest}; the model's window: {window}")
        if plan["too_long"]:
            click.echo(f"{plural(plan['too_long'], 'prompt')} too long, to be answered with nothing")


def _asked(answers: int, questions: int) -> str:
    return f"{plural(answers, 'answer')} to {plural(questions, 'question')}"
