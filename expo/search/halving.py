"""Successive halving: all tries see a few examples, the better half of them more, until the budget is spent.

Source: Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", 2016. The
baseline is no contender: it sees whatever the others see, so that every difference to it is one on the same examples.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import xxhash

from expo.search.errors import BadBudget
from expo.search.space import Point

LEAST = 2  # examples of a round: fewer have no interval


class Round(NamedTuple):
    """How many tries are looked at, and on how many examples, those of earlier rounds included."""

    n_tries: int
    n_examples: int


def rounds(n_tries: int, n_examples: int, budget: int) -> list[Round]:
    """The rounds that a budget of scored examples pays for, an equal part each, the baseline's included.

    Raises BadBudget where the first would have fewer than two examples.
    """
    left, found, seen = n_tries, [], 0
    n_rounds = max(1, math.ceil(math.log2(n_tries)))
    for number in range(n_rounds):
        share = (budget - _spent(found)) // (n_rounds - number)
        seen = min(n_examples, seen + share // (left + 1))
        found.append(Round(left, seen))
        left = math.ceil(left / 2)
    if found[0].n_examples < LEAST:
        needed = n_rounds * LEAST * (n_tries + 1)
        raise BadBudget(
            f"--budget {budget}: {n_tries} tries and the baseline need {needed:,} scored examples at least "
            f"({LEAST} each in the first of {n_rounds} rounds). Raise the budget, or try fewer values."
        )
    return found


def _spent(done: Sequence[Round]) -> int:
    """The scored examples of these rounds; what an earlier one saw is not scored again."""
    before = [0, *(one.n_examples for one in done)]
    return sum((one.n_tries + 1) * (one.n_examples - seen) for one, seen in zip(done, before, strict=False))


def halving(
    points: Sequence[Point],
    ids: Sequence[str],
    budget: int,
    value: Callable[[Point, Sequence[str]], float],
) -> list[Point]:
    """Score the points within the budget; those of the last round, the best first."""
    ordered = shuffled(ids)
    left = list(points)
    for one in rounds(len(points), len(ids), budget):
        examples = ordered[: one.n_examples]
        value({}, examples)
        values = [(value(point, examples), point) for point in left]
        left = [point for _, point in sorted(values, key=lambda pair: -pair[0])]
        kept, left = left, left[: math.ceil(len(left) / 2)]
    return kept


def shuffled(ids: Sequence[str]) -> list[str]:
    """The ids in an order of their own, the same each time, so that a first part of them is a fair sample."""
    return sorted(ids, key=lambda one: xxhash.xxh3_64_intdigest(one.encode()))
