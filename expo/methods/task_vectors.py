"""What the task-arithmetic family shares: sums of deltas, and the election of signs. Private to the methods.

Deltas that come in are temporaries, and are overwritten. On a CPU, comparisons into booleans and selections by them
cost as much as fifty additions, so that signs are handled as bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_TINY = 1e-8  # a sum of weights below it does not normalize
_DRAW = {
    4: 1 / (1 << 20),
    8: 1 / (1 << 40),
}  # bytes of a float -> the share of all magnitudes below which a sum counts as zero


def shares(weight: Sequence[float], *, normalize: bool) -> tuple[float, ...]:
    """The weights, divided by their sum if `normalize` and if there is one."""
    total = sum(weight)
    return tuple(w / total for w in weight) if normalize and abs(total) >= _TINY else tuple(weight)


def added(base: Tensor, deltas: Iterable[Tensor], factors: Sequence[float]) -> Tensor:
    """base + sum of factor * delta; where that sum is zero the base keeps its bits."""
    back = None
    for delta, factor in zip(deltas, factors, strict=True):
        delta *= -factor
        back = delta if back is None else back.add_(delta)
    return less(base, back)


def summed(
    base: Tensor,
    deltas: Iterable[Tensor],
    weight: Sequence[float],
    *,
    normalize: bool,
    scale: float,
    factors: Sequence[float] | None = None,
) -> Tensor:
    """base + scale * sum of w * delta [/ the sum of the w]; factors as in `agreed`, whose twin without signs it is."""
    factors = factors or (1.0,) * len(weight)
    shared = shares(weight, normalize=normalize)
    return added(base, deltas, [scale * w * factor for w, factor in zip(shared, factors, strict=True)])


def less(base: Tensor, back: Tensor) -> Tensor:
    """base - back, in the memory of `back`; where that is 0.0 or -0.0 the base keeps its bits, -0.0 too."""
    import torch

    back += 0.0  # -0.0 becomes 0.0, and -0.0 - 0.0 is -0.0
    return torch.sub(base, back, out=back)


def agreed(
    base: Tensor,
    deltas: Iterable[Tensor],
    weight: Sequence[float],
    *,
    normalize: bool,
    scale: float,
    factors: Sequence[float] | None = None,
) -> Tensor:
    """base + scale * sum of the w * delta that have the elected sign [/ the sum of their weights].

    The elected sign is that of the sum of all w * delta, + where it is zero but for rounding. A delta of zero has no
    part in it.
    factors: a further factor of each delta, which does not count as weight.
    """
    factors = factors or (1.0,) * len(weight)
    if normalize and weight[0] > 0 and len(set(weight)) == 1:
        weight = (1.0,) * len(weight)  # equal weights cancel
    parts, counted = [], []
    for delta, w, factor in zip(deltas, weight, factors, strict=True):
        if w * factor:
            parts.append(delta if w * factor == 1 else delta.mul_(w * factor))
            counted.append(w)
    if not parts:
        return base
    back = _elected(parts, counted if normalize else None)
    back *= -scale
    return less(base, back)


def _elected(parts: list[Tensor], counted: list[float] | None) -> Tensor:
    """The sum of the parts that have the sign of the sum of all, divided by the sum of what they count."""
    import torch

    words, sign_bit = (torch.int32, -(1 << 31)) if parts[0].dtype == torch.float32 else (torch.int64, -(1 << 63))
    mass = parts[0] + parts[1] if len(parts) > 1 else parts[0].clone()
    for part in parts[2:]:
        mass += part
    # Deltas lie on the inputs' grid, so draws are common, and rounding must not decide them: 0.6 * 2 - 0.4 * 3 is one.
    swing = parts[0].abs()
    for part in parts[1:]:
        swing += part.abs()
    mass += swing.mul_(_DRAW[mass.element_size()])
    elected = mass.view(words).bitwise_and_(sign_bit)
    found = weights = None
    for i, part in enumerate(parts):
        part.view(words).bitwise_xor_(elected)  # what agrees is positive now
        part.clamp_min_(0.0)
        found = part if i == 0 else found.add_(part)
        if counted:
            count = part.sign() if i == 0 else part.sign_()
            if counted[i] != 1:
                count *= counted[i]
            weights = count if i == 0 else weights.add_(count)
    if counted:
        found /= _not_zero(weights, counted)
    found.view(words).bitwise_xor_(elected)
    return found


def _not_zero(weights: Tensor, counted: list[float]) -> Tensor:
    """Sums of weights, with something else in place of zero."""
    if min(counted) > 0:
        return weights.clamp_min_(min(counted))  # a sum is zero where nothing agrees, and then divides zero
    return weights.masked_fill_(weights == 0, 1.0)
