"""Bracket: double from a start until the score falls, then close in by the golden section."""

import math
from collections.abc import Callable

_GOLDEN = (3 - math.sqrt(5)) / 2  # 0.382: where the next look goes in the larger part
_DIGITS = 3  # of a value: nobody needs alpha 0.3819660113


def bracket(value: Callable[[float], float], *, start: float, limit: float, most: int) -> float:
    """The best x that was looked at, for a value that rises and then falls; more is better.

    0 is looked at first, then start, 2 start, 4 start, ... until the value is below the best so far or x has reached
    `limit`. The best then lies between the looks beside it, and these close in on it until they are nearer than half
    the start or a tenth of the upper one. At most `most` looks beside that at 0; equal values keep the smaller x.
    """
    seen = {0.0: value(0.0)}
    below = best = x = 0.0
    while len(seen) <= most:
        x = start if x == 0 else min(_rounded(2 * x), limit)
        seen[x] = value(x)
        if seen[x] < seen[best]:
            return _close_in(value, seen, below, best, x, start=start, most=most)
        below, best = (best, x) if seen[x] > seen[best] else (below, best)
        if x >= limit:
            break
    return best


def _close_in(
    value: Callable[[float], float],
    seen: dict[float, float],
    low: float,
    best: float,
    high: float,
    *,
    start: float,
    most: int,
) -> float:
    """Golden section inside low <= best < high, where nothing beyond is better than at best."""
    while high - low > max(start / 2, high / 10) and len(seen) <= most:
        above = high - best >= best - low
        x = _rounded(best + _GOLDEN * (high - best) if above else best - _GOLDEN * (best - low))
        if x in seen:
            break
        seen[x] = value(x)
        if seen[x] > seen[best]:
            low, high = (best, high) if above else (low, best)
            best = x
        else:
            low, high = (low, x) if above else (x, high)
    return best


def most_looks(start: float, limit: float) -> int:
    """Looks that doubling alone can take, beside that at 0."""
    return max(1, math.ceil(math.log2(limit / start) - 1e-9) + 1)


def _rounded(x: float) -> float:
    return float(f"{x:.{_DIGITS}g}")
