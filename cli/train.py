"""expo train sft | dpo | classify: the checkpoints that extrapolation takes."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from expo.cli.options import JSON, QUIET
from expo.cli.train_said import closing, plan
from expo.train.errors import BadSetting
from expo.train.settings import ClassifySettings, DpoSettings, LoraSettings, SftSettings, TrainSettings

_HELP = {
    "learning_rate": "Peak learning rate.",
    "epochs": "Passes over the data.",
    "max_steps": "Optimizer steps, instead of epochs.",
    "batch_size": "Rows (or pairs) a process takes at a time.",
    "accumulation": "Batches before a step.",
    "max_length": "Tokens of prompt and completion. Default: the model's context.",
    "too_long": "Longer rows: stop, leave them out, or cut completions at the end; prompts are never cut.",
    "bad_rows": "Empty completions, pairs of equal sides: stop, or leave them out and count them.",
    "chat": "Render plain prompts with the chat template, as messages always are.",
    "split": "Of a `datasets` id.",
    "seed": "Of the order of rows, new weights and dropout.",
    "schedule": "Of the learning rate, after the warm-up.",
    "warmup": "Below 1 a share of all steps, else steps.",
    "weight_decay": "AdamW's.",
    "max_grad_norm": "Clip longer gradients; 0: never.",
    "optimizer": "Any `optim` of transformers, such as adafactor or paged_adamw_8bit.",
    "precision": "Of the arithmetic; weights are float32 either way.",
    "save_dtype": "Type of the weights that are written.",
    "shard_size": "Largest file.",
    "activation_checkpointing": "Compute activations twice to keep fewer of them.",
    "quantization": "Keep the frozen base in 4 bits; needs --lora-rank and bitsandbytes.",
    "attention": "transformers' attn_implementation, such as sdpa or flash_attention_2.",
    "trust_remote_code": "Run code that comes with the model.",
    "device": "auto takes a GPU where there is one.",
    "save_every": "Steps between checkpoints that a killed run goes on from; 0: none.",
    "log_every": "Steps between lines of metrics.",
    "report_to": "tensorboard, trackio, wandb, ... Repeatable.",
    "end_token": "Teach the end token after a plain completion.",
    "loss": "Sigmoid is DPO's own.",
    "beta": "DPO's and ORPO's beta, IPO's tau.",
    "label_smoothing": "cDPO: the share of pairs labelled the wrong way round.",
    "orpo_prompt_loss": "ORPO's likelihood term over the prompt too, as TRL has it.",
    "reference_cache": "Folder for reference log-probabilities. Default: ~/.cache/expo/reference.",
    "labels": "Names of the classes in their order, with commas. Default: as found in the data.",
}
_NAMES = {"learning_rate": ("--lr", "--learning-rate"), "save_dtype": ("--dtype", "--save-dtype")}
_LORA = {
    "rank": "Train adapters of this rank (LoRA) instead of all weights.",
    "alpha": "Default: twice the rank.",
    "dropout": "Of the adapters' input.",
    "targets": "Names of linear layers, with commas. Default: all but the head.",
}


_GRACE = 10.0  # seconds for the main process to say what is wrong


@click.group(short_help="Train: SFT, DPO (sigmoid, IPO, ORPO) or a classifier.")
def train() -> None:
    """Make the checkpoints that extrapolation takes.

    --model is a folder or a Hub id; --data a JSONL file, a JSON list or a `datasets` id. A killed run goes on when the
    same command is repeated. On several GPUs: torchrun --nproc-per-node N -m expo train ...
    """


def _options(kind: type[TrainSettings]) -> Callable:
    """One option for each setting; none of them has a default here, so that only what was given is passed on."""

    def decorate(command: Callable) -> Callable:
        for option in reversed([*_SHARED, *_lora_options(), *map(_option, _of(kind)), JSON, QUIET]):
            command = option(command)
        return command

    return decorate


def _of(kind: type[TrainSettings]) -> list[dataclasses.Field]:
    own = {field.name for field in dataclasses.fields(kind)} - {
        field.name for field in dataclasses.fields(TrainSettings)
    }
    found = [field for field in dataclasses.fields(kind) if field.name not in ("lora", "resume")]
    return sorted(found, key=lambda field: field.name not in own)  # what tells it apart comes first


def _option(field: dataclasses.Field) -> Callable:
    names = _NAMES.get(field.name, (f"--{field.name.replace('_', '-')}",))
    silent = field.default in (None, ()) or isinstance(field.default, bool)
    shown = "" if silent else f"  [default: {_plain(field.default)}]"
    how: dict[str, Any] = {"default": None, "help": _HELP[field.name] + shown}
    literal = getattr(field.type, "__args__", ())
    if field.type is bool:
        names = (f"{names[0]}/--no-{names[0][2:]}",) if field.default else names
        how |= {"is_flag": True}
    elif literal and isinstance(literal[0], str):
        how |= {"type": click.Choice(literal)}
    elif field.name == "quantization":
        how |= {"type": click.Choice(["nf4"])}
    elif field.name == "report_to":
        how |= {"multiple": True, "default": ()}
    else:
        how |= {"type": {"float": float, "int": int}.get(_plain_type(field.type), str)}
    return click.option(*names, field.name, **how)


def _plain_type(kind: Any) -> str:
    return next((word for word in ("float", "int") if word in str(kind)), "str")


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _lora_options() -> list[Callable]:
    found = []
    for field in dataclasses.fields(LoraSettings):
        if field.name in _LORA:
            kind = {"rank": int, "targets": str}.get(field.name, float)
            found.append(click.option(f"--lora-{field.name}", type=kind, help=_LORA[field.name]))
    return [*found, click.option("--no-merge", is_flag=True, help="Write the adapter alone, not a whole checkpoint.")]


_SHARED = [
    click.option("--model", required=True, help="Where training starts: folder or Hub id (org/name[@revision])."),
    click.option("--data", required=True, help="JSONL file, JSON list, or `datasets` id."),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        required=True,
        help="Folder to write; appears whole or not at all.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace OUTPUT, once the new one is complete."),
    click.option("--restart", is_flag=True, help="Drop an unfinished run of this output instead of going on."),
    click.option("--dry-run", is_flag=True, help="Read and count rows and tokens, state the steps; write nothing."),
]


@train.command(short_help="Supervised fine-tuning on completions.")
@_options(SftSettings)
def sft(**options: Any) -> None:
    """Teach completions: the loss is on their tokens only, weighted where a row has `weights`.

    Rows: prompt/completion, messages (the last one, by the assistant, is taught), content/output, or
    instruction[/input]/output. `weights` has one entry for each token of the completion, its end token included; left
    out, that one gets the others' mean. One number weighs the whole row. The loss is the sum of weight times
    cross-entropy over the sum of weights of a step.
    """
    _train("sft", SftSettings, options)


@train.command(short_help="Preference training on pairs: DPO, IPO, ORPO.")
@_options(DpoSettings)
def dpo(**options: Any) -> None:
    """Prefer chosen to rejected completions. The reference is MODEL itself, computed once and cached.

    Rows: prompt/chosen/rejected, conversations chosen/rejected, or instruction[/input]/output of [chosen, rejected].
    """
    _train("dpo", DpoSettings, options)


@train.command(short_help="A classifier on hard or soft labels.")
@_options(ClassifySettings)
def classify(**options: Any) -> None:
    """Train MODEL with a classification head.

    Rows: text, messages or prompt[/completion]; label: a name, a whole number or a list of probabilities; weight:
    optional.
    """
    _train("classify", ClassifySettings, options)


# --- What each of them does ------------------------------------------------------------------------------------------


def _train(kind: str, settings_type: type[TrainSettings], options: dict[str, Any]) -> None:
    model, data, output = (options.pop(name) for name in ("model", "data", "output"))
    overwrite, restart, dry_run = (options.pop(name) for name in ("overwrite", "restart", "dry_run"))
    as_json, quiet = options.pop("as_json"), options.pop("quiet")
    settings = _settings(settings_type, options | {"resume": not restart})
    from expo import train as trainers  # torch loads when one of them is taken

    run = getattr(trainers, f"train_{kind}")
    with _Bar(quiet or dry_run) as bar:
        report = run(model, data, output, settings, overwrite=overwrite, dry_run=dry_run, progress=bar, warn=_warn)
    if as_json:
        click.echo(json.dumps(report.record()))
    elif not quiet:
        click.echo(plan(report) if dry_run else closing(report))


def _settings(kind: type[TrainSettings], options: dict[str, Any]) -> TrainSettings:
    lora = {name: options.pop(f"lora_{name}") for name in _LORA}
    lora = {name: value for name, value in lora.items() if value is not None}
    merge = not options.pop("no_merge")
    for names in (lora, options):
        for name in ("targets", "labels"):
            if isinstance(names.get(name), str):
                names[name] = [part.strip() for part in names[name].split(",")]
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    if "rank" in lora:
        given["lora"] = lora | {"merge": merge}
    elif lora or not merge:
        idle = [f"--lora-{name}" for name in lora] + ["--no-merge"] * (not merge)
        verb = "is" if len(idle) == 1 else "are"
        raise BadSetting(f"{', '.join(idle)} {verb} about adapters, and none are trained. Add --lora-rank 16.")
    return kind.of(given)


def _warn(text: str) -> None:
    from expo.cli.tables import printable

    click.echo(f"warning: {printable(text)}", err=True)


class _Bar:
    """Steps and loss on stderr: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, quiet: bool):
        self.quiet, self.bar, self.task, self.said = quiet, None, None, ""

    def __enter__(self) -> Callable[[int, int, dict], None]:
        return self.step

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def step(self, step: int, steps: int, metrics: dict[str, float]) -> None:
        from expo.cli.progress import is_terminal

        if self.quiet:
            return
        if "loss" in metrics:
            self.said = f"loss {metrics['loss']:.4f}"
        if is_terminal(sys.stderr):
            self._draw(step, steps)
        elif "loss" in metrics:
            click.echo(f"step {step:,} of {steps:,}  {self.said}", err=True)

    def _draw(self, step: int, steps: int) -> None:
        if self.bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task("", total=steps, said="")
            self.bar.start()
        self.bar.update(self.task, completed=step, said=self.said)
