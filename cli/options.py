"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path

import click

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

_WRITING = [
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        required=True,
        help="Folder to write; appears whole or not at all.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace OUTPUT, once the new one is complete."),
    click.option("--dry-run", is_flag=True, help="Print the plan and its budgets; write nothing."),
    click.option("--dtype", metavar="TYPE", help="Type of floats in the output, such as float32. Default: as in DPO."),
    click.option(
        "--rounding",
        type=click.Choice(CHOICES["rounding"]),
        default="nearest",
        show_default=True,
        help="Stochastic keeps small changes in the mean; seeded.",
    ),
    click.option("--seed", default=0, show_default=True, help="Of stochastic rounding."),
    click.option("--shard-size", metavar="SIZE", help="Largest file, such as 5GB. Default: the same files as DPO."),
    click.option(
        "--on-mismatch",
        type=click.Choice(CHOICES["on_mismatch"]),
        default="error",
        show_default=True,
        help="Tensors on one side only, or of different shape: copy them as they are, or skip them.",
    ),
    click.option(
        "--vocabulary",
        type=click.Choice(CHOICES["vocabulary"]),
        default="error",
        show_default=True,
        help="Embeddings with different numbers of rows: compute the rows (tokens) that both have and keep DPO's "
        "others, or keep DPO's whole.",
    ),
    click.option(
        "--tied",
        type=click.Choice(CHOICES["tied"]),
        default="error",
        show_default=True,
        help="Copies of tied weights that are stored but differ: keep takes each as it is stored.",
    ),
    click.option(
        "--rename",
        multiple=True,
        metavar="'OLD=>NEW'",
        help="Prefix of SFT's tensor names in DPO's spelling, as in 'language_model.=>'; others stay. Repeatable.",
    ),
    click.option("--saturate", is_flag=True, help="Clamp results beyond the output type's range instead of stopping."),
    click.option("--allow-non-finite", is_flag=True, help="Let NaN and infinities pass instead of stopping."),
    MAX_HEADER,
    click.option("--threads", type=click.IntRange(min=1), help="Workers. Default: one a core. Never changes a byte."),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 or auto."),
    JSON,
    QUIET,
]


def writing(command: Callable) -> Callable:
    """The options of every command that writes a checkpoint."""
    for option in reversed(_WRITING):
        command = option(command)
    return command
