"""linear: a weighted mean of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expo.methods.declare import Each, method
from expo.methods.sparse import deltas_of
from expo.methods.task_vectors import added

if TYPE_CHECKING:
    from torch import Tensor


def _nothing(weight: Each, normalize: bool) -> bool:
    return not any(weight[1:]) and (normalize or weight[0] == 1)


def _check(weight: Each, normalize: bool) -> str | None:
    return "the weights sum to zero; change one, or set normalize: false" if normalize and not sum(weight) else None


@method(spreads=True, donor="first", nothing=_nothing, check=_check, paper="arXiv:2203.05482")
def linear(*models: Tensor, weight: Each, normalize: bool = True) -> Tensor:
    """sum of w_i x_i / sum of w_i, element by element; without normalize, sum of w_i x_i.

    An element that all models share keeps its bits. Wortsman et al., "Model soups". Tiles are (n,), float32 or
    float64. A base model is a model like the others.
    """
    first, total = models[0], sum(weight)
    if normalize:
        return added(first, deltas_of(first, models[1:]), [w / total for w in weight[1:]]) if models[1:] else first
    mixed = first * weight[0]
    for model, w in zip(models[1:], weight[1:], strict=True):
        mixed += model.mul_(w)
    return mixed
