"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from expo.cli.hub_options import PUSHING
from expo.recipe import CHOICES

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
QUIET = click.option("--quiet", is_flag=True, help="No progress and no summary; warnings and errors still show.")
MAX_HEADER = click.option(
    "--max-header",
    default="16MiB",
    show_default=True,
    metavar="SIZE",
    help="Refuse larger headers; they cost memory and time.",
)

PLUGIN = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="MODULE",
    help="Import a module, or a .py file, that registers methods. Repeatable. Recipes cannot ask for it.",
)
OVERWRITE = click.option(
    "--overwrite", is_flag=True, help="Replace OUTPUT, and what --push-to holds, once the new one is complete."
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Print the plan and its budgets; write nothing.")


STREAM = click.option(
    "--stream", is_flag=True, help="Leave the weights of Hub ids on the Hub, and read them there by ranges."
)
CONNECTIONS = click.option(
    "--connections",
    type=click.IntRange(min=1, max=16),
    default=8,
    show_default=True,
    help="With --stream: requests to the Hub in flight at a time.",
)
VERIFY_INPUTS = click.option(
    "--verify-inputs",
    is_flag=True,
    help="With --stream: also read what the run does not need of each file, so that its hash is checked.",
)


def _form(donor: str, *, from_recipe: bool) -> list[Callable]:
    """The options that say how a result is written. from_recipe: a recipe gives the defaults."""

    def shown(default: object) -> dict[str, Any]:
        return {"default": None} if from_recipe else {"default": default, "show_default": True}

    def flag(name: str, text: str) -> Callable:
        return click.option(name, is_flag=True, default=None if from_recipe else False, help=text)

    own = "the recipe's" if from_recipe else f"as in {donor}"
    choices = {key: click.Choice([value for value in values if value]) for key, values in CHOICES.items()}
    return [
        click.option("--dtype", metavar="TYPE", help=f"Type of floats in the output, such as float32. Default: {own}."),
        click.option(
            "--rounding",
            type=choices["rounding"],
            **shown("nearest"),
            help="Stochastic keeps small changes in the mean; seeded.",
        ),
        click.option("--seed", type=int, **shown(0), help="Of stochastic rounding and of random masks."),
        click.option("--shard-size", metavar="SIZE", help=f"Largest file, such as 5GB. Default: {own}."),
        click.option(
            "--on-mismatch",
            type=choices["on_mismatch"],
            **shown("error"),
            help="Tensors on one side only, or of different shape: copy them as they are, or skip them.",
        ),
        click.option(
            "--vocabulary",
            type=choices["vocabulary"],
            **shown("error"),
            help="Embeddings with different numbers of rows: compute the rows (tokens) that both have and keep "
            f"{donor}'s others, or keep {donor}'s whole.",
        ),
        click.option(
            "--tied",
            type=choices["tied"],
            **shown("error"),
            help="Copies of tied weights that are stored but differ: keep takes each as it is stored.",
        ),
        click.option(
            "--rename",
            multiple=True,
            metavar="'OLD=>NEW'",
            help=f"Prefix of other inputs' tensor names in {donor}'s spelling, as in 'language_model.=>'. Repeatable.",
        ),
        click.option(
            "--layout",
            type=choices["layout"],
            help="Experts one tensor each, as models are published, or stacked, as transformers 5 holds them. "
            f"Default: {own}.",
        ),
        click.option(
            "--tower",
            metavar="NAME",
            help=f"Compute only this tower, such as language_model, and copy the rest from {donor}.",
        ),
        flag("--requantize", "Write float8 with fresh scales where the donor has them, instead of bfloat16."),
        flag("--saturate", "Clamp results beyond the output type's range instead of stopping."),
        flag("--allow-non-finite", "Let NaN and infinities pass instead of stopping."),
    ]


_THREADS = click.option(
    "--threads", type=click.IntRange(min=1), help="Workers. Default: one a core. Never changes a byte."
)
_DEVICE = click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 or auto.")
_GPU_MEMORY = click.option(
    "--gpu-memory",
    metavar="SIZE",
    help="What --device cuda may take of the GPU, as 8GiB. Default: 90 % of what is free.",
)
_RUN = [STREAM, MAX_HEADER, _THREADS, _DEVICE, _GPU_MEMORY, JSON, QUIET]


def output(*, required: bool) -> Callable:
    """-o/--output."""
    text = "Folder to write; appears whole or not at all."
    return click.option("-o", "--output", type=click.Path(path_type=Path), required=required, help=text)


def writing(command: Callable) -> Callable:
    """The options of every command that writes a checkpoint of its own making."""
    return _with(
        [
            output(required=False),
            *PUSHING,
            OVERWRITE,
            DRY_RUN,
            VERIFY_INPUTS,
            CONNECTIONS,
            *_form("DPO", from_recipe=False),
            *_RUN,
        ],
        command,
    )


def over_a_recipe(command: Callable) -> Callable:
    """The same options without defaults: what is given counts instead of what the recipe says."""
    return _with([*_form("the donor", from_recipe=True), *_RUN], command)


def form_and_threads(command: Callable) -> Callable:
    """How a result is written, as over a recipe, and how many workers; for a command with a device of its own."""
    return _with([*_form("the donor", from_recipe=True), MAX_HEADER, _THREADS, JSON, QUIET], command)


def recipe_fields(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of Recipe that the options of a command give."""
    from expo.recipe import parse_rename, parse_size

    names = (
        "dtype",
        "rounding",
        "seed",
        "on_mismatch",
        "vocabulary",
        "tied",
        "layout",
        "requantize",
        "tower",
        "saturate",
        "allow_non_finite",
    )
    found = {name: options[name] for name in names}
    found["stream"] = options.get("stream")  # a search reads its inputs once a try, and does not offer it
    found["shard_size"] = parse_size(options["shard_size"]) if options["shard_size"] else None
    found["rename"] = tuple(parse_rename(rule) for rule in options["rename"]) or None
    found["max_header"] = parse_size(options["max_header"])
    return {name: value for name, value in found.items() if value is not None}


def load_plugins(names: tuple[str, ...]) -> None:
    """Import the modules that --plugin names."""
    from expo.methods.plugins import load_plugin

    for name in names:
        load_plugin(name)


def _with(options: list[Callable], command: Callable) -> Callable:
    for option in reversed(options):
        command = option(command)
    return command
