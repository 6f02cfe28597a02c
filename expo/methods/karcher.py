"""Karcher: the mean on the sphere, whose summed squared angles to all models are least."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from expo.methods.declare import Here, method
from expo.methods.sphere import Gram, combined, exact_products, gram, product
from expo.methods.survey import Sums

if TYPE_CHECKING:
    from torch import Tensor


def _factors(tensors):
    """For each tensor the factor of every model."""
    sums = yield Sums(lambda *models, **_: exact_products(models))
    return [_of_models(gram(row, t.n_models), **t.parameters) for t, row in zip(tensors, sums, strict=True)]


def _of_models(g: Gram, *, max_iter: int, tol: float) -> list[float]:
    if len(g) == 1:
        return [1.0]
    lengths = [math.sqrt(max(0.0, g[i][i])) for i in range(len(g))]
    kept = [i for i, length in enumerate(lengths) if length > tol]
    if not kept:
        return [0.0] * len(g)
    units = [[g[i][j] / (lengths[i] * lengths[j]) for j in kept] for i in kept]
    scale = math.fsum(lengths) / len(lengths)
    factors = [0.0] * len(g)
    for i, c in zip(kept, _mean(units, max_iter, tol), strict=True):
        factors[i] = c / lengths[i] * scale
    return factors


def _mean(units: Gram, max_iter: int, tol: float) -> list[float]:
    """The factors of unit vectors whose combination is their mean on the sphere, a unit vector too."""
    n = len(units)
    start = [1 / n] * n
    c = _unit(units, start) if _length(units, start) >= tol else [1.0] + [0.0] * (n - 1)
    for _ in range(max_iter):
        step = _towards_all(units, c)
        length = _length(units, step)
        if length < tol:
            break
        turned = [math.cos(length) * a + math.sin(length) / length * b for a, b in zip(c, step, strict=True)]
        c = _unit(units, turned)
    return c


def _towards_all(units: Gram, c: list[float]) -> list[float]:
    """The mean of the logarithms at c: what leads to each vector along its arc; opposite ones have none."""
    n = len(c)
    step = [0.0] * n
    for i, row in enumerate(units):
        cos = max(-1.0, min(1.0, math.fsum(u * a for u, a in zip(row, c, strict=True))))
        theta = math.acos(cos)
        if (sin := math.sin(theta)) >= 1e-8:
            step = [s + theta / sin / n * ((j == i) - cos * a) for j, (s, a) in enumerate(zip(step, c, strict=True))]
    return step


def _length(units: Gram, c: list[float]) -> float:
    return math.sqrt(max(0.0, product(units, c, c)))


def _unit(units: Gram, c: list[float]) -> list[float]:
    return [a / _length(units, c) for a in c]


@method(
    spreads=True,
    survey=_factors,
    ranges={"max_iter": (0, 10_000), "tol": (0, math.inf)},
    paper="doi:10.1002/cpa.3160300502",
)
def karcher(*models: Tensor, max_iter: int = 10, tol: float = 1e-5, here: Here) -> Tensor:
    """The mean length times the unit vector whose mean arc to all x_i / |x_i| is zero.

    Each tensor is one vector. At most max_iter steps, until one is shorter than tol; a tensor no longer than tol has
    no direction. Karcher, "Riemannian center of mass and mollifier smoothing". Tiles are (n,).
    """
    return combined(models, here.surveyed)
