"""How sure one can be: pass@k, intervals for shares, and differences between models on the same questions."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Z = 1.959963984540054  # 95 % of a normal distribution lie within this many standard deviations
RESAMPLES = 10_000


class Interval(NamedTuple):
    """A share or a difference with the bounds of its 95 % interval, and the number of questions behind it."""

    value: float
    low: float
    high: float
    n: int
    method: str

    def record(self) -> dict[str, Any]:
        return {"value": self.value, "interval": [self.low, self.high], "n": self.n, "method": self.method}


def wilson(successes: float, n: int) -> Interval:
    """successes / n with its 95 % Wilson score interval.

    With several samples a question, pass the sum of the questions' shares as successes and the questions as n: a
    share's variance is at most that of a coin, so the interval is then conservative.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} of {n} is no share")
    share, z2 = successes / n, Z * Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == n else min(1.0, middle + half)
    return Interval(share, low, high, n, "Wilson")


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that k of n samples, c of them right, hold a right one.

    Source: Chen et al., arXiv:2107.03374, the unbiased estimator. Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {n} samples, {c} right, is not defined")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


class Paired(NamedTuple):
    """after - before on the same questions."""

    difference: Interval
    won: int  # questions on which `after` is better
    lost: int
    p_value: float  # exact, two-sided: that as uneven a split of won and lost falls to a fair coin

    def record(self) -> dict[str, Any]:
        return {**self.difference.record(), "won": self.won, "lost": self.lost, "p_value": self.p_value}

    @property
    def distinguishable(self) -> bool:
        return self.difference.low > 0 or self.difference.high < 0


def paired(before: Sequence[float], after: Sequence[float], *, seed: int = 0) -> Paired:
    """The mean of after - before over the same questions, its 95 % interval, and the exact sign test.

    before, after: a score in [0, 1] for each question, in the same order. Scores of 0 and 1 only get Tango's score
    interval, and the sign test is McNemar's exact test; others get the percentiles of 10,000 paired bootstraps.
    Raises ValueError where the lengths differ or there is no question.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} and {len(after)} scores cannot be paired")
    change = [b - a for a, b in zip(before, after, strict=True)]
    won, lost = sum(c > 0 for c in change), sum(c < 0 for c in change)
    only_right_or_wrong = set(before) | set(after) <= {0, 1}
    interval = tango(won, lost, len(change)) if only_right_or_wrong else _bootstrap(change, seed)
    return Paired(interval, won, lost, sign_test(won, lost))


def tango(won: int, lost: int, n: int) -> Interval:
    """(won - lost) / n with its 95 % score interval. Source: Tango, Statistics in Medicine 17 (1998), 891-908."""
    found = (won - lost) / n

    def distance(delta: float) -> float:
        """The score statistic at a true difference of `delta`; it falls as delta grows."""
        b = -won - lost + (2 * n - won + lost) * delta
        c = -lost * delta * (1 - delta)
        q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        gap = won - lost - n * delta
        return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap) if gap else 0.0

    low = _bisect(lambda delta: distance(delta) > Z, -1.0, found)
    high = _bisect(lambda delta: distance(delta) > -Z, found, 1.0)
    return Interval(found, low, high, n, "Tango score")


def _bisect(left: Callable[[float], bool], low: float, high: float) -> float:
    """Where `left` turns from true to false."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if left(middle) else (low, middle)
    return (low + high) / 2


def _bootstrap(change: Sequence[float], seed: int) -> Interval:
    import numpy as np

    values, counts = np.unique(np.asarray(change, dtype=np.float64), return_counts=True)
    # A resample of n differences is a draw of how often each distinct one occurs: no (resamples, n) array.
    drawn = np.random.default_rng(seed).multinomial(len(change), counts / len(change), size=RESAMPLES)
    low, high = np.quantile(drawn @ values / len(change), [0.025, 0.975])
    return Interval(math.fsum(change) / len(change), float(low), float(high), len(change), "paired bootstrap")


def sign_test(won: int, lost: int) -> float:
    """The exact two-sided probability that a fair coin splits won + lost throws at least as unevenly."""
    n, fewer = won + lost, min(won, lost)
    tail = sum(math.comb(n, i) for i in range(fewer + 1))
    return min(1.0, 2 * tail / 2**n) if n else 1.0
