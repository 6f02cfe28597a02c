"""Nearswap: towards another model where it is near, and at most t elsewhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from expo.methods.declare import method

if TYPE_CHECKING:
    from torch import Tensor

NEAR = 1e-6  # distances below this count as this


@method(nothing=lambda t: t == 0, ranges={"t": (0, math.inf)})
def nearswap(base: Tensor, other: Tensor, *, t: float) -> Tensor:
    """base + w * (other - base), w = min(1, t / max(|other - base|, 1e-6)).

    Where the two differ by at most t that is the other, elsewhere the base moved by t. Tiles are (n,).
    """
    back = base - other
    distance = back.abs()
    if t < NEAR:
        step = (back * (t / NEAR)).where(distance < NEAR, back.clamp(-t, t))
        return base.where(back == 0, base - step)
    near = other.where(distance <= t, base - back.clamp(-t, t))
    return base.where(back == 0, near)
