"""Figures over seeds: a mean with the 95 % interval of Student's t, and differences taken seed by seed.

One seed has no interval over seeds; a difference then has the one over the test questions, and says so.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from expo.weak_to_strong.report import Marks

# The 97.5 % point of Student's t for 1 to 30 degrees of freedom.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_MANY = 1.96
Scores = Sequence[Marks | None]  # of each seed, whether each test question was answered right


def over_seeds(values: Sequence[float | None]) -> dict[str, Any] | None:
    """The mean of one value a seed with its interval; no interval for one seed. None where a seed has no value."""
    if not values or any(value is None for value in values):
        return None
    found = {"value": statistics.fmean(values), "n": len(values), "values": list(values)}  # type: ignore[arg-type]
    if len(values) == 1:
        return found | {"interval": None}
    freedom = len(values) - 1
    half = (_T[freedom - 1] if freedom <= len(_T) else _MANY) * statistics.stdev(values) / math.sqrt(len(values))  # type: ignore
    return found | {"interval": [found["value"] - half, found["value"] + half]}


def accuracies(scores: Scores) -> list[float | None]:
    """The share of right answers of each seed."""
    return [sum(marks.values()) / len(marks) if marks else None for marks in scores]


def difference(before: Scores, after: Scores) -> dict[str, Any] | None:
    """after - before, seed by seed; of one seed question by question, with the interval that those give."""
    one, other = accuracies(before), accuracies(after)
    if None in one or None in other:
        return None
    found = over_seeds([b - a for a, b in zip(one, other, strict=True)])  # type: ignore[operator]
    if len(before) > 1:
        return found
    from expo.evaluate import paired

    (first,), (second,) = before, after
    held = paired([float(first[key]) for key in first], [float(second[key]) for key in first]).difference
    return found | {"interval": [held.low, held.high], "over": "questions"}


def verdict(found: dict[str, Any] | None) -> str:
    """What a difference that a claim says is above 0 speaks: for | against | undecided."""
    if not found or not found["interval"]:
        return "undecided"
    low, high = found["interval"]
    return "for" if low > 0 else "against" if high < 0 else "undecided"
