"""Rows of the trainers' forms with an id for each. Imports no torch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expo.evaluate.metrics.metric import MetricError, texts_of
from expo.train.rows import Kept, read_rows


def named_rows(
    data: str | Path | Sequence[Mapping], form: Callable[..., Kept], metric: str
) -> tuple[tuple[str, ...], list[Any]]:
    """(ids, rows in the trainers' form), in the data's order; rows without an id are numbered from 0.

    An id may stand on several rows, as one question has several pairs; the second becomes ID#2.
    """
    read = read_rows(data)
    some = any("id" in row.fields for row in read)
    own = [row.fields.get("id", f"row-{number}") if some else number for number, row in enumerate(read)]
    wrong = next((n for n, key in enumerate(own) if not isinstance(key, str | int) or isinstance(key, bool)), None)
    if wrong is not None:
        raise MetricError(f"{read[wrong].where}: the id is {own[wrong]!r}; it must be a text or an integer.")
    times: dict[Any, int] = {}
    ids = []
    for key in own:
        times[key] = times.get(key, 0) + 1
        ids.append(f"{key}#{times[key]}" if times[key] > 1 else key)
    return texts_of(ids, metric), form(read).rows
