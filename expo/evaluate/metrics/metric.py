"""What a metric is: examples with ids, and one checked number for each of them. Knows no particular metric."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import xxhash

from expo.errors import ExpoError
from expo.generate.memory import OutOfMemory, is_out_of_memory

LEAST = 2  # examples: fewer have no interval
_SHOWN = 5


class MetricError(ExpoError):
    """A metric cannot be had, or cannot be taken."""


class UnknownMetric(MetricError):
    """No metric of that name."""


class BadScores(MetricError):
    """A metric gave no number, or not one for each example."""


class Scored(NamedTuple):
    """One example's score; of a generated answer also its length in tokens, and whether it is degenerate."""

    id: str
    score: float
    length: int | None = None
    degenerate: bool | None = None


Measure = Callable[[Any, Any, Sequence[str]], Sequence[Scored]]


@dataclass(frozen=True)
class Metric:
    """A score for each example of a live model: a transformers model and its tokenizer.

    ids: the examples, each once, in the order of the data. asked: for each of them a hash of what is asked, whatever
    its id, by which two sets can be compared. data: a hash of all that is read of the examples. settings: what else
    decides a score. measure: (model, tokenizer, ids) -> their scores in that order.
    """

    name: str
    ids: tuple[str, ...]
    asked: tuple[str, ...]
    data: str
    measure: Measure = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)
    higher_is_better: bool = True
    generates: bool = False

    def __post_init__(self) -> None:
        if len(self.ids) < LEAST:
            n = "no example" if not self.ids else "one example"
            raise MetricError(
                f"--metric {self.name}: the data hold {n}; with fewer than {LEAST} no score has an interval.\n"
                "Give it more examples; some hundred tell small differences apart."
            )

    def score(self, model: Any, tokenizer: Any, ids: Sequence[str]) -> list[Scored]:
        """The scores of these examples under the model's weights as they are now, in the order of `ids`.

        The model is evaluated without dropout and without gradients, and left as it was. Raises BadScores, by example,
        where a score is NaN or infinite or scores are missing; OutOfMemory where not even one example fits.
        """
        import torch

        from expo.train.head import evaluating

        known = set(self.ids)
        strangers = [key for key in ids if key not in known]
        if strangers:
            raise MetricError(f"--metric {self.name} has no example {strangers[0]!r}.")
        try:
            with torch.no_grad(), evaluating(model):
                found = list(self.measure(model, tokenizer, list(ids)))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise OutOfMemory(f"--metric {self.name}: the device's memory is full: {first}") from None
        return self._checked(ids, found)

    def record(self) -> dict[str, Any]:
        """What identifies the metric and its data, as JSON values; equal records give equal scores to equal weights."""
        return {"metric": self.name, "examples": len(self.ids), "data": self.data, **self.settings}

    def _checked(self, ids: Sequence[str], found: list[Scored]) -> list[Scored]:
        if [one.id for one in found] != list(ids):
            raise BadScores(
                f"--metric {self.name} gave {len(found):,} scores for {len(ids):,} examples, or gave them out of order."
            )
        bad = [one for one in found if not math.isfinite(one.score)]
        if bad:
            named = ", ".join(f"{one.id} ({one.score})" for one in bad[:_SHOWN])
            more = f" and {len(bad) - _SHOWN:,} more" if len(bad) > _SHOWN else ""
            raise BadScores(
                f"--metric {self.name}: {len(bad):,} of {len(found):,} scores are no finite number. "
                f"Examples: {named}{more}.\nLook for NaN in the checkpoints (expo inspect), or for a range that "
                "16 bits do not hold."
            )
        return found


def shared_examples(one: Metric, other: Metric) -> list[tuple[str, str]]:
    """The pairs of ids under which both metrics ask the same, such as of a validation and a test set."""
    at = dict(zip(one.asked, one.ids, strict=True))
    return [(at[what], key) for what, key in zip(other.asked, other.ids, strict=True) if what in at]


def hash_of(value: Any) -> str:
    """A hash of a JSON value, whatever the order of its keys."""
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True, default=str).encode())


def texts_of(ids: Sequence[Any], metric: str) -> tuple[str, ...]:
    """The ids as texts; 1 and "1" are two ids of a file, and cannot both be one of a metric."""
    texts = tuple(map(str, ids))
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise MetricError(f"--metric {metric}: the id {twice!r} stands in the data as a number and as a text.")
    return texts
