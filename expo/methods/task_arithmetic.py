"""task_arithmetic: a base and a weighted sum of task vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expo.methods.declare import Each, method
from expo.methods.sparse import deltas_of
from expo.methods.task_vectors import summed

if TYPE_CHECKING:
    from torch import Tensor


@method(spreads=True, nothing=lambda weight, lambda_, **_: not (lambda_ and any(weight)), paper="arXiv:2212.04089")
def task_arithmetic(
    base: Tensor,
    *models: Tensor,
    weight: Each,
    normalize: bool = False,
    lambda_: float = 1.0,
    density: Each = 1.0,
    rescale: bool = False,
    int8_mask: bool = False,
) -> Tensor:
    """base + lambda * sum of w_i (x_i - base), element by element; with normalize, / sum of w_i.

    Ilharco et al., "Editing Models with Task Arithmetic". Tiles are (n,), float32 or float64. density, rescale and
    int8_mask are accepted, as in mergekit, and have no effect.
    """
    return summed(base, deltas_of(base, models), weight, normalize=normalize, scale=lambda_)
