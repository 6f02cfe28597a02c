"""What a search found, as an object, as JSON, and as the sentences that a person needs beside the figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from expo.search.public import without_folders
from expo.search.space import Point, Space, shown
from expo.search.values import Value
from expo.search.verdict import BLOW_UP, Figures


@dataclass
class Result:
    """Every try beside the baseline, which of them is best, and what is known of it on examples of its own.

    figures: the baseline first, then the tries by their values. chosen: one of them. test: the baseline and the chosen
    try on the test set; () where there was none. report: of the checkpoint that was written, None without an output.
    """

    space: Space
    metric: Mapping[str, Any]
    strategy: Mapping[str, Any]
    higher_is_better: bool
    figures: tuple[Figures, ...]
    chosen: Figures
    test_metric: Mapping[str, Any] | None = None
    test: tuple[Figures, ...] = ()
    notes: list[str] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)
    report: Any = None

    @property
    def baseline(self) -> Figures:
        return self.figures[0]

    @property
    def point(self) -> Point:
        """The chosen values; {} where nothing was better than the baseline."""
        return self.chosen.point

    @property
    def alpha(self) -> Value:
        """The chosen value of a search over alpha, 0 for the baseline."""
        return next(iter(self.chosen.point.values()), 0)

    def record(self) -> dict[str, Any]:
        """What search.json holds."""
        return {
            **self.evidence(),
            "cost": self.cost,
            "seconds": [round(one.seconds, 3) for one in self.figures],
            "output": self.report and self.report.output,
        }

    def evidence(self) -> dict[str, Any]:
        """What the manifest of the chosen checkpoint keeps: the same for two equal searches."""
        found = {
            "summary": self.summary,
            "metric": dict(self.metric),
            "higher_is_better": self.higher_is_better,
            "strategy": dict(self.strategy),
            "dimensions": [dimension.record() for dimension in self.space.dimensions],
            "tries": [one.record() for one in self.figures],
            "chosen": self.chosen.point,
            "test_metric": self.test_metric and dict(self.test_metric),
            "test": [one.record() for one in self.test],
            "notes": self.notes,
        }
        return without_folders(found)

    @property
    def summary(self) -> str:
        """The model card's line."""
        k = len(self.figures) - 1
        how = f"{self.name(self.chosen)} was chosen of {k} tried, by {self.metric['metric']}"
        if not self.test:
            counted = said(self.chosen, k)
            return f"{how}: {counted} on the {self.chosen.n:,} examples it was chosen on; no separate test."
        return f"{how} on {self.chosen.n:,} examples; on {self.test[-1].n:,} test examples: {said(self.test[-1])}."

    def name(self, one: Figures) -> str:
        """A try for people; the baseline of a search over alpha is alpha 0."""
        return self.space.label(one.point) if one.point else f"{baseline_name(self.space)} (the baseline)"


def baseline_name(space: Space) -> str:
    """alpha 0, or for other recipes the model that is not merged."""
    return "alpha 0" if [dimension.path for dimension in space.dimensions] == ["alpha"] else "the donor unchanged"


def said(one: Figures, k: int = 1) -> str:
    """A score with its difference to the baseline; k: how many it is the best of, which the interval then counts."""
    text = f"{number(one.score.value)} ({interval(one.score.low, one.score.high)})"
    if one.difference is None:
        return text
    if k > 1:
        found, sure = one.adjusted, f" with all {k} counted"
        sure += ", not distinguishable from 0" if found.low <= 0 <= found.high else ""
    else:
        found = one.difference.difference
        sure = "" if one.better or one.worse else ", not distinguishable from 0"
    return f"{text}, {found.value:+.4g} to the baseline ({interval(found.low, found.high, '+')}{sure})"


def number(x: float) -> str:
    return f"{x:.4g}"


def interval(low: float, high: float, sign: str = "") -> str:
    return f"95 % {low:{sign}.4g} to {high:{sign}.4g}"


def notes_on(result: Result) -> list[str]:
    """What the figures do not say by themselves, in the order of its weight."""
    return [*_distinguishable(result), *_optimistic(result), *_at_the_edge(result), *_long(result), *_same(result)]


