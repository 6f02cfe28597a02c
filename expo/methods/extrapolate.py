"""ExPO: push an aligned model further along the direction in which alignment moved it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expo.methods.declare import method

if TYPE_CHECKING:
    from torch import Tensor


@method(donor="aligned", nothing=lambda alpha: alpha == 0, paper="arXiv:2404.16792")
def extrapolate(base: Tensor, aligned: Tensor, *, alpha: float = 0.3) -> Tensor:
    """aligned + alpha * (aligned - base), element by element.

    An element that the two models share keeps its bits. Zheng et al., "Model Extrapolation Expedites
    Alignment", equation 1. Tiles are (n,), float32 or float64.
    """
    # Adding (base - aligned) * -alpha keeps -0.0, which adding (aligned - base) * alpha would turn into +0.0.
    step = base - aligned
    step *= -alpha
    step += aligned
    return aligned.where(base == aligned, step) if alpha < 0 else step
