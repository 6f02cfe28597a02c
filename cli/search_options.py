"""The many options of `expo search`: what varies, what is scored, and how answers are generated."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from expo.cli.asking import asking
from expo.cli.merge import SET
from expo.cli.options import DRY_RUN, OVERWRITE, PLUGIN, output
from expo.recipe import CHOICES

_FILE = click.Path(path_type=Path, dir_okay=False)
# Of `expo generate`, those that concern its model, its server or its seed; all others are search's too.
_OTHERS = ("seed", "endpoint", "concurrency", "device", "dtype")
OF_METRICS = (
    "extraction", "equivalence", "judge_seconds", "gold_field", "demos", "chat", "template", "long_prompts",
    "batch_tokens", "reward_dtype", "num_fewshot", "include_path", "batch_size",
)  # fmt: skip

_VARYING = [
    click.option("--sft", "--base", "sft", help="Where the alignment started: folder, file or Hub id."),
    click.option("--dpo", "--aligned", "dpo", help="Where it ended; alpha 0 is this model as it is."),
    click.option(
        "--arithmetic",
        type=click.Choice(CHOICES["arithmetic"]),
        help="Reference repeats the ExPO authors' three bfloat16 roundings.",
    ),
    click.option(
        "--alphas",
        metavar="VALUES",
        help="START:STOP:STEP, a list, or a range START:STOP for a sampler. Default: 0.1:1.0:0.1.",
    ),
    click.option(
        "--bracket",
        is_flag=True,
        help="Double alpha from 0.1 until the score falls, then golden section; with --vary from START up to LIMIT.",
    ),
    click.option(
        "--vary",
        multiple=True,
        metavar="PATH=VALUES",
        help="What varies in RECIPE, by the paths of --set: parameters.weight=0:1:0.1. Repeatable.",
    ),
    SET,
    PLUGIN,
    click.option(
        "--sampler",
        type=click.Choice(["grid", "tpe", "cmaes"]),
        help="tpe and cmaes draw --trials points from any number of dimensions (Optuna). Default: every combination.",
    ),
    click.option("--trials", type=click.IntRange(min=1), help="Most tries of --sampler (default 20) or --bracket."),
    click.option(
        "--budget",
        type=click.IntRange(min=1),
        metavar="N",
        help="Score N examples in all, by successive halving: few for every value, more for the better ones.",
    ),
]
_METRIC = [
    click.option(
        "--metric",
        required=True,
        metavar="METRIC",
        help="accuracy, loss, margin, reward:MODEL, lm-eval:TASK or my_module:function.",
    ),
    click.option("--data", "--prompts", "data", type=_FILE, help="JSONL of the examples that are chosen on."),
    click.option("--test", type=_FILE, help="JSONL of other examples, for a figure that was not chosen on."),
    click.option("--extraction", help="How an answer is found in a response, as in `expo eval`."),
    click.option("--equivalence", help="When two answers are the same, as in `expo eval`."),
    click.option("--judge-seconds", type=click.FloatRange(min=0.001), help="Time for one comparison."),
    click.option("--gold-field", metavar="NAME", help="The field with the true answer."),
    click.option("--reward-dtype", metavar="TYPE", help="Type of the reward model's weights."),
    click.option("--num-fewshot", type=click.IntRange(min=0), help="Demonstrations of an lm-eval task."),
    click.option("--include-path", type=click.Path(path_type=Path, file_okay=False), help="More lm-eval tasks."),
    click.option("--batch-size", type=click.IntRange(min=1), help="Sequences of an lm-eval task at a time."),
]
_RUNNING = [
    output(required=False),
    OVERWRITE,
    click.option(
        "--report",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder for search.json, search.png and the tries, from which the same command continues. "
        "Default: OUTPUT.search, or expo-search without -o.",
    ),
    click.option("--resident", is_flag=True, help="Hold the inputs in memory instead of reading them for each try."),
    click.option("--device", default="auto", show_default=True, help="Where tries are scored: cpu, cuda or auto."),
    click.option(
        "--compute-dtype",
        metavar="TYPE",
        help="Type that the weights are held in while they are scored. Default: float32 on the CPU, which holds every "
        "narrower type's values as they are; elsewhere the output's.",
    ),
    DRY_RUN,
]


def searching(command: Callable) -> Callable:
    """All options of the command but those that say how a result is written."""
    for option in reversed([*_VARYING, *_METRIC, *_RUNNING]):
        command = option(command)
    command.__click_params__[:0] = _answers()
    return command


def _answers() -> list[click.Option]:
    """The options of `expo generate` that make sense here; what only some metrics take has no default."""

    @asking
    def bare() -> None: ...

    found = []
    for one in bare.__click_params__:
        if one.name in _OTHERS:
            continue
        option = copy.copy(one)
        if option.name in OF_METRICS:
            option.default, option.show_default = None, None
        found.append(option)
    return found


def sampling_from(options: dict[str, Any]):
    """The Sampling that the options ask for; they are taken out of `options`, those of metrics stay."""
    from expo.cli.asking import sampling_of

    template, seed = options["template"], options["seed"]
    options["template"], options["seed"] = template or "", seed or 0
    sampling = sampling_of(options)
    options["template"] = template.replace("\\n", "\n") if template else None
    return sampling
