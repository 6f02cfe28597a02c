"""ram: what one model changed is added, what several changed is averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expo.methods.changes import changed, joined
from expo.methods.declare import method
from expo.methods.task_vectors import less

if TYPE_CHECKING:
    from torch import Tensor


@method(ranges={"epsilon": (0, float("inf"))}, paper="arXiv:2601.13572")
def ram(base: Tensor, *models: Tensor, epsilon: float = 1e-5) -> Tensor:
    """base + mean of the d_i that changed the element: those with magnitude above epsilon; d_i = x_i - base.

    Tiles are (n,), float32 or float64.
    """
    return less(base, joined(*changed(base, models, epsilon)).neg_())
