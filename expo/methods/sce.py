"""sce: select where the models differ most, calculate weights from what is left, erase minority signs."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from expo.methods.declare import Here, Surveyed, method
from expo.methods.sparse import deltas_of, trim
from expo.methods.survey import EVERYTHING, Cut, Sums, largest
from expo.methods.task_vectors import less

if TYPE_CHECKING:
    from torch import Tensor

_TINY = 1e-6  # a sum of squares, or of weights, below it does not divide


def _survey(tensors: Sequence[Surveyed]) -> Generator[Any, Any, list[tuple[Cut, tuple[float, ...]]]]:
    """Of one tensor: the cut by variance, and each model's weight."""
    (tensor,) = tensors
    topk, cut = tensor.parameters["select_topk"], EVERYTHING
    if topk < 1:
        ((differ,),) = yield Sums(lambda base, *models, **_: [_variance(models).sign_()])
        ((cut,),) = yield from largest(tensors, lambda base, *models, **_: [_variance(models)], [int(topk * differ)])
    (squares,) = yield Sums(_squares, [(cut, ())])
    means = [square / tensor.n_elements for square in squares]
    total = sum(means)
    return [(cut, tuple(mean / total if total >= _TINY else 1 / len(means) for mean in means))]


def _squares(base: Tensor, *models: Tensor, here: Here, **_: Any) -> list[Tensor]:
    return [delta * delta for delta in _selected(base, models, here)]


def _variance(models: Sequence[Tensor]) -> Tensor:
    """The variance of each element over the models, times their number; 0 where all are equal."""
    deltas = [model - models[0] for model in models]
    mean = deltas[0].clone()
    for delta in deltas[1:]:
        mean += delta
    mean *= 1 / len(deltas)
    total = None
    for delta in deltas:
        delta -= mean
        delta *= delta
        total = delta if total is None else total.add_(delta)
    return total


def _selected(base: Tensor, models: Sequence[Tensor], here: Here) -> list[Tensor]:
    """Each model's delta, with zeros where the models differ least."""
    cut, _ = here.surveyed
    if cut == EVERYTHING:
        return list(deltas_of(base, models))
    # Zero or one: what is kept of the variance, by its sign.
    kept = trim(_variance(models), cut, here.start).sign_()
    return [delta.mul_(kept) for delta in deltas_of(base, models)]


@method(
    models=(1, None),
    ranges={"select_topk": (0, 1)},
    survey=_survey,
    passes=lambda tensor: 3 if tensor.parameters["select_topk"] < 1 else 1,
    paper="arXiv:2408.07990",
)
def sce(base: Tensor, *models: Tensor, select_topk: float = 1.0, int8_mask: bool = False, here: Here) -> Tensor:
    """base + sum of the w_i d_i with the sign of sum d_i / sum of their w_i; w_i = mean of d_i^2 / sum of all.

    d_i is x_i - base where the models differ most: at the int(select_topk * how many differ) elements of largest
    variance, the first of equal ones, else 0. The w_i are equal where all squares together are below 1e-6. Wan et al.,
    "FuseChat". Tiles are (n,), float32 or float64. int8_mask is accepted and has no effect.
    """
    _, weights = here.surveyed
    return less(base, _erased(_selected(base, models, here), weights))


def _erased(deltas: list[Tensor], weights: Sequence[float]) -> Tensor:
    """Minus the weighted mean of the deltas that have the sign of their sum."""
    mass = deltas[0].clone()
    for delta in deltas[1:]:
        mass += delta
    sign = mass.sign_().add_(0.5).sign_()  # 0 counts as +
    back = share = None
    for delta, weight in zip(deltas, weights, strict=True):
        delta.mul_(sign).clamp_min_(0.0)
        count = delta.sign().mul_(weight)
        delta *= weight
        back = delta if back is None else back.add_(delta)
        share = count if share is None else share.add_(count)
    back /= share.clamp_min_(_TINY)
    return back.mul_(sign).neg_()
