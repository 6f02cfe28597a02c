"""What ram and ramplus_tl share: which elements a model changed, alone or with others. Private."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from expo.methods.sparse import deltas_of

if TYPE_CHECKING:
    from torch import Tensor


def changed(base: Tensor, models: Sequence[Tensor], epsilon: float) -> tuple[list[Tensor], Tensor]:
    """(each model's delta where it is larger than epsilon, else 0; how many models changed each element)."""
    import torch

    deltas = [torch.hardshrink(delta, epsilon, out=delta) for delta in deltas_of(base, models)]
    n_changed = None
    for delta in deltas:
        mark = delta.sign().abs_()
        n_changed = mark if n_changed is None else n_changed.add_(mark)
    return deltas, n_changed


def alone(n_changed: Tensor) -> Tensor:
    """1 where one model changed an element, 0 where none or several did."""
    return (n_changed - 1).abs_().clamp_max_(1.0).neg_().add_(1.0)


def joined(deltas: Sequence[Tensor], n_changed: Tensor) -> Tensor:
    """The mean of the deltas of those that changed an element."""
    total = deltas[0].clone()
    for delta in deltas[1:]:
        total += delta
    return total.div_(n_changed.clamp_min(1.0))
