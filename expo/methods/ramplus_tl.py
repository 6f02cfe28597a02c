"""ramplus_tl: as ram, with what a model changed alone made up for what it shares."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from expo.methods.changes import alone, changed, joined
from expo.methods.declare import Here, Surveyed, method
from expo.methods.survey import Sums
from expo.methods.task_vectors import less

if TYPE_CHECKING:
    from torch import Tensor


def _survey(tensors: Sequence[Surveyed]) -> Generator[Any, Any, list[tuple[float, ...]]]:
    """Each model's factor for what it changed alone."""
    sums = yield Sums(_marks)
    return [
        tuple(_factor(*row[i : i + 2], **tensor.parameters) for i in range(0, len(row), 2))
        for tensor, row in zip(tensors, sums, strict=True)
    ]


def _marks(base: Tensor, *models: Tensor, epsilon: float, **_: Any) -> list[Tensor]:
    """For each model, 1 where it changed an element alone, and 1 where it changed it at all."""
    deltas, n_changed = changed(base, models, epsilon)
    single = alone(n_changed)
    marks = [delta.sign_().abs_() for delta in deltas]
    return [term for mark in marks for term in (mark * single, mark)]


def _factor(single: float, total: float, *, r: float, alpha: float, **_: Any) -> float:
    return 1 + r * min((total - single) / single, alpha) if single else 1.0


@method(ranges={"epsilon": (0, float("inf"))}, survey=_survey, paper="arXiv:2601.13572")
def ramplus_tl(
    base: Tensor, *models: Tensor, epsilon: float = 1e-5, r: float = 0.1, alpha: float = 0.2, here: Here
) -> Tensor:
    """base + mean of the d_i that changed the element; alone, d_i (1 + r clamp(shared_i / unique_i, 0, alpha)).

    d_i = x_i - base counts as a change where its magnitude is above epsilon; unique_i and shared_i are how many
    elements of the tensor model i changed alone and with others. Tiles are (n,), float32 or float64.
    """
    deltas, n_changed = changed(base, models, epsilon)
    single = alone(n_changed)
    for delta, factor in zip(deltas, here.surveyed, strict=True):
        delta += delta * single * (factor - 1)
    return less(base, joined(deltas, n_changed).neg_())
