"""What is chosen on and what is tested on must not share an example."""

from pathlib import Path

from expo.evaluate.metrics import Metric, shared_examples
from expo.generate.prompts import question_text
from expo.rows import Row, as_rows
from expo.search.errors import OverlappingSets

_SHOWN = 5


def check_overlap(chosen_on: Metric, tested_on: Metric, data: str | Path | None, test: str | Path | None) -> None:
    """Raise OverlappingSets where the two sets share an id that a file gives, or a question, whatever its id."""
    found = _in_files(as_rows(data), as_rows(test)) if data is not None and test is not None else []
    found = found or [f"{one} and {other} ask the same" for one, other in shared_examples(chosen_on, tested_on)]
    if not found:
        return
    more = [f"... and {len(found) - _SHOWN:,} more"] if len(found) > _SHOWN else []
    raise OverlappingSets(
        "\n".join(
            [
                f"the test set shares {len(found):,} examples with the one that is chosen on:",
                *(f"  {line}" for line in found[:_SHOWN]),
                *more,
                "A figure on examples that were chosen on is too good. Take them out of one of the two; where two "
                "files merely number their rows alike, drop the ids of one.",
            ]
        )
    )


def _in_files(data: list[Row], test: list[Row]) -> list[str]:
    """Equal ids, and equal questions apart from spaces and case."""
    ids = {row.values["id"]: row for row in data if isinstance(row.values.get("id"), str | int)}
    texts = {text: row for row in data if (text := _plain(row))}
    found = []
    for row in test:
        if (one := row.values.get("id")) in ids and isinstance(one, str | int):
            found.append(f"{row.where} has the id {one!r} of {ids[one].where}")
        elif (text := _plain(row)) in texts and text:
            found.append(f"{row.where} asks what {texts[text].where} asks")
    return found


def _plain(row: Row) -> str:
    """A row's question without differences of space and case; "" where it has none."""
    text = question_text(row.values) or row.values.get("content") or row.values.get("text")
    return " ".join(text.split()).casefold() if isinstance(text, str) else ""
