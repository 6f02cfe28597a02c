"""Options of the commands that ask a model, and the progress of its answers."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
from click.core import ParameterSource

from expo.cli.progress import is_terminal
from expo.generate.prompts import TEMPLATE
from expo.generate.sampling import LONG_PROMPTS, PRESETS

_EVERY = 10.0  # seconds between plain lines

_ASKING = [
    click.option("--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Answers a question."),
    click.option(
        "--temperature", type=float, help="0 is greedy. Default: 0 for one sample, 1 for several.", metavar="T"
    ),
    click.option("--greedy", is_flag=True, help="The same as --temperature 0."),
    click.option(
        "--top-p", type=float, default=1.0, show_default=True, help="Draw from the tokens that hold this much."
    ),
    click.option("--top-k", type=int, default=0, show_default=True, help="Draw from this many tokens; 0: from all."),
    click.option(
        "--presence-penalty",
        type=float,
        default=0.0,
        show_default=True,
        help="Taken from the logit of each token that the answer holds already.",
    ),
    click.option(
        "--frequency-penalty",
        type=float,
        default=0.0,
        show_default=True,
        help="The same, for each time that it holds it.",
    ),
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        help="Defaults for the options of sampling. expo-paper: what the authors of ExPO generated with (T 0.7, top-k "
        "50, top-p 0.9, both penalties 0.1, 2048 tokens, seed 42).",
    ),
    click.option("--max-tokens", type=int, default=512, show_default=True, help="The longest answer."),
    click.option(
        "--min-tokens", type=int, default=0, show_default=True, help="No end token before so many tokens are written."
    ),
    click.option("--stop", multiple=True, metavar="TEXT", help="End an answer before this text. Repeatable."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the draws; each answer's own follows."),
    click.option(
        "--demos",
        type=click.Path(path_type=Path, dir_okay=False),
        help="JSONL of questions with responses to show before each question.",
    ),
    click.option(
        "--chat/--no-chat",
        default=None,
        help="Ask every row as a chat, or none. Default: rows with messages are asked as a chat.",
    ),
    click.option(
        "--template", default=TEMPLATE.replace("\n", "\\n"), show_default=True, help="For rows with `question`."
    ),
    click.option(
        "--long-prompts",
        type=click.Choice(LONG_PROMPTS),
        default="error",
        show_default=True,
        help="Prompts longer than the model's window: stop, answer with nothing, or cut their beginning.",
    ),
    click.option(
        "--endpoint",
        metavar="URL",
        help="OpenAI-compatible server to ask; --model is its name there, the key is read from OPENAI_API_KEY.",
    ),
    click.option(
        "--concurrency",
        type=click.IntRange(min=1),
        default=8,
        show_default=True,
        help="Requests under way at a time, with --endpoint.",
    ),
    click.option(
        "--batch-tokens",
        type=click.IntRange(min=1),
        help="Tokens of prompts and answers in memory at a time. Default: what the device has room for.",
    ),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="cpu, cuda, cuda:1 or auto; with --ensemble also one for each expert, with commas.",
    ),
    click.option(
        "--dtype",
        help="Of the weights while they run. Default: float32 on the CPU, else the checkpoint's own. With 16 bits some "
        "answers depend on the batch size; with float32 they do not.",
    ),
    click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model."),
]


ENSEMBLE = click.option(
    "--ensemble",
    type=click.Path(dir_okay=False),
    metavar="EXPERTS.JSON",
    help="Models that answer as one instead of MODEL: at each token their probabilities are added, by weight.",
)


def asking(command: Callable) -> Callable:
    """The options of every command that asks a model."""
    for option in reversed(_ASKING):
        command = option(command)
    return command


def sampling_of(options: dict[str, Any]):
    """The Sampling that these options ask for; they are taken out of `options`."""
    from expo.generate.sampling import Sampling

    _fill_in(options, options.pop("preset"))
    temperature, greedy, samples = options.pop("temperature"), options.pop("greedy"), options.pop("samples")
    if greedy and temperature:
        raise click.UsageError("--greedy is --temperature 0; give one of them.")
    if temperature is None:
        temperature = 0.0 if greedy or samples == 1 else 1.0
    options["template"] = options["template"].replace("\\n", "\n")
    names = ("top_p", "top_k", "max_tokens", "min_tokens", "stop", "seed", "presence_penalty", "frequency_penalty")
    return Sampling(samples=samples, temperature=temperature, **{name: options.pop(name) for name in names})


def _fill_in(options: dict[str, Any], preset: str | None) -> None:
    """The preset's values for all that the command line does not say."""
    context = click.get_current_context()
    for name, value in PRESETS[preset].items() if preset else ():
        if context.get_parameter_source(name) is ParameterSource.DEFAULT and not (
            name == "temperature" and options["greedy"]
        ):
            options[name] = value


def model_of(model: str | None, ensemble: str | None, endpoint: str | None) -> str | None:
    """Who is asked: MODEL or the file of an ensemble, never both."""
    if ensemble is None:
        return model
    if model is not None:
        raise click.UsageError("--model and --ensemble exclude each other.")
    if endpoint:
        raise click.UsageError("--ensemble mixes probabilities, which a server does not tell; leave out --endpoint.")
    if not ensemble.endswith(".json"):
        raise click.UsageError(f"--ensemble takes a .json file that lists experts, not {ensemble!r}.")
    return ensemble


def silence_transformers() -> None:
    """Its own bars for loading would break ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


class AnswerProgress:
    """Counts answers and tokens on stderr: a bar on a terminal, a line now and then elsewhere, nothing when quiet."""

    def __init__(self, *, title: str = "", quiet: bool = False):
        self.title, self.quiet = title, quiet
        self.tokens = 0
        self.began = self.last = time.monotonic()
        self.bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def __call__(self, done: int, total: int, tokens: int) -> None:
        now = time.monotonic()
        if not self.tokens:
            self.began = now if not tokens else self.began
        self.tokens += tokens
        if self.quiet or sys.stderr is None:
            return
        rate = f"{self.tokens / max(1e-9, now - self.began):,.0f} tokens/s" if self.tokens else ""
        if is_terminal(sys.stderr):
            self.bar = self.bar or self._start(total)
            self.bar.update(0, completed=done, rate=rate)
        elif now - self.last >= _EVERY:
            self.last = now
            print(f"{self.title}{done:,} of {total:,} answers  {rate}", file=sys.stderr, flush=True)

    def _start(self, total: int) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn(self.title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        bar.add_task("", total=total, rate="")
        bar.start()
        return bar
