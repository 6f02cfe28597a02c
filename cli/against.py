"""Comparisons with a published checkpoint, as commands show them."""

import json
from typing import Any

import click

from expo.cli.tables import plural, printable, show_facts
from expo.cli.write import warn


def compare_plan(recipe, published: str, options: dict[str, Any]) -> None:
    """Compute a recipe's result, compare it with a published checkpoint, and say what was found; nothing is written."""
    from expo.checkpoint import open_checkpoint
    from expo.cli.main import loading
    from expo.cli.progress import Progress
    from expo.planning.budget import check_memory, default_threads
    from expo.planning.build import plan

    if written := [word for word in ("output", "push_to", "private", "branch", "pr", "overwrite") if options[word]]:
        word = "-o" if written[0] == "output" else f"--{written[0].replace('_', '-')}"
        raise click.UsageError(f"--against compares, and writes nothing: leave out {word}.")
    quiet, threads = options["quiet"], options["threads"] or default_threads()
    planned = plan(recipe)
    theirs = open_checkpoint(published, max_header=recipe.max_header, stream=True)
    check_memory(planned, threads)
    if options["dry_run"]:
        _show_plan(planned, theirs, threads, options["as_json"])
        return
    if not quiet:
        click.echo(_summary(planned, theirs, threads), err=True)
    warn(*planned.warnings, *theirs.warnings)
    with loading():
        from expo.analysis.against import against
    moved = (planned.n_bytes_read + theirs.n_bytes) / max(1, planned.n_bytes_written)
    total = sum(job.n_bytes for job in planned.jobs)
    with Progress(total, moved_for_each=moved, quiet=quiet) as progress:
        found = against(planned, theirs, threads=threads, progress=progress)
    if options["as_json"]:
        click.echo(json.dumps(found.record()))
    elif not quiet:
        show_against(found)


def _show_plan(planned, theirs, threads: int, as_json: bool) -> None:
    """What would be compared."""
    from expo.planning.budget import totals

    warnings = [*planned.warnings, *theirs.warnings]
    if as_json:
        of_it = {"published": theirs.source.label, "plan": totals(planned, threads), "warnings": warnings}
        click.echo(json.dumps(of_it))
        return
    click.echo(_summary(planned, theirs, threads))
    warn(*warnings)


def _summary(planned, theirs, threads: int) -> str:
    """The plan, and what its result is compared with."""
    from expo.planning.budget import size, summary

    published = f"{plural(len(theirs.tensors), 'tensor')}, {size(theirs.n_bytes)}"
    return f"{summary(planned, threads)}\n  against  {theirs.source.label}: {published}; nothing is written"


def show_against(found) -> None:
    """The figures, and what differs most."""
    every, worst = found.together, found.worst
    facts = [
        ("published", found.published),
        ("tensors", f"{found.n_identical:,} of {len(found.tensors):,} bit-identical"),
        ("elements", f"{every.n_identical:,} of {every.n_elements:,} bit-identical ({share(every)})"),
        ("largest difference", _largest(every, worst)),
        ("effective alpha", _alpha(found)),
    ]
    if every.n_uncomparable:
        n = plural(every.n_uncomparable, "element")
        facts.append(("not comparable", f"{n} of other bits (NaN, or a type without an order)"))
    for word, names in (("only ours", found.only_ours), ("only published", found.only_published)):
        if names:
            facts.append((word, _some(names)))
    if found.unlike:
        facts.append(("of another form", _some(found.unlike)))
    show_facts([(word, printable(text)) for word, text in facts])
    for note in found.notes:
        click.echo(f"note: {printable(note)}")
    if found.is_same:
        click.echo("the published checkpoint holds exactly these tensors")


def share(every) -> str:
    """The part of the elements that is bit-identical: 100 % only where all are."""
    if not every.n_elements:
        return "-"
    if every.n_identical == every.n_elements:
        return "100 %"
    return f"{min(every.n_identical / every.n_elements * 100, 99.9999):.4f} %"


def _largest(every, worst) -> str:
    if worst is None:
        if not every.n_elements:
            return "unknown: no tensor has the same type (a result of the published one: --dtype)"
        return "none that has a size" if every.n_uncomparable else "none: every value is the same"
    return f"{plural(every.most_steps, 'output step')}, at {worst.name}[{worst.apart.worst}]"


def _alpha(found) -> str:
    fidelity = found.fidelity
    if fidelity.multiple is None:
        none = "alpha 0 changes nothing to measure by; with any other --alpha it is measured"
        return f"not known: {found.no_alpha or (none if found.alpha == 0 else 'the recipe changes nothing')}"
    left_out = f"; without {plural(found.n_left_out, 'element')} of NaN or infinity" if found.n_left_out else ""
    if found.alpha is None:
        return f"holds {fidelity.multiple:.4g} of the recipe's change, cosine {fidelity.cosine:.4f}{left_out}"
    held = found.record()["effective_alpha"]
    asked = f"{held:g} in the published file, {found.alpha:g} in the recipe"
    return f"{asked}; cosine with the exact change {fidelity.cosine:.4f}{left_out}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
