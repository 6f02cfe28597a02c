"""Arcee Fusion: another model's elements where they matter most, the base's elsewhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from expo.methods.declare import Here, method
from expo.methods.survey import SHIFTS, kth_largest

if TYPE_CHECKING:
    from torch import Tensor

QUARTILES = (0.25, 0.5, 0.75)


def _thresholds(tensors):
    """For each tensor the importance from which on the other model's elements are taken."""
    (tensor,) = tensors
    if not tensor.n_elements:
        return [math.inf]
    ranks = [q * (tensor.n_elements - 1) for q in QUARTILES]  # from the smallest
    sides = [tensor.n_elements - n for rank in ranks for n in (math.floor(rank), math.ceil(rank))]
    values, _ = yield from kth_largest(
        tensors, lambda *pair, here: [_importance(*pair, here.width)], sides, of=[0] * len(sides)
    )
    low, median, high = (
        a + (b - a) * (rank - math.floor(rank)) for rank, a, b in zip(ranks, values[::2], values[1::2], strict=True)
    )
    return [median + 1.5 * (high - low)]


def _importance(base: Tensor, other: Tensor, width: int) -> Tensor:
    """|other - base| * KL(softmax of other's row, softmax of base's row), (n,)."""
    from expo.ops import tree_sum

    x, b = (_log_softmax(t.view(-1, width).double()) for t in (other, base))
    divergence = tree_sum(x.exp() * (x - b)).clamp_(min=0)  # (rows,)
    distance = (other - base).abs_().view(-1, width)
    return distance.mul_(divergence.to(other.dtype).unsqueeze(-1)).view(-1)


def _log_softmax(rows: Tensor) -> Tensor:
    from expo.ops import tree_sum

    rows = rows - rows.amax(-1, keepdim=True)
    return rows - tree_sum(rows.exp()).log_().unsqueeze(-1)


@method(reads="row", exact="per device", survey=_thresholds, passes=lambda tensor: len(SHIFTS[tensor.wide]))
def arcee_fusion(base: Tensor, other: Tensor, *, here: Here) -> Tensor:
    """other where |other - base| * KL(softmax of its row, of the base's) >= median + 1.5 IQR, else base.

    Median and interquartile range are those of the whole tensor, exactly. A row is the last dimension; a tensor of
    one dimension is one row. Tiles are whole rows, (n,).
    """
    taken = _importance(base, other, here.width) >= here.surveyed
    return other.where(taken & (other != base), base)
