"""dare_linear: task vectors with elements dropped at random, added to a base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from expo.methods import dare
from expo.methods.declare import Each, Here, method
from expo.methods.sparse import dropped, is_nothing, sparse_deltas
from expo.methods.task_vectors import summed

if TYPE_CHECKING:
    from torch import Tensor


@method(
    nothing=is_nothing, ranges={"density": (0, 1)}, survey=dare.survey, passes=dare.passes, paper="arXiv:2311.03099"
)
def dare_linear(
    base: Tensor,
    *models: Tensor,
    weight: Each,
    density: Each = 1.0,
    normalize: bool = False,
    lambda_: float = 1.0,
    rescale: bool | Literal["density"] = True,
    int8_mask: bool = False,
    here: Here,
) -> Tensor:
    """base + lambda * sum of w_i r_i d_i; d_i is x_i - base, kept with probability density_i, else 0.

    r_i: with rescale, L1 before / L1 after the drop over the whole tensor; with rescale: density, 1 / density_i, as
    published; else 1. normalize divides by the sum of w_i. Yu et al., "Language Models are Super Mario". Tiles are
    (n,), float32 or float64. int8_mask is accepted and has no effect.
    """
    makeup = dare.factors(rescale, density, here)
    deltas = sparse_deltas(dropped, base, models, density=density, here=here)
    return summed(base, deltas, weight, normalize=normalize, scale=lambda_, factors=makeup)
