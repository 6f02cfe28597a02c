"""A point is scored: its weights go into the resident model, the metric looks at examples that are not known yet."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import xxhash

from expo.errors import ExpoError
from expo.evaluate.metrics import Metric, Scored
from expo.generate.memory import OutOfMemory, free_memory, is_out_of_memory
from expo.search.errors import DoesNotFit
from expo.search.resident import Resident, identity, result_hash
from expo.search.space import Point, Space
from expo.search.tries import Tries, Try


class Scorer:
    """Scores points of a space by one metric; `tries` are those scored so far, in their order, the baseline first.

    began(point, n examples), ended(try, n new examples): called around each scoring.
    """

    def __init__(
        self,
        space: Space,
        resident: Resident,
        metric: Metric,
        file: Tries,
        *,
        began: Callable[[Point, int], object] = lambda point, n: None,
        ended: Callable[[Try, int], object] = lambda tried, n: None,
    ):
        self.space, self.resident, self.metric, self.file = space, resident, metric, file
        self.began, self.ended = began, ended
        self.tries: dict[str, Try] = {}  # by the identity of their plan
        self.by = scored_by(metric, resident)
        self._told: set[str] = set()
        self.n_scored = 0  # examples that were scored now, not earlier
        self._room = len(metric.ids)  # examples that fit into memory at once, as far as is known

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.metric.higher_is_better else -1

    def score(self, point: Point, ids: Sequence[str] | None = None) -> Try:
        """The try at a point with scores for these examples, by default for all."""
        ids = self.metric.ids if ids is None else ids
        planned = self.space.plan_at(point)
        key = identity(planned)
        if key not in self.tries:
            self.tries[key] = self.file.known(self.by, key, point)
        tried = self.tries[key]
        tried.asked.update(ids)
        missing = [one for one in ids if one not in tried.scored]
        if missing:
            self.began(point, len(missing))
            self._fill(tried, planned)
            missing = self._shared(tried, missing)
            self._measure(tried, missing)
        if missing or key not in self._told:
            self.ended(tried, len(missing))
            self._told.add(key)
        return tried

    def value(self, point: Point, ids: Sequence[str] | None = None) -> float:
        """The mean score at a point, so turned that more is better."""
        ids = self.metric.ids if ids is None else ids
        scored = self.score(point, ids).scored
        return self.sign * sum(scored[one].score for one in ids) / len(ids)

    def _fill(self, tried: Try, planned: Any) -> None:
        report = self.resident.fill(planned)
        tried.weights = result_hash(planned, report)
        found = report.effective()
        tried.effective = {name: found[name] for name in ("alpha", "multiple", "cosine")}

    def _shared(self, tried: Try, missing: list[str]) -> list[str]:
        """Take what the very same result scored before, under another recipe; the examples that are still missing."""
        twins = self.file.twins(self.by, tried.weights)
        taken = {key: twins[key] for key in missing if key in twins}
        if taken:
            tried.scored |= taken
            self.file.add(self.by, tried, taken.values(), 0.0)
        return [key for key in missing if key not in twins]

    def _measure(self, tried: Try, missing: list[str]) -> None:
        if not missing:
            return
        began = time.monotonic()
        try:
            found = self._within_memory(missing)
        except ExpoError as error:
            error.args = (f"{self.space.label(tried.point)}: {error}\nFinished tries are kept in {self.file.path}.",)
            raise
        seconds = time.monotonic() - began
        tried.scored |= {one.id: one for one in found}
        tried.seconds += seconds
        self.n_scored += len(found)
        self.file.add(self.by, tried, found, seconds)

    def _within_memory(self, ids: list[str]) -> list[Scored]:
        """The metric's scores; where they need more memory than there is, for fewer examples at a time."""
        found: list[Scored] = []
        while left := ids[len(found) :]:
            try:
                found += self.metric.score(self.resident.model, self.resident.tokenizer, left[: self._room])
                continue
            except (ExpoError, RuntimeError, MemoryError) as error:
                # The metrics of this package take smaller batches by themselves; one of the user's may not. A task of
                # lm_eval scores a document by the others that it is asked with.
                full = isinstance(error, OutOfMemory) or is_out_of_memory(error.__cause__ or error)
                if not full or self.metric.name.startswith("lm-eval:"):
                    raise
            free_memory()  # outside of the handler, whose traceback holds the failed batch
            n = min(self._room, len(left))
            if n == 1:
                raise self._does_not_fit(left[0], len(found))
            self._room = n // 2
        return found

    def _does_not_fit(self, one: str, done: int) -> DoesNotFit:
        fits = f"{done:,} others did" if done else "none did so far"
        return DoesNotFit(
            f"example {one!r} alone does not fit into the memory of {self.resident.device} beside the model ({fits}). "
            "Leave it out or shorten it, hold the weights in 16 bits (--compute-dtype bfloat16), or use a larger "
            "device."
        )


def scored_by(metric: Metric, resident: Resident) -> str:
    """A hash of all that decides a score but the checkpoint: metric, data, and how the weights are held."""
    settings = {**metric.record(), **resident.record()}
    return xxhash.xxh3_128_hexdigest(json.dumps(settings, sort_keys=True, default=str).encode())
