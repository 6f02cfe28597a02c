"""breadcrumbs_ties: task vectors without outliers and small elements, merged where they agree about the sign."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expo.methods.breadcrumbs import passes, survey
from expo.methods.declare import Each, Here, method
from expo.methods.sparse import is_nothing, sparse_deltas, trimmed
from expo.methods.task_vectors import agreed

if TYPE_CHECKING:
    from torch import Tensor


@method(
    nothing=is_nothing,
    ranges={"density": (0, 1), "gamma": (0, 1)},
    survey=survey,
    passes=passes,
    paper="arXiv:2312.06795",
)
def breadcrumbs_ties(
    base: Tensor,
    *models: Tensor,
    weight: Each,
    density: Each = 1.0,
    gamma: Each = 0.01,
    normalize: bool = False,
    lambda_: float = 1.0,
    rescale: bool = False,
    int8_mask: bool = False,
    here: Here,
) -> Tensor:
    """base + lambda * sum of the w_i d_i with the elected sign; d_i without its largest and smallest elements.

    As breadcrumbs, with the signs elected as in ties; normalize divides each element by the sum of the w_i that agree
    in it. Davari and Belilovsky, "Model Breadcrumbs". Tiles are (n,), float32 or float64.
    """
    deltas = sparse_deltas(trimmed, base, models, here=here)
    return agreed(base, deltas, weight, normalize=normalize, scale=lambda_, factors=here.surveyed.factors)
