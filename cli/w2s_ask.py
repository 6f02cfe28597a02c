"""expo w2s decompose | judge: the steps of a supervision study that may ask a model; on JSONL files of any origin."""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from expo.cli.options import JSON, QUIET
from expo.cli.w2s_files import BESIDE, keep, output_file, tell

FILE = click.Path(path_type=Path)
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace OUTPUT, once the new one is complete.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Check and count everything; ask no model, write nothing.")
TOKENIZER = click.option(
    "--tokenizer",
    metavar="NAME",
    help="Counts tokens: a tokenizer's folder or Hub id, `words` or `characters`. The paper's: bert-base-uncased.",
)

_ASKING = (
    click.option("--endpoint", metavar="URL", help="OpenAI-compatible server that knows MODEL; key: OPENAI_API_KEY."),
    click.option("--chat/--no-chat", default=None, help="Default: as a chat, unless a local model has no template."),
    click.option("--temperature", type=float, default=1.0, show_default=True, help="0 is greedy on the first attempt."),
    click.option("--max-tokens", type=click.IntRange(min=1), default=4096, show_default=True, help="Longest answer."),
    click.option(
        "--attempts", type=click.IntRange(min=1), default=3, show_default=True, help="Times a request is put."
    ),
    click.option(
        "--most-failed",
        type=float,
        default=0.2,
        show_default=True,
        metavar="SHARE",
        help="Share of requests that may stay without an answer of the right form.",
    ),
    click.option("--concurrency", type=click.IntRange(min=1), default=8, show_default=True, help="With --endpoint."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the answers."),
    click.option("--device", default="auto", show_default=True, help="Of a local model."),
    click.option(
        "--price-prompt", type=click.FloatRange(min=0), help="Of a million prompt tokens, as the server counts them."
    ),
    click.option("--price-answer", type=click.FloatRange(min=0), help="Of a million answer tokens."),
    click.option("--work", type=FILE, help="Folder of the model's answers. Default: OUTPUT.work."),
)


def _asking(command: Callable) -> Callable:
    """The options of a step that asks a model."""
    for option in reversed(_ASKING):
        command = option(command)
    return command


@click.command(short_help="Split hard tasks into 2 or 3 subtasks each, by a teacher model.")
@click.argument("tasks", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="JSONL of subtasks; appears whole or not at all.")
@click.option("--teacher", metavar="MODEL", help="Folder, Hub id, or the server's name. Without it: running sums only.")
@click.option(
    "--parts",
    type=click.Choice(["rule", "2", "3", "teacher"]),
    default="rule",
    show_default=True,
    help="Subtasks a task: by the length rule, a number, or the teacher's choice of 2 or 3.",
)
@click.option(
    "--lengths",
    type=(int, int, int),
    default=(400, 1000, 1600),
    show_default=True,
    metavar="SHORT TWO THREE",
    help="The length rule, in tokens of the solution: up to SHORT dropped, up to TWO two subtasks, up to THREE three, "
    "longer dropped.",
)
@TOKENIZER
@_asking
@OVERWRITE
@DRY_RUN
@JSON
@QUIET
def decompose(tasks: Path, output: Path, **options: Any) -> None:
    """Write subtasks of the hard TASKS (JSONL: id, prompt, completion, gold) to OUTPUT, each with its task's id.

    How many is decided by the length rule, unless --parts does; the rule drops tasks in any case. Without --teacher
    only running sums such as 31475= are cut, at their partial results, and lengths are in digits: --lengths 3 5 7.

    An answer that breaks the form is asked for again, at most --attempts times; what fails is counted by its fault. The
    same command continues after a kill, and pays for no answer twice.
    """
    from expo.weak_to_strong.supervision import decompose as step
    from expo.weak_to_strong.supervision.lengths import CHARACTERS, PUBLISHED, LengthRule, Prices, counter

    parts = {"rule": None, "teacher": step.FREE}.get(options["parts"], options["parts"])
    if options["parts"] == "teacher" and not options["teacher"]:
        raise click.UsageError("--parts teacher needs --teacher MODEL.")
    rule = LengthRule(*options["lengths"])
    count = counter(options["tokenizer"] or (PUBLISHED if options["teacher"] else CHARACTERS))
    prices = Prices(options["price_prompt"], options["price_answer"])
    how = {"parts": None if parts is None else int(parts), "rule": rule, "count": count, "prices": prices}
    dry_run = options["dry_run"]
    with output_file(output, options["overwrite"], dry_run, [tasks]) as place, _teacher(options, "teacher") as teacher:
        work = options["work"] or output.with_name(f"{output.name}.work")
        report = step.decompose(tasks, place, teacher=teacher, work=work, dry_run=dry_run, **how)
        keep(report, place.with_name(place.name + BESIDE))
    _say(report, options)


@click.command(short_help="Judge samples: outcomes by answer equivalence, steps by rule or by a model.")
@click.option(
    "--samples", multiple=True, required=True, metavar="[TEACHER=]FILE", help="JSONL: id, sample, response. Repeatable."
)
@click.option("--tasks", multiple=True, required=True, type=FILE, help="JSONL of tasks or subtasks. Repeatable.")
@click.option("-o", "--output", type=FILE, required=True, help="JSONL of judged samples.")
@click.option("--extraction", default="default", show_default=True, help="How final answers are found; see expo eval.")
@click.option("--equivalence", default="numeric", show_default=True, help="How they are compared; see expo eval.")
@click.option("--judge-seconds", type=click.FloatRange(min=0.001), help="Time for one comparison.")
@click.option("--most-empty", type=float, default=0.2, show_default=True, help="Share of samples that may be empty.")
@click.option(
    "--steps",
    type=click.Choice(["none", "running-sum", "model"]),
    help="Who judges steps: nobody, the embedded task's rule, or --judge. Default: model with --judge, else none.",
)
@click.option("--judge", "teacher", metavar="MODEL", help="Folder, Hub id, or the server's name of the judge of steps.")
@click.option("--split", type=click.Choice(["lines", "sentences"]), default="lines", show_default=True, help="A step.")
@click.option("--votes", type=int, default=1, show_default=True, help="Judgements a sample, an odd number.")
@click.option(
    "--most-disagreement",
    type=float,
    default=0.2,
    show_default=True,
    metavar="SHARE",
    help="Share of steps on which the votes may differ; beyond it the judge is refused.",
)
@TOKENIZER
@_asking
@OVERWRITE
@DRY_RUN
@JSON
@QUIET
def judge(samples: tuple[str, ...], tasks: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Write every sample with its verdicts to OUTPUT, and print outcome and step-wise error rates with intervals.

    The paper's step-wise error rates were annotated by people on 50 problems; these are a judge's.
    """
    from expo.weak_to_strong.supervision import judge as step
    from expo.weak_to_strong.supervision.lengths import Prices, counter
    from expo.weak_to_strong.supervision.votes import StepJudge, Votes

    files = _samples(samples)
    steps = options["steps"] or ("model" if options["teacher"] else step.NO_STEPS)
    if (steps == "model") != bool(options["teacher"]):
        raise click.UsageError("--steps model and --judge MODEL belong together.")
    seconds, dry_run = options["judge_seconds"], options["dry_run"]
    outcome = step.Outcome(options["extraction"], options["equivalence"], seconds, options["most_empty"])
    votes = Votes(options["votes"], options["most_disagreement"])
    how = {
        "split": options["split"],
        "count": counter(options["tokenizer"]) if options["tokenizer"] else None,
        "prices": Prices(options["price_prompt"], options["price_answer"]),
        "work": options["work"] or output.with_name(f"{output.name}.work"),
    }
    inputs = [*(files.values() if isinstance(files, dict) else files), *tasks]
    with output_file(output, options["overwrite"], dry_run, inputs) as place, _teacher(options, "judge") as teacher:
        by = StepJudge(teacher, votes, **how) if teacher else steps
        report = step.judge(files, tasks, place, outcome=outcome, steps=by, dry_run=dry_run)
        keep(report, place.with_name(place.name + BESIDE))
    _say(report, options)


# --- Shared by the commands ------------------------------------------------------------------------------------------


@contextmanager
def _teacher(options: dict[str, Any], title: str):
    """The model to ask, with its progress on stderr; None where none is named."""
    if not options["teacher"]:
        yield None
        return
    from expo.cli.asking import AnswerProgress, silence_transformers
    from expo.weak_to_strong.supervision.teacher import Teacher

    names = (
        "endpoint",
        "chat",
        "temperature",
        "max_tokens",
        "attempts",
        "most_failed",
        "concurrency",
        "seed",
        "device",
    )
    if not (options["endpoint"] or options["dry_run"]):
        silence_transformers()
    with AnswerProgress(title=f"{title}: ", quiet=options["quiet"] or options["as_json"]) as progress:
        yield Teacher(options["teacher"], progress=progress, **{name: options[name] for name in names})


def _samples(texts: tuple[str, ...]) -> dict[str, Path] | list[Path]:
    """TEACHER=FILE texts as a mapping, plain FILEs as a list."""
    pairs = [("", text) if Path(text).exists() or "=" not in text else text.split("=", 1) for text in texts]
    names = [name for name, _ in pairs]
    if not any(names):
        return [Path(path) for _, path in pairs]
    if not all(names) or len(set(names)) < len(names):
        raise click.UsageError(
            "--samples: name every teacher once, as in --samples gpt=a.jsonl --samples llama=b.jsonl."
        )
    return {name: Path(path) for name, path in pairs}


def _say(report: dict[str, Any], options: dict[str, Any]) -> None:
    if options["as_json"] or not options["quiet"]:
        tell(report, options["as_json"])
