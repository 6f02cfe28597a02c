"""Passthrough: one model as it is, for recipes that pick and repeat layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expo.methods.declare import Each, method

if TYPE_CHECKING:
    from torch import Tensor


@method(spreads=True, donor="first", nothing=lambda scale: scale == (1.0,))
def passthrough(model: Tensor, *, scale: Each = 1.0) -> Tensor:
    """scale * model.

    A scale of 1 copies the tensor's bytes; so does no scale. Tiles are (n,).
    """
    return model * scale[0]
