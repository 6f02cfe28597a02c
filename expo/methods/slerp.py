"""Slerp: along the arc between two models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expo.methods.declare import Here, method
from expo.methods.sphere import arc, cosine, gram, products
from expo.methods.survey import Sums
from expo.methods.task_vectors import less

if TYPE_CHECKING:
    from torch import Tensor

PARALLEL = 0.9995  # from this cosine on, the arc is taken for a line


def _factors(tensors):
    """For each tensor the factors of base and other, or None where they are parallel."""
    sums = yield Sums(lambda base, other, **_: products((base, other)))
    found = []
    for tensor, per_term in zip(tensors, sums, strict=True):
        (xx, xy), (_, yy) = gram(per_term, 2)
        cos = cosine(xx, xy, yy)
        found.append(None if abs(cos) > PARALLEL else arc(cos, tensor.parameters["t"]))
    return found


@method(spreads=True, nothing=lambda t: t == 0, survey=_factors, paper="doi:10.1145/325165.325242")
def slerp(base: Tensor, other: Tensor, *, t: float, here: Here) -> Tensor:
    """sin((1 - t) theta) / sin(theta) * base + sin(t theta) / sin(theta) * other.

    theta is the angle between the two whole tensors, taken as vectors; their lengths are left as they are. Where its
    cosine is beyond 0.9995, base + t * (other - base). Shoemake, "Animating rotation with quaternion curves",
    section 3.3. Tiles are (n,).
    """
    if t == 1:
        return other
    if here.surveyed is None:
        return less(base, other.sub_(base).mul_(-t))
    of_base, of_other = here.surveyed
    return other.mul_(of_other).add_(base * of_base)
