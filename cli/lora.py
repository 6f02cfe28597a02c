"""expo lora: adapters as results, from two checkpoints or from two adapters of one base."""

import json
import shlex
from pathlib import Path

import click

from expo.cli.options import JSON, MAX_HEADER, QUIET

_OUTPUT = click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write; appears whole or not."
)
_OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace OUTPUT, once the new one is complete.")
_DTYPE = click.option("--dtype", default="float32", show_default=True, metavar="TYPE", help="Type of the factors.")


@click.group(short_help="Extract a LoRA from two checkpoints, or extrapolate between two.")
def lora() -> None:
    """Write LoRA adapters that PEFT loads."""


@lora.command(short_help="The best LoRA of a given rank between two checkpoints.")
@click.option("--base", required=True, help="What the adapter is for: folder, file or Hub id.")
@click.option("--tuned", required=True, help="What base and adapter together come near to.")
@click.option("--rank", type=click.IntRange(min=1), default=64, show_default=True, help="Of every factor.")
@_DTYPE
@click.option("--include", multiple=True, metavar="REGEX", help="Decompose only weights with such names. Repeatable.")
@click.option("--exclude", multiple=True, metavar="REGEX", help="Leave out weights with such names. Repeatable.")
@click.option("--save-modules", is_flag=True, help="Store embeddings, norms and biases that changed, whole.")
@click.option("--rename", multiple=True, metavar="'OLD=>NEW'", help="Prefix of BASE's names, in TUNED's spelling.")
@_OUTPUT
@_OVERWRITE
@click.option("--threads", type=click.IntRange(min=1), help="Workers. Default: one a core. Never changes a byte.")
@MAX_HEADER
@JSON
@QUIET
def extract(base: str, tuned: str, output: Path, as_json: bool, quiet: bool, max_header: str, **options) -> None:
    """Write TUNED - BASE as a LoRA of BASE: the truncated SVD of each linear layer's delta.

    It says how much of each delta the rank holds, and names what changed and is not in the adapter.
    A killed run continues when the same command is repeated.
    """
    from expo.checkpoint import open_checkpoint
    from expo.recipe import parse_rename, parse_size

    options["rename"] = tuple(parse_rename(rule) for rule in options["rename"])
    sides = [open_checkpoint(place, max_header=parse_size(max_header)) for place in (base, tuned)]
    from expo.cli.progress import Progress
    from expo.lora import extract_adapter  # torch loads here

    # Each tensor is read once to see what changed, and each that did once more.
    total = 2 * sides[1].n_bytes
    with Progress(2 * total, quiet=quiet or as_json) as progress:
        found = extract_adapter(*sides, output, progress=progress, warn=_warn, **options)
    if as_json:
        click.echo(json.dumps(found.record()))
    elif not quiet:
        _show(found)


@lora.command(short_help="ExPO between two adapters of one base, written as an adapter.")
@click.option("--sft", required=True, help="The adapter where the alignment started: folder, file or Hub id.")
@click.option("--dpo", required=True, help="The adapter where it ended.")
@click.option("--alpha", default=0.3, show_default=True, help="How far past DPO to go; 0 copies it.")
@click.option("--rank", type=click.IntRange(min=1), help="Cut the result to this rank. Default: exact, r_DPO + r_SFT.")
@_DTYPE
@_OUTPUT
@_OVERWRITE
@MAX_HEADER
@JSON
@QUIET
def extrapolate(as_json: bool, quiet: bool, max_header: str, **options) -> None:
    """Write the adapter whose change is DPO's + ALPHA * (DPO's - SFT's); the base itself is not needed."""
    from expo.lora import extrapolate_adapters
    from expo.planning.budget import size
    from expo.recipe import parse_size

    found = extrapolate_adapters(**options, max_header=parse_size(max_header), warn=_warn)
    if as_json:
        click.echo(json.dumps(found.record()))
    elif not quiet:
        ranks = sorted(set(found.ranks.values()))
        kept = "exact" if found.captured is None else f"{found.captured:.2%} of the exact change's energy"
        click.echo(
            f"wrote {found.output}: {len(found.ranks)} modules of rank {', '.join(map(str, ranks))}, "
            f"{size(found.n_bytes)}, {kept}"
        )
        _next(found.output)


def _show(found) -> None:
    from expo.cli.tables import show_table
    from expo.planning.budget import size

    rows = []
    for group, members in found.groups().items():
        held = [one.captured for one in members]
        worst = max(one.relative_error for one in members)
        rank = max(one.rank for one in members)
        rows.append((group, str(len(members)), str(rank), f"{min(held):.2%}", f"{max(held):.2%}", f"{worst:.4f}"))
    rows.append(
        ("total", str(len(found.tensors)), str(found.rank), f"{found.captured:.2%}", "", f"{found.relative_error:.4f}")
    )
    headings = ("module group", "tensors", "rank", "least energy", "most", "worst relative error")
    show_table(headings, rows, total=True)
    saved = f", {len(found.saved)} stored whole" if found.saved else ""
    click.echo(f"\nwrote {found.output}: {len(found.tensors)} tensors decomposed{saved}, {size(found.n_bytes)}")
    _next(found.output)


def _next(output: str) -> None:
    click.echo(f"next: expo verify {shlex.quote(output)}; as a model it is BASE+{shlex.quote(output)}")


def _warn(*texts: str) -> None:
    from expo.cli.tables import printable

    for text in texts:
        click.echo(f"warning: {printable(text)}", err=True)
