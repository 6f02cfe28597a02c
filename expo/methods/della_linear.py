"""della_linear: task vectors with elements dropped at random, small ones first, added to a base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from expo.methods import magnitude_ranks
from expo.methods.declare import Each, Here, method
from expo.methods.sparse import is_nothing, sparse_deltas
from expo.methods.task_vectors import summed

if TYPE_CHECKING:
    from torch import Tensor


@method(
    reads="row",
    nothing=is_nothing,
    check=magnitude_ranks.check,
    ranges={"density": (0, 1), "epsilon": (0, 1)},
    survey=magnitude_ranks.survey,
    passes=lambda tensor: tensor.parameters["rescale"] is True,
    paper="arXiv:2406.11617",
)
def della_linear(
    base: Tensor,
    *models: Tensor,
    weight: Each,
    density: Each = 1.0,
    epsilon: Each = 0.15,
    normalize: bool = False,
    lambda_: float = 1.0,
    rescale: bool | Literal["density"] = True,
    int8_mask: bool = False,
    here: Here,
) -> Tensor:
    """base + lambda * sum of w_i r_i d_i; d_i is x_i - base, kept by the rank of its magnitude, else 0.

    As della, without the election of signs; normalize divides by the sum of w_i. Deep et al., "DELLA-Merging". Tiles
    are whole rows, (n,), float32 or float64.
    """
    given = {"density": density, "epsilon": epsilon, "rescale": rescale}
    deltas = sparse_deltas(magnitude_ranks.ranked, base, models, **given, here=here)
    return summed(base, deltas, weight, normalize=normalize, scale=lambda_, factors=here.surveyed.factors)
