"""search: a recipe and a metric in, the best of several values out, with the evidence; continues what was begun."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from expo.evaluate.metrics import Metric
from expo.planning import Plan
from expo.rows import replace_file
from expo.search.public import without_folders
from expo.search.result import Result, baseline_name, notes_on
from expo.search.space import Space
from expo.search.strategy import Strategy
from expo.search.tries import Tries
from expo.search.verdict import Figures, all_figures, choose

_TRIES = "tries.jsonl"

Say = Callable[[str], object]


@dataclass
class Search:
    """Everything that can be known before the first weight is read: what is varied, how, and on which examples."""

    space: Space
    metric: Metric
    strategy: Strategy
    plan: Plan  # of the baseline
    folder: Path  # of the report
    test: Metric | None = None
    output: Path | None = None
    overwrite: bool = False
    how: dict[str, Any] = field(default_factory=dict)  # options of Resident
    say: Say = lambda text: None  # progress
    warn: Say = lambda text: None

    def planned(self) -> dict[str, Any]:
        """What `run` would do, as JSON values: tries, examples, memory and bytes."""
        from expo.search.resident import memory_needed

        first, known = self.space.plan_at(self.space.first), self._known()
        return {
            "baseline": baseline_name(self.space),
            "strategy": self.strategy.record(),
            "most_tries": self.strategy.most_tries,
            "points": [self.space.label(point) for point in self.strategy.points],
            "metric": without_folders(self.metric.record()),
            "examples": len(self.metric.ids),
            "most_scored": self.strategy.most_scored(len(self.metric.ids)),
            "known": known,
            "test_examples": len(self.test.ids) if self.test else 0,
            "memory": memory_needed(first, **self.how),
            "n_bytes_read_a_try": first.n_bytes_read,
            "n_bytes_of_output": self.plan.n_bytes_written if self.output else 0,
        }

    def _known(self) -> int:
        """Examples whose scores an earlier run left, of the points that are certain to be looked at."""
        from expo.search.resident import Resident, identity
        from expo.search.scoring import scored_by

        file, by = Tries(self.folder / _TRIES, writing=False), scored_by(self.metric, Resident(**self.how))
        points = [{}, *self.strategy.points]
        return sum(file.known(by, identity(self.space.plan_at(point)), point).n_resumed for point in points)

    def run(self, **writing: Any) -> Result:
        """Score, choose, test, report, and write the output. writing: threads and progress of `expo.run`."""
        from expo.ops import one_thread
        from expo.search.resident import Resident, check_memory, coarser
        from expo.stream.probe import pair_warnings

        first = self.space.plan_at(self.space.first)
        check_memory(first, **self.how)
        with one_thread():
            for text in [*self.plan.warnings, *pair_warnings(first), *filter(None, [coarser(first, **self.how)])]:
                self.warn(text)
        began = time.monotonic()
        resident = Resident(**self.how)
        with Tries(self.folder / _TRIES) as file:
            result = self._searched(resident, file)
        result.notes += filter(None, [coarser(first, **self.how)])
        result.cost |= _cost(resident) | {"seconds": round(time.monotonic() - began, 1)}
        resident.drop()
        self._report(result)
        self._draw(result)
        if self.output is not None:
            result.report = self._write(result, writing)
            self._report(result)
        return result

    def _searched(self, resident: Any, file: Tries) -> Result:
        scorer = self._scorer(resident, self.metric, file)
        self.strategy.run(self.space, self.metric.ids, scorer.value)
        found = _figures(scorer)
        result = Result(
            space=self.space,
            metric=without_folders(self.metric.record()),
            strategy=self.strategy.record(),
            higher_is_better=self.metric.higher_is_better,
            figures=found,
            chosen=choose(found, higher_is_better=self.metric.higher_is_better),
        )
        tested = 0
        if self.test is not None:
            on_test = self._scorer(resident, self.test, file, "test, ")
            for point in ({}, result.chosen.point) if result.chosen.point else ({},):
                on_test.score(point)
            result.test_metric, result.test = without_folders(self.test.record()), _figures(on_test)
            tested = on_test.n_scored
        result.notes = notes_on(result)
        result.cost = {"scored": scorer.n_scored + tested, "tries": len(found) - 1}
        return result

    def _scorer(self, resident: Any, metric: Metric, file: Tries, what: str = "") -> Any:
        from expo.search.scoring import Scorer

        told = _Told(self.space, metric, self.say, what)
        return Scorer(self.space, resident, metric, file, began=told.began, ended=told.ended)

    def _write(self, result: Result, writing: Mapping[str, Any]) -> Any:
        """The chosen checkpoint by an ordinary run, with the evidence in its manifest and card."""
        from expo.stream import run

        planned = replace(self.space.plan_at(result.point), search=result.evidence())
        if begin := getattr(writing.get("progress"), "phase", None):
            begin("", planned.n_bytes_written)
        return run(planned, self.output, overwrite=self.overwrite, warn=self.warn, **writing)

    def _report(self, result: Result) -> None:
        content = json.dumps(result.record(), indent=1, ensure_ascii=False) + "\n"
        replace_file(self.folder / "search.json", content.encode())

    def _draw(self, result: Result) -> None:
        from expo.search.picture import draw

        if not draw(result, self.folder / "search.png"):
            self.warn("no picture, as matplotlib is missing; to have one: pip install 'expo[plot]'")


class _Told:
    """Progress in words, a line a try."""

    def __init__(self, space: Space, metric: Metric, say: Say, what: str):
        self.space, self.metric, self.say, self.what = space, metric, say, what
        self.first: dict[str, float] | None = None

    def began(self, point: Mapping[str, Any], n: int) -> None:
        self.say(f"{self.what}{self._name(point)}: scoring {n:,} examples")

    def ended(self, tried: Any, n: int) -> None:
        scores = {key: one.score for key, one in tried.scored.items() if key in tried.asked}
        self.first = scores if self.first is None or not tried.point else self.first
        mean = sum(scores.values()) / len(scores)
        both = [key for key in scores if key in self.first]
        gain = sum(scores[key] - self.first[key] for key in both) / max(1, len(both))
        beside = f", {gain:+.4g} to the baseline" if tried.point else ""
        how = "" if n else " (known)"
        text = f"{self.metric.name} {mean:.4g}{beside} on {len(scores):,} examples{how}"
        self.say(f"{self.what}{self._name(tried.point)}: {text}")

    def _name(self, point: Mapping[str, Any]) -> str:
        return self.space.label(point)


def _figures(scorer: Any) -> tuple[Figures, ...]:
    """Every try beside the baseline, which was scored first."""
    metric = scorer.metric
    return all_figures(list(scorer.tries.values()), metric.ids, higher_is_better=metric.higher_is_better)


def _cost(resident: Any) -> dict[str, Any]:
    from expo.stream.report import peak_rss

    return {
        "fills": resident.fills,
        "n_bytes_read": resident.n_bytes_read,
        "fill_seconds": round(resident.seconds, 2),
        "load_seconds": round(resident.load_seconds, 2),
        "peak_rss_mib": round(peak_rss() / 2**20, 1),
    }
