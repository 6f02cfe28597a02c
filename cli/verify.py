"""expo verify: is a checkpoint still what its manifest says, and what its recipe gives?"""

import json
import re
from pathlib import Path

import click

from expo.cli.against import show_against
from expo.cli.hub_options import AGAINST
from expo.cli.options import JSON, MAX_HEADER, PLUGIN, QUIET, STREAM, load_plugins
from expo.cli.tables import printable
from expo.errors import VerifyError


def _share(ctx: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """'1%', '0.5' (percent) or 'all' as a fraction."""
    if text is None or text == "all":
        return text and 1.0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%?", text)
    if not found or not 0 < float(found[1]) <= 100:
        raise click.BadParameter(f"{text!r} is not a share; write it as 1%, 0.1% or all.")
    return float(found[1]) / 100


def _places(ctx: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    """'sft=PATH' as a table."""
    if bad := [text for text in texts if not re.match(r"[^=]+=.", text)]:
        raise click.BadParameter(f"{bad[0]!r} names no input; write it as sft=PATH or dpo=PATH.")
    return dict(text.split("=", 1) for text in texts)


@click.command(short_help="Check a checkpoint against its manifest, or recompute it from its inputs.")
@click.argument("output")
@click.option(
    "--recompute",
    is_flag=False,
    flag_value="1%",
    callback=_share,
    metavar="SHARE",
    help="Derive this share of the tensors' segments (1%, 0.1%, all) again from the inputs, and compare the bits.",
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    callback=_places,
    metavar="ROLE=PATH",
    help="Where a local input is now: sft=PATH, dpo=PATH. Repeatable. Inputs from the Hub are found again.",
)
@AGAINST
@click.option("--allow-non-finite", is_flag=True, help="NaN and infinities are no problem where the hash agrees.")
@PLUGIN
@STREAM
@MAX_HEADER
@click.option("--threads", type=click.IntRange(min=1), help="Workers. Default: one a core.")
@JSON
@QUIET
def verify(output: str, recompute: float | None, against: str | None, as_json: bool, quiet: bool, **options) -> None:
    """Check OUTPUT: headers, index, sizes, side files, and the hash and finiteness of every tensor.

    What was recorded is in its manifest, expo.json. A checkpoint without one is checked for structure and
    finiteness only. All problems are listed; exit 1 if there is any. What differs from PUBLISHED is shown, and is no
    problem.
    """
    load_plugins(options.pop("plugins"))
    published = _opened(against, options) if against is not None else None  # before what takes long
    result = _verify(output, recompute, quiet, options)
    found = _against(output, published, options) if published and not result.problems else None
    if as_json:
        click.echo(json.dumps({**result.record(), **({"against": found.record()} if found else {})}))
    elif not quiet:
        _show(result)
        if found:
            show_against(found)
    if result.problems:
        n = len(result.problems)
        lines = "\n".join("- " + printable(problem).replace("\n", "\n  ") for problem in result.problems)
        raise VerifyError(f"{output}: {n} problem{'s' if n > 1 else ''}\n{lines}")


def _verify(output: str, recompute: float | None, quiet: bool, options: dict):
    from expo.analysis.verify import verify as check  # torch loads here
    from expo.cli.progress import Progress
    from expo.recipe.recipe import parse_size

    folder = Path(output)
    total = sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else 0
    with Progress(max(1, int(total * (1 + (recompute or 0)))), quiet=quiet or not total) as progress:
        return check(
            output,
            recompute=recompute,
            inputs=options["inputs"],
            threads=options["threads"],
            allow_non_finite=options["allow_non_finite"],
            max_header=parse_size(options["max_header"]),
            stream=options["stream"],
            progress=progress,
        )


def _opened(published: str, options: dict):
    """The published checkpoint, whose weights stay where they are."""
    from expo.checkpoint import open_checkpoint
    from expo.cli.write import warn
    from expo.recipe.recipe import parse_size

    found = open_checkpoint(published, max_header=parse_size(options["max_header"]), stream=True)
    warn(*found.warnings)
    return found


def _against(output: str, published, options: dict):
    """The output beside a published checkpoint."""
    from expo.analysis.verify_against import verify_against
    from expo.recipe.recipe import parse_size

    names = ("inputs", "threads", "allow_non_finite", "stream")
    return verify_against(
        output,
        published,
        **{name: options[name] for name in names},
        max_header=parse_size(options["max_header"]),
    )


def _show(result) -> None:
    from expo.planning.budget import size

    record = result.record()
    speed = f", {record['gb_per_second']:.2f} GB/s" if record["gb_per_second"] else ""
    click.echo(
        f"read {result.output}: {result.n_tensors} tensors in {result.n_files} file"
        f"{'s' if result.n_files != 1 else ''}, {size(result.n_bytes)} in {result.seconds:.2f} s{speed}"
    )
    if result.segments:
        click.echo(
            f"recomputed {result.segments_recomputed} of {result.segments} segments from the inputs "
            f"in {result.recompute_seconds:.2f} s"
        )
    for note in result.notes:
        click.echo(f"note: {note}")
    if not result.problems:
        checked = ["structure", "finiteness"]
        if result.has_manifest:
            checked[1:1] = ["headers", f"{result.n_side_files} side files", "every tensor's hash"]
        click.echo(f"all well: {', '.join(checked)}" + (", the recomputed bits" if result.segments else ""))
