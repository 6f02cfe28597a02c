"""expo extrapolate: ExPO between two checkpoints."""

import click

from expo.cli.hub_options import AGAINST
from expo.cli.options import recipe_fields, writing
from expo.recipe import CHOICES


@click.command(short_help="Push an aligned model further from its SFT start.")
@click.option("--sft", "--base", "sft", required=True, help="Where the alignment started: folder, file or Hub id.")
@click.option("--dpo", "--aligned", "dpo", required=True, help="Where it ended; its names, config and files are kept.")
@click.option("--alpha", default=0.3, show_default=True, help="How far past DPO to go; 0 copies it.")
@click.option(
    "--arithmetic",
    type=click.Choice(CHOICES["arithmetic"]),
    default="exact",
    show_default=True,
    help="Reference repeats the ExPO authors' three bfloat16 roundings, to reproduce published checkpoints.",
)
@AGAINST
@writing
def extrapolate(sft: str, dpo: str, alpha: float, arithmetic: str, against: str | None, **options) -> None:
    """Write DPO + ALPHA * (DPO - SFT) to OUTPUT, tile by tile.

    SFT and DPO are a folder, a .safetensors or .bin file, or a Hub id (org/name or org/name@revision).
    A killed run continues when the same command is repeated. With --against nothing is written.
    """
    from expo.cli.write import write
    from expo.recipe import extrapolation

    recipe = extrapolation(sft=sft, dpo=dpo, alpha=alpha, arithmetic=arithmetic, **recipe_fields(options))
    if against is None:
        write(recipe, options)
        return
    from expo.cli.against import compare_plan

    compare_plan(recipe, against, options)
