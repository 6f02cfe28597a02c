"""Comparisons with a published checkpoint, as commands show them."""

import json
from typing import Any

import click

from expo.cli.tables import plural, printable, show_facts


def compare_plan(recipe, published: str, options: dict[str, Any]) -> None:
    """Compute a recipe's result, compare it with a published checkpoint, and say what was found; nothing is written."""
    from expo.checkpoint import open_checkpoint
    from expo.cli.main import loading
    from expo.cli.progress import Progress
    from expo.planning.budget import check_memory, default_threads, summary
    from expo.planning.build import plan

    if options["output"] or options["push_to"]:
        raise click.UsageError("--against compares, and writes nothing: leave out -o and --push-to.")
    quiet, threads = options["quiet"], options["threads"] or default_threads()
    planned = plan(recipe)
    theirs = open_checkpoint(published, max_header=recipe.max_header, stream=True)
    check_memory(planned, threads)
    if options["dry_run"] or not quiet:
        click.echo(summary(planned, threads), err=not options["dry_run"])
    if options["dry_run"]:
        return
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
        facts.append(("not comparable", f"{every.n_uncomparable:,} elements (NaN, or a type without an order)"))
    for word, names in (("only ours", found.only_ours), ("only published", found.only_published)):
        if names:
            facts.append((word, _some(names)))
    if found.unlike:
        facts.append(("of another form", _some(found.unlike)))
    show_facts([(word, printable(text)) for word, text in facts])
    if found.is_same:
        click.echo("the published checkpoint holds exactly these tensors")


def share(every) -> str:
    """The part of the elements that is bit-identical: 100 % only where all are."""
    if every.n_identical == every.n_elements:
        return "100 %"
    return f"{min(every.n_identical / every.n_elements * 100, 99.9999):.4f} %"


def _largest(every, worst) -> str:
    if worst is None:
        return "none: every value is the same" if every.n_elements else "unknown: no tensor has the same type"
    return f"{plural(every.most_steps, 'output step')}, at {worst.name}[{worst.apart.worst}]"


def _alpha(found) -> str:
    fidelity = found.fidelity
    if fidelity.multiple is None:
        return f"not known: {found.no_alpha or 'the recipe changes nothing'}"
    if found.alpha is None:
        return f"holds {fidelity.multiple:.4g} of the recipe's change, cosine {fidelity.cosine:.4f}"
    held = found.record()["effective_alpha"]
    asked = f"{held:g} in the published file, {found.alpha:g} in the recipe"
    return f"{asked}; cosine with the exact change {fidelity.cosine:.4f}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
