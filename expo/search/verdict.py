"""What the tries' scores say: means with bands, paired differences to the baseline, the choice, and how sure it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from expo.evaluate.metrics import Scored
from expo.evaluate.statistics import Interval, Paired, paired, student, wilson
from expo.search.space import Point, shown
from expo.search.tries import Try

BLOW_UP = 1.5  # times the baseline's mean length from which a try is flagged
_DIGITS = 6  # of figures in records: two machines agree to that many


@dataclass(frozen=True)
class Figures:
    """One try in numbers, on the examples that it was scored on."""

    point: Point  # {} for the baseline
    n: int
    score: Interval
    difference: Paired | None  # to the baseline on the same examples; None for the baseline itself
    adjusted: Interval | None  # the same with the number of tries counted (Bonferroni)
    better: bool  # than the baseline, by an interval that holds no 0
    worse: bool
    length: float | None  # mean tokens of an answer
    length_ratio: float | None  # to the baseline's, on the same examples
    degenerate: float | None  # share of answers
    effective: Mapping[str, Any] = field(default_factory=dict)
    same_as: Point | None = None  # an earlier try with the very same weights
    seconds: float = 0.0

    @property
    def verdict(self) -> str | None:
        """better | worse | not distinguishable, from the baseline; None for itself."""
        if self.difference is None:
            return None
        return "better" if self.better else "worse" if self.worse else "not distinguishable"

    @property
    def flags(self) -> list[str]:
        """What is worth a word beside the figures."""
        found = []
        if self.length_ratio is not None and self.length_ratio > BLOW_UP:
            found.append(f"length x {self.length_ratio:.2g}")
        if self.same_as is not None:
            found.append("same weights as " + (", ".join(map(shown, self.same_as.values())) or "the baseline"))
        return found

    def record(self) -> dict[str, Any]:
        """The figures as JSON values; nothing in them depends on the machine or the hour."""
        difference = self.difference and {
            **_rounded(self.difference.difference),
            "won": self.difference.won,
            "lost": self.difference.lost,
            "p_value": digits(self.difference.p_value),
            "adjusted_interval": [digits(self.adjusted.low), digits(self.adjusted.high)],
        }
        return {
            "point": self.point,
            "n": self.n,
            "score": _rounded(self.score),
            "difference": difference,
            "verdict": self.verdict,
            "length": digits(self.length),
            "length_ratio": digits(self.length_ratio),
            "degenerate": digits(self.degenerate),
            "effective": dict(self.effective),
            "flags": self.flags,
        }


def all_figures(tries: Sequence[Try], ids: Sequence[str], *, higher_is_better: bool) -> tuple[Figures, ...]:
    """Every try beside the first, which is the baseline; the baseline first, then by value."""
    k = max(1, len(tries) - 1)
    found = [figures(tried, tries[0], ids, k, higher_is_better=higher_is_better) for tried in tries]
    ordered = sorted(zip(found, tries, strict=True), key=lambda pair: by_value(pair[0]))
    first: dict[str, Point] = {}  # weights -> the first point that gave them
    out = []
    for one, tried in ordered:
        other = first.setdefault(tried.weights, one.point)
        out.append(replace(one, same_as=None if other is one.point else other))
    return tuple(out)


def figures(tried: Try, baseline: Try, ids: Sequence[str], k: int, *, higher_is_better: bool) -> Figures:
    """One of k tries beside the baseline, on the examples that both have, in the order of `ids`."""
    common = [one for one in ids if one in tried.asked and one in baseline.asked]
    own, base = [tried.scored[one] for one in common], [baseline.scored[one] for one in common]
    scores = [one.score for one in own]
    difference = adjusted = None
    if tried is not baseline:
        before = [one.score for one in base]
        difference = paired(before, scores)
        adjusted = paired(before, scores, level=1 - 0.05 / k).difference
        if not higher_is_better:  # won: questions on which the try is better
            difference = difference._replace(won=difference.lost, lost=difference.won)
    above, below = _apart(difference)
    length, usual = _mean_length(own), _mean_length(base)
    marks = [one.degenerate for one in own if one.degenerate is not None]
    return Figures(
        point=tried.point,
        n=len(common),
        score=mean(scores),
        difference=difference,
        adjusted=adjusted,
        better=above if higher_is_better else below,
        worse=below if higher_is_better else above,
        length=length,
        length_ratio=length / usual if length is not None and usual else None,
        degenerate=sum(marks) / len(marks) if marks else None,
        effective=tried.effective,
        seconds=tried.seconds,
    )


def mean(scores: Sequence[float]) -> Interval:
    """The mean with its 95 % interval: Wilson's for right and wrong, else Student's."""
    return wilson(sum(scores), len(scores)) if set(scores) <= {0, 1} else student(scores)


def choose(found: Sequence[Figures], *, higher_is_better: bool) -> Figures:
    """The best mean among those with the most examples; of equal ones the smallest change."""
    most = max(one.n for one in found)
    contenders = sorted((one for one in found if one.n == most), key=lambda one: _size(one.point))
    sign = 1 if higher_is_better else -1
    return max(contenders, key=lambda one: sign * one.score.value)


def _size(point: Point) -> float:
    """How far a point is from 0; that of the baseline is below all others."""
    return sum(abs(v) for v in point.values() if not isinstance(v, str)) if point else -1.0


def by_value(one: Figures) -> tuple:
    """Sorts the baseline first, then points by their values; words behind numbers."""
    return bool(one.point), [(1, 0, v) if isinstance(v, str) else (0, v, "") for v in one.point.values()]


def digits(x: float | None) -> float | None:
    """Six significant digits."""
    return None if x is None else float(f"{x:.{_DIGITS}g}")


def _rounded(interval: Interval) -> dict[str, Any]:
    low, high = digits(interval.low), digits(interval.high)
    return {"value": digits(interval.value), "interval": [low, high], "method": interval.method}


def _apart(difference: Paired | None) -> tuple[bool, bool]:
    """Whether a difference is surely above 0, surely below it."""
    if difference is None or not difference.distinguishable:
        return False, False
    return difference.difference.low > 0, difference.difference.high < 0


def _mean_length(scored: Sequence[Scored]) -> float | None:
    lengths = [one.length for one in scored if one.length is not None]
    return sum(lengths) / len(lengths) if lengths else None
