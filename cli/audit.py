"""expo recipes audit: the table of recipes beside what was published of them."""

import json
from collections.abc import Mapping

import click

from expo.cli.against import share
from expo.cli.tables import plural, printable, show_table
from expo.errors import VerifyError

_HEADINGS = (
    "recipe",
    "published",
    "tensors identical",
    "elements identical",
    "largest",
    "asked",
    "effective",
    "cosine",
)


def audit_all(
    texts: Mapping[str, str], *, every: bool, stream: bool, threads: int | None, as_json: bool, quiet: bool
) -> None:
    """Audit recipes, by name; every: leave out those whose header names nothing. One line each, as it is done."""
    from expo.analysis.audit import audit, published_of

    texts = {name: text for name, text in texts.items() if not every or published_of(text)}
    rows = []
    try:
        for number, (name, text) in enumerate(texts.items(), 1):
            if not quiet:
                click.echo(f"{number} of {len(texts)}: {name} against {published_of(text) or 'nothing'}", err=True)
            rows.append(audit(name, text, stream=stream, threads=threads))
            if as_json:
                click.echo(json.dumps(rows[-1].record()))
    finally:  # what hours have found is shown, whatever ended them
        if not as_json and not quiet and any(row.found for row in rows):
            show_table(_HEADINGS, [_cells(row) for row in rows if row.found], left=2)
    failed = [row for row in rows if row.error]
    if failed:
        lines = "\n".join(f"- {row.name}: {printable(row.error)}".replace("\n", "\n  ") for row in failed)
        raise VerifyError(f"{plural(len(failed), 'recipe')} of {len(rows)} could not be compared\n{lines}")


def _cells(row) -> tuple[str, ...]:
    found, every = row.found, row.found.together
    held = found.record()["effective_alpha"]
    return (
        row.name,
        found.published,
        f"{found.n_identical} of {len(found.tensors)}",
        share(every),
        plural(every.most_steps, "step") if every.n_elements else "-",
        "-" if found.alpha is None else f"{found.alpha:g}",
        "-" if held is None else f"{held:g}",
        "-" if found.fidelity.cosine is None else f"{found.fidelity.cosine:.4f}",
    )
