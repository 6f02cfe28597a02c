"""dare_ties: task vectors with elements dropped at random, and merged where they agree about the sign."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from expo.methods import dare
from expo.methods.declare import Each, Here, method
from expo.methods.sparse import dropped, is_nothing, sparse_deltas
from expo.methods.task_vectors import agreed

if TYPE_CHECKING:
    from torch import Tensor


@method(
    nothing=is_nothing, ranges={"density": (0, 1)}, survey=dare.survey, passes=dare.passes, paper="arXiv:2311.03099"
)
def dare_ties(
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
    """base + lambda * sum of the w_i r_i d_i with the elected sign; d_i kept with probability density_i, else 0.

    As dare_linear, with the signs elected as in ties; normalize divides each element by the sum of the w_i that agree
    in it. Yu et al., "Language Models are Super Mario". Tiles are (n,), float32 or float64.
    """
    makeup = dare.factors(rescale, density, here)
    deltas = sparse_deltas(dropped, base, models, density=density, here=here)
    return agreed(base, deltas, weight, normalize=normalize, scale=lambda_, factors=makeup)
