"""ExPO: push an aligned model further along the direction in which alignment moved it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expo.methods.declare import Each, method

if TYPE_CHECKING:
    from torch import Tensor


@method(
    donor="first",
    nothing=lambda alpha, weight: alpha == 0 and len(weight) == 1,
    check=lambda alpha, weight: None if sum(weight) else "the weights of the aligned models sum to zero",
    spreads=True,
    aliases=("expo",),
    paper="arXiv:2404.16792",
)
def extrapolate(base: Tensor, *aligned: Tensor, alpha: float = 0.3, weight: Each = 1.0) -> Tensor:
    """aligned + alpha * (aligned - base), element by element.

    Several aligned models count as their weighted mean. An element that all models share keeps its bits. Zheng et
    al., "Model Extrapolation Expedites Alignment", equation 1. Tiles are (n,), float32 or float64.
    """
    end = aligned[0] if len(aligned) == 1 else _mean(aligned, weight)
    # Adding (base - end) * -alpha keeps -0.0, which adding (end - base) * alpha would turn into +0.0.
    if alpha < 0:
        return end.where(base == end, (base - end).mul_(-alpha).add_(end))
    return base.sub_(end).mul_(-alpha).add_(end)


def _mean(models: tuple[Tensor, ...], weight: Each) -> Tensor:
    """first + sum of w_i (x_i - first) / sum of w: elements that all models share keep their bits."""
    first, total = models[0], sum(weight)
    moved = sum(x.sub_(first).mul_(w / total) for x, w in zip(models[1:], weight[1:], strict=True))
    return first.where(moved == 0, first + moved)
