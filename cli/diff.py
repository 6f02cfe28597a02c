"""expo diff: two checkpoints side by side, and what an alpha would really move."""

import json
from pathlib import Path

import click

from expo.cli.options import JSON, MAX_HEADER, QUIET, STREAM
from expo.cli.tables import printable, show_table
from expo.recipe import CHOICES


@click.command(short_help="Compare two checkpoints, and what an alpha would really move.")
@click.argument("a")
@click.argument("b")
@click.option("--alpha", default=0.3, show_default=True, help="The extrapolation B + ALPHA (B - A) to look ahead to.")
@click.option("--dtype", metavar="TYPE", help="Look ahead to an output of this type. Default: as in B.")
@click.option("--rounding", type=click.Choice(CHOICES["rounding"]), default="nearest", show_default=True)
@click.option("--tensors", is_flag=True, help="List every tensor instead of totals by module group.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw a heat map, module by layer.")
@click.option(
    "--rename",
    multiple=True,
    metavar="'OLD=>NEW'",
    help="Prefix of A's tensor names, in B's spelling, such as 'language_model.=>'. Repeatable.",
)
@STREAM
@MAX_HEADER
@click.option("--threads", type=click.IntRange(min=1), help="Workers. Default: one a core. Never changes a figure.")
@JSON
@QUIET
def diff(a: str, b: str, alpha: float, plot: Path | None, tensors: bool, **options) -> None:
    """Compare checkpoint A (say, SFT) with B (say, DPO), tile by tile; nothing is written.

    Each line gives the size of the delta B - A beside B's own, the cosine between A and B, the share of elements
    that differ, and what is left of ALPHA once B + ALPHA (B - A) is rounded to the output's type.
    """
    from expo.analysis.plot import check_plot, heat_map

    if plot:
        check_plot()  # rather than after an hour of reading
    found = _compare(a, b, alpha, options)
    if plot:
        heat_map(found, plot)
    for text in found.warnings:
        click.echo(f"warning: {text}", err=True)
    if options["as_json"]:
        click.echo(json.dumps(found.record()))
    elif not options["quiet"]:
        _show(found, found.tensors if tensors else found.groups, "tensor" if tensors else "module group")


def _compare(a: str, b: str, alpha: float, options: dict):
    from expo.analysis.diff import diff as compare  # torch loads here
    from expo.checkpoint import open_checkpoint
    from expo.cli.progress import Progress
    from expo.recipe.recipe import parse_rename, parse_size

    max_header = parse_size(options["max_header"])
    left, right = (open_checkpoint(side, max_header=max_header, stream=options["stream"]) for side in (a, b))
    with Progress(max(1, right.n_bytes), moved_for_each=2.0, quiet=options["quiet"]) as progress:
        return compare(
            left,
            right,
            alpha=alpha,
            threads=options["threads"],
            progress=progress,
            dtype=options["dtype"],
            rounding=options["rounding"],
            rename=tuple(parse_rename(rule) for rule in options["rename"]),
            max_header=max_header,
        )


def _show(found, differences, heading: str) -> None:
    click.echo(f"A  {found.a.source.text}\nB  {found.b.source.text}\n")
    if differences:
        asked = f"of alpha {found.alpha:g}"
        headings = (heading, "tensors", "|B-A|/|B|", "cos(A, B)", "changed", asked, "its cosine")
        show_table(headings, [_row(d, found.alpha) for d in (*differences, found.whole)], total=True)
    _show_unpaired(found)
    click.echo(f"\n{found.verdict()}")


def _row(difference, alpha: float) -> list[str]:
    record = difference.record(alpha)
    if not difference.computed:
        return [record["name"], record["n_tensors"], "", "", "equal" if record["equal"] else "not equal", "", ""]
    gaps = f" ({record['n_non_finite']} not finite)" if record["n_non_finite"] else ""
    return [
        record["name"] + gaps,
        record["n_tensors"],
        _text(record["relative_delta"], ".3%"),
        _text(record["cosine"], ".6f"),
        _text(record["changed"], ".1%"),
        _text(record["effective_alpha"], ".3g"),
        _text(record["effective_cosine"], ".3f"),
    ]


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _show_unpaired(found) -> None:
    """Tensors that have no partner, and those whose partner has another form."""
    pairing = found.pairing
    for words, names in (("only in A", pairing.only_a), ("only in B", pairing.only_b)):
        if names:
            click.echo(f"\n{words}: {len(names)} tensors")
            _show_names(names)
    if pairing.unlike:
        click.echo(f"\nof another form, so not compared: {len(pairing.unlike)} tensors")
        forms = [
            (b.name, *(f"{spec.dtype} {list(spec.shape)}" for spec in pair))
            for pair in pairing.unlike
            for b in pair[1:]
        ]
        _show_names([f"{name}: {a} in A, {b} in B" for name, a, b in forms])


def _show_names(names: list[str]) -> None:
    for name in names[:20]:
        click.echo(f"  {printable(name)}")
    if len(names) > 20:
        click.echo(f"  ... and {len(names) - 20} more (--json lists all)")
