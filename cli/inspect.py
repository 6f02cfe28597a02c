"""expo inspect: what a checkpoint holds, from its headers."""

import json

import click

from expo.cli.options import JSON, MAX_HEADER, QUIET


@click.command(short_help="Show what a checkpoint holds: tensors, types, shapes, sizes, layers.")
@click.argument("checkpoint")
@click.option("--tensors", is_flag=True, help="List every tensor instead of totals by module group.")
@MAX_HEADER
@JSON
@QUIET
def inspect(checkpoint: str, tensors: bool, max_header: str, as_json: bool, quiet: bool) -> None:
    """Show what CHECKPOINT holds; only headers and the config are read, of a Hub id by ranges.

    CHECKPOINT is a folder, a .safetensors or .bin file, or a Hub id (org/name or org/name@revision).
    A module group is a tensor's name with its numbers struck out: the same module of every layer.
    """
    from expo.analysis.inspect import inspect_checkpoint
    from expo.checkpoint import open_checkpoint
    from expo.recipe.recipe import parse_size

    found = inspect_checkpoint(open_checkpoint(checkpoint, max_header=parse_size(max_header), stream=True, stored=True))
    if as_json:
        click.echo(json.dumps(found.record()))
        return
    if quiet:
        return  # whether it can be read is all that was asked
    _show_facts(found)
    click.echo()
    _show_tensors(found) if tensors else _show_groups(found)


def _show_facts(found) -> None:
    from expo.analysis.inspect import number_ranges
    from expo.cli.tables import plural, show_facts
    from expo.planning.budget import count, size

    source, whole = found.checkpoint.source, found.whole
    facts = [("checkpoint", source.label if source.repo_id else source.text)]
    if named := found.checkpoint.config.get("architectures"):
        facts.append(("model", ", ".join(map(str, named)) if isinstance(named, list) else str(named)))
    facts.append(("holds", f"{whole.n_tensors} tensors, {count(whole.n_parameters)} parameters, {size(whole.n_bytes)}"))
    of_type = [f"{t.name} {count(t.n_parameters)} in {plural(t.n_tensors, 'tensor')}" for t in found.dtypes]
    facts.append(("types", "; ".join(of_type)))
    if found.quantised:
        facts.append(("quantised", f"{found.quantised}; counts and shapes are those of the stored tensors"))
    for stack, numbers in found.layers.items():
        facts.append(("layers", f"{stack}: {len(numbers)} ({number_ranges(numbers)})"))
    facts.append(("tied", found.tied_in_words()))
    facts += [("shared", f"one storage: {', '.join(names)}") for names in found.shared]
    files = found.checkpoint.files.values()
    shown = ", ".join(f"{file.name} ({size(file.n_bytes)})" for file in list(files)[:4])
    more = f", ... {len(files) - 4} more" if len(files) > 4 else ""
    facts.append(("files", f"{len(files)}: {shown}{more}" + (f"; index {source.index}" if source.index else "")))
    facts.append(("beside", ", ".join(source.side_files) or "no side files"))
    show_facts(facts)


def _show_groups(found) -> None:
    from expo.cli.tables import show_table
    from expo.planning.budget import count, size

    rows = []
    for g in (*found.groups, found.whole):
        share = f"{g.n_bytes / max(1, found.whole.n_bytes):.1%}"
        figures = [g.n_tensors, count(g.n_parameters), size(g.n_bytes), share]
        rows.append([g.name, _shapes(g.shapes), " ".join(g.dtypes), *figures])
    rows[-1][0:3] = ["total", "", " ".join(found.whole.dtypes)]
    headings = ("module group", "shape", "type", "tensors", "parameters", "bytes", "share")
    show_table(headings, rows, left=3, total=True)


def _show_tensors(found) -> None:
    from expo.cli.tables import show_table
    from expo.planning.budget import count, size

    rows = [
        [spec.name, _shapes([spec.shape]), spec.dtype, spec.file, count(spec.n_elements), size(spec.n_bytes)]
        for spec in found.checkpoint.tensors.values()
    ]
    show_table(("tensor", "shape", "type", "file", "parameters", "bytes"), rows, left=4)


def _shapes(shapes) -> str:
    """One shape as 4096 x 11008; several as the first two and how many more."""
    shown = [" x ".join(map(str, shape)) if shape else "scalar" for shape in shapes]
    return "; ".join(shown[:2]) + (f"; {len(shown) - 2} more" if len(shown) > 2 else "")
