"""MultiSlerp: the weighted mean of directions, at the weighted mean of lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from expo.methods.declare import Each, Here, method
from expo.methods.sparse import deltas_of
from expo.methods.sphere import combined, exact_products, gram, product
from expo.methods.survey import Sums
from expo.methods.task_vectors import added

if TYPE_CHECKING:
    from torch import Tensor


def _factors(tensors):
    """For each tensor the factor of every model."""
    sums = yield Sums(lambda base, *models, **_: exact_products(_vectors(base, models)))
    return [_of_models(gram(row, t.n_models), **t.parameters) for t, row in zip(tensors, sums, strict=True)]


def _vectors(base: Tensor | None, models: Sequence[Tensor]) -> list[Tensor]:
    return list(models if base is None else deltas_of(base, models))


def _of_models(g: list[list[float]], *, weight: Each, normalize_weights: bool, eps: float) -> list[float]:
    lengths = [math.sqrt(max(0.0, g[i][i])) for i in range(len(g))]
    total = sum(weight) if normalize_weights else 1.0
    weight = [w / total for w in weight]
    unit = [w / length if length > eps else 0.0 for w, length in zip(weight, lengths, strict=True)]
    resultant = math.sqrt(max(0.0, product(g, unit, unit)))
    if resultant <= eps:  # the directions cancel out
        return weight
    length = math.fsum(w * length for w, length in zip(weight, lengths, strict=True))
    return [w / resultant * length for w in unit]


def _check(weight: Each, normalize_weights: bool, eps: float) -> str | None:
    return "the weights sum to zero" if normalize_weights and sum(weight) == 0 else None


@method(spreads=True, models=(1, None), survey=_factors, check=_check, ranges={"eps": (0, 1)})
def multislerp(
    base: Tensor | None,
    *models: Tensor,
    weight: Each,
    normalize_weights: bool = True,
    eps: float = 1e-8,
    here: Here,
) -> Tensor:
    """|m|^-1 m * sum of w_i |x_i|, m = sum of w_i x_i / |x_i|; with a base, of the deltas and added to it.

    Each tensor is one vector. Where the directions cancel out (|m| <= eps), the weighted mean of the tensors; one no
    longer than eps has no direction. Tiles are (n,).
    """
    if base is None:
        return combined(models, here.surveyed)
    return added(base, deltas_of(base, models), here.surveyed)
