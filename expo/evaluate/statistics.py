"""How sure one can be: pass@k, intervals for shares, and differences between models on the same questions."""

import math
from collections.abc import Sequence
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
    """The mean of after - before with a 95 % percentile interval of 10,000 paired bootstraps, and the exact sign test.

    before, after: a score in [0, 1] for each question, in the same order. With scores of 0 and 1 the sign test is
    McNemar's exact test. Raises ValueError where the lengths differ or there is no question.
    """
    import numpy as np

    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} and {len(after)} scores cannot be paired")
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    values, counts = np.unique(change, return_counts=True)
    # A resample of n differences is a draw of how often each distinct difference occurs: no (resamples, n) array.
    drawn = np.random.default_rng(seed).multinomial(len(change), counts / len(change), size=RESAMPLES)
    means = drawn @ values / len(change)
    low, high = np.quantile(means, [0.025, 0.975])
    won, lost = int((change > 0).sum()), int((change < 0).sum())
    interval = Interval(float(change.mean()), float(low), float(high), len(change), "paired bootstrap")
    return Paired(interval, won, lost, sign_test(won, lost))


def sign_test(won: int, lost: int) -> float:
    """The exact two-sided probability that a fair coin splits won + lost throws at least as unevenly."""
    n, fewer = won + lost, min(won, lost)
    tail = sum(math.comb(n, i) for i in range(fewer + 1))
    return min(1.0, 2 * tail / 2**n) if n else 1.0