def _distinguishable(result: Result) -> list[str]:
    tries, n = result.figures[1:], result.chosen.n
    if any(one.better for one in tries) or not tries:
        return []
    what, zero = ("alpha", "0") if baseline_name(result.space) == "alpha 0" else ("try", "the baseline")
    if all(one.same_as == {} for one in tries):
        return [f"no {what} is distinguishable from {zero}: all have its very weights, so no examples tell them apart."]
    if worse := sum(one.worse for one in tries):
        rest = ", the others not distinguishable" if worse < len(tries) else ""
        return [f"no {what} is better than {zero}: on these {n:,} examples {worse} of {len(tries)} are worse{rest}."]
    return [
        f"no {what} is distinguishable from {zero}: on these {n:,} examples the 95 % interval of every paired "
        "difference holds 0. More examples tell smaller differences apart."
    ]


def _optimistic(result: Result) -> list[str]:
    """The best of several on the same examples."""
    k, chosen = len(result.figures) - 1, result.chosen
    if chosen.adjusted is None or k < 2 or result.test:
        return []
    sure = "" if chosen.adjusted.low > 0 or chosen.adjusted.high < 0 else ", which holds 0"
    return [
        f"the chosen try's score is optimistic: it is the best of {k} on the same examples. With all {k} counted "
        f"(Bonferroni) the 95 % interval of its difference is {chosen.adjusted.low:+.4g} to "
        f"{chosen.adjusted.high:+.4g}{sure}. For a figure without that: --test FILE, examples that were not chosen on."
    ]


def _at_the_edge(result: Result) -> list[str]:
    """The best value is the outermost that was tried."""
    if len(result.space.dimensions) != 1 or not result.space.dimensions[0].numeric or not result.chosen.point:
        return []
    values = [next(iter(one.point.values())) for one in result.figures if one.point]
    if len(values) < 2 or result.alpha != max(values):
        return []
    return [f"{result.name(result.chosen)} is the largest that was tried: larger ones may be better still."]


def _long(result: Result) -> list[str]:
    ratio = result.chosen.length_ratio
    if ratio is None or ratio <= BLOW_UP:
        return []
    return [f"answers of the chosen try are {ratio:.2g} times as long as the baseline's: look at some of them."]


def _same(result: Result) -> list[str]:
    lost = [one for one in result.figures if one.same_as == {} and one.effective.get("multiple") is not None]
    same = [result.name(one) for one in lost]
    if not same:
        return []
    return [
        f"{', '.join(same)}: the output's type is too coarse for the change, so the weights are the baseline's, bit "
        "for bit. To keep it: --dtype float32, or --rounding stochastic."
    ]


def columns(result: Result) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table; columns that say nothing of any try are left out."""
    dimensions = result.space.dimensions
    first = [dimension.path.removeprefix("parameters.") for dimension in dimensions]
    headings = [*first, result.metric["metric"], "95 % band", "difference", "95 % interval", "examples"]
    further = {
        "length": lambda one: one.length is not None and f"{one.length:.0f}",
        "degenerate": lambda one: one.degenerate is not None and f"{one.degenerate:.1%}",
        "effective": lambda one: _effective(one, result),
        "cosine": lambda one: one.effective.get("cosine") is not None and f"{one.effective['cosine']:.4f}",
        "": lambda one: ", ".join([*_verdict(one), *one.flags, *(["chosen"] if one is result.chosen else [])]),
    }
    rows = []
    for one in result.figures:
        values = [shown(one.point[d.path]) if one.point else ("0" if first == ["alpha"] else "-") for d in dimensions]
        score, found = one.score, one.difference and one.difference.difference
        rows.append([
            *values, number(score.value), f"{score.low:.4g} to {score.high:.4g}",
            f"{found.value:+.4g}" if found else "", f"{found.low:+.4g} to {found.high:+.4g}" if found else "",
            f"{one.n:,}",
        ])  # fmt: skip
    for heading, cell in further.items():
        cells = [cell(one) or "" for one in result.figures]
        if any(cells):
            headings.append(heading)
            for row, text in zip(rows, cells, strict=True):
                row.append(text)
    return headings, rows


def _verdict(one: Figures) -> list[str]:
    return ["better"] if one.better else ["worse"] if one.worse else []


def _effective(one: Figures, result: Result) -> str:
    """The alpha that the written weights hold; for other methods the share of the change."""
    if one.effective.get("alpha") is not None:
        return f"{one.effective['alpha']:.4g}"
    multiple = one.effective.get("multiple")
    return f"{multiple:.1%}" if multiple is not None else ""
