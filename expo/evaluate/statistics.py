"""How sure one can be: pass@k, intervals for shares, and differences between models on the same questions."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from statistics import NormalDist
from typing import Any, NamedTuple

Z = 1.959963984540054  # 95 % of a normal distribution lie within this many standard deviations
RESAMPLES = 10_000
_LIKE_NORMAL = 1000  # degrees of freedom
_FEW = 100  # distinct differences, up to which a bootstrap counts them
_ENOUGH = 20  # questions; a bootstrap of 5 holds the truth 86 times in 100, Student's interval 95 times (measured)
_DRAWS = 4_000_000  # of a bootstrap in memory at a time


class Interval(NamedTuple):
    """A mean or difference with the bounds of its interval, 95 % unless asked otherwise; n questions are behind it."""

    value: float
    low: float
    high: float
    n: int
    method: str

    def record(self) -> dict[str, Any]:
        return {"value": self.value, "interval": [self.low, self.high], "n": self.n, "method": self.method}


def wilson(successes: float, n: int, *, level: float = 0.95) -> Interval:
    """successes / n with its Wilson score interval.

    With several samples a question, pass the sum of the questions' shares as successes and the questions as n: a
    share's variance is at most that of a coin, so the interval is then conservative.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} of {n} is no share")
    z = normal_quantile(level)
    share, z2 = successes / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
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
        """Whether the interval leaves 0 out; one without width, as of two equal gains, needs the sign test too."""
        low, high = self.difference.low, self.difference.high
        return (low > 0 or high < 0) and (low < high or self.p_value <= 0.05)


METHODS = ("tango", "t", "bootstrap")


def paired(
    before: Sequence[float], after: Sequence[float], *, method: str | None = None, level: float = 0.95, seed: int = 0
) -> Paired:
    """The mean of after - before over the same questions, its interval, and the exact sign test.

    before, after: a score for each question, in the same order. method: tango (of scores that are 0 and 1 only:
    Tango's score interval, beside which the sign test is McNemar's exact test), t (Student's, of the differences) or
    bootstrap (percentiles of 10,000 paired resamples, drawn from `seed`). None: tango where all scores are 0 or 1,
    bootstrap where they are shares between, of 20 questions or more; else t, as for real numbers such as rewards.
    level: of the interval; 1 - 0.05 / k where k alternatives are compared with one model (Bonferroni).
    Raises ValueError where the lengths differ, there is no question, or a score is no finite number.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} and {len(after)} scores cannot be paired")
    values = set(before) | set(after)
    if not all(map(math.isfinite, values)):
        raise ValueError("a score is no finite number")
    binary = values <= {0, 1}
    shares = len(before) >= _ENOUGH and all(0 <= v <= 1 for v in values)
    method = method or ("tango" if binary else "bootstrap" if shares else "t")
    if method not in METHODS or (method == "tango" and not binary):
        raise ValueError(f"no interval of these scores by {method!r}")
    change = [b - a for a, b in zip(before, after, strict=True)]
    won, lost = sum(c > 0 for c in change), sum(c < 0 for c in change)
    if method == "tango":
        interval = tango(won, lost, len(change), level=level)
    else:
        interval = student(change, level=level) if method == "t" else _bootstrap(change, seed, level)
    return Paired(interval, won, lost, sign_test(won, lost))


def mean(scores: Sequence[float], *, level: float = 0.95) -> Interval:
    """The mean of one model's scores: Wilson's interval where all are shares between 0 and 1, else Student's."""
    if scores and all(0 <= score <= 1 for score in scores):
        return wilson(min(math.fsum(scores), float(len(scores))), len(scores), level=level)
    return student(scores, level=level)


def student(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """The mean of real numbers with Student's t interval; without bounds where there is one number only."""
    n = len(values)
    if not n:
        raise ValueError("no number has no mean")
    found = math.fsum(values) / n
    if n == 1:
        return Interval(found, -math.inf, math.inf, 1, "Student's t")
    deviation = math.sqrt(math.fsum((value - found) ** 2 for value in values) / (n - 1))
    half = t_quantile(level, n - 1) * deviation / math.sqrt(n)
    return Interval(found, found - half, found + half, n, "Student's t")


@cache
def normal_quantile(level: float) -> float:
    """Within how many standard deviations this share of a normal distribution lies."""
    _check_level(level)
    return Z if level == 0.95 else NormalDist().inv_cdf(0.5 + level / 2)


@cache
def t_quantile(level: float, degrees: int) -> float:
    """Within how far of 0 this share of Student's t distribution lies."""
    _check_level(level)
    if degrees > _LIKE_NORMAL:  # the first term of the Cornish-Fisher expansion; the next is below 1e-5
        z = normal_quantile(level)
        return z + (z**3 + z) / (4 * degrees)
    # The share within t is a finite sum in the angle atan(t / sqrt(degrees)), which is bisected.
    angle = _bisect(lambda angle: _share_within(angle, degrees) < level, 0.0, math.pi / 2)
    return math.tan(angle) * math.sqrt(degrees)


def _share_within(angle: float, degrees: int) -> float:
    """P(|T| < tan(angle) sqrt(degrees)). Source: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= math.cos(angle) ** 2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"an interval's level lies between 0 and 1, and is not {level}")


def tango(won: int, lost: int, n: int, *, level: float = 0.95) -> Interval:
    """(won - lost) / n with its score interval. Source: Tango, Statistics in Medicine 17 (1998), 891-908."""
    found, z = (won - lost) / n, normal_quantile(level)

    def distance(delta: float) -> float:
        """The score statistic at a true difference of `delta`; it falls as delta grows."""
        b = -won - lost + (2 * n - won + lost) * delta
        c = -lost * delta * (1 - delta)
        q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        gap = won - lost - n * delta
        return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap) if gap else 0.0

    low = _bisect(lambda delta: distance(delta) > z, -1.0, found)
    high = _bisect(lambda delta: distance(delta) > -z, found, 1.0)
    return Interval(found, low, high, n, "Tango score")


def _bisect(left: Callable[[float], bool], low: float, high: float) -> float:
    """Where `left` turns from true to false."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if left(middle) else (low, middle)
    return (low + high) / 2


def _bootstrap(change: Sequence[float], seed: int, level: float) -> Interval:
    import numpy as np

    n, random = len(change), np.random.default_rng(seed)
    values, counts = np.unique(np.asarray(change, dtype=np.float64), return_counts=True)
    if len(values) <= _FEW:  # a resample is a draw of how often each distinct difference occurs
        means = random.multinomial(n, counts / n, size=RESAMPLES) @ values / n
    else:
        means = np.empty(RESAMPLES)
        every, step = np.asarray(change, dtype=np.float64), max(1, _DRAWS // n)
        for start in range(0, RESAMPLES, step):
            part = means[start : start + step]
            part[:] = every[random.integers(n, size=(len(part), n))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(math.fsum(change) / n, float(low), float(high), n, "paired bootstrap")


def sign_test(won: int, lost: int) -> float:
    """The exact two-sided probability that a fair coin splits won + lost throws at least as unevenly."""
    n, fewer = won + lost, min(won, lost)
    tail = sum(math.comb(n, i) for i in range(fewer + 1))
    return min(1.0, 2 * tail / 2**n) if n else 1.0
