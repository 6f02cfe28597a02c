"""della: task vectors with elements dropped at random, small ones first, and merged where they agree in sign."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from expo.methods import magnitude_ranks
from expo.methods.declare import Each, Here, method
from expo.methods.sparse import is_nothing, sparse_deltas
from expo.methods.task_vectors import agreed

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
def della(
    base: Tensor,
    *models: Tensor,
    weight: Each,
    density: Each = 1.0,
    epsilon: Each = 0.15,
    normalize: bool = True,
    lambda_: float = 1.0,
    rescale: bool | Literal["density"] = True,
    int8_mask: bool = False,
    here: Here,
) -> Tensor:
    """base + lambda * sum of the w_i r_i d_i with the elected sign / sum of their w_i; d_i kept by rank, else 0.

    d_i is x_i - base. The element of rank k in its row of n stays with probability density - epsilon + 2 epsilon k /
    (n - 1), k = 0 for the smallest magnitude. r_i: with rescale, L1 before / L1 after the drop over the whole tensor;
    with rescale: density, 1 / probability of each element, as published; else 1. Deep et al., "DELLA-Merging". Tiles
    are whole rows, (n,), float32 or float64. int8_mask is accepted and has no effect.
    """
    given = {"density": density, "epsilon": epsilon, "rescale": rescale}
    deltas = sparse_deltas(magnitude_ranks.ranked, base, models, **given, here=here)
    return agreed(base, deltas, weight, normalize=normalize, scale=lambda_, factors=here.surveyed.factors)
