"""NuSlerp: slerp with weights instead of a place on the way, between models or between their deltas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expo.methods.declare import Each, Here, method
from expo.methods.sparse import deltas_of
from expo.methods.sphere import exact_products, gram, turn
from expo.methods.survey import Sums
from expo.methods.task_vectors import less

if TYPE_CHECKING:
    from torch import Tensor

EVEN = 1e-6  # weights whose sum is nearer to 0 than this count as equal


def _factors(tensors):
    """For each tensor its `turn`; None where each vector in it has one of its own."""
    if not tensors[0].parameters["nuslerp_flatten"]:
        return [None] * len(tensors)
    sums = yield Sums(lambda base, *models, **_: exact_products(_deltas(base, models)))
    grams = [gram(row, 2) for row in sums]
    ways = [_way(tensor.parameters["weight"]) for tensor in tensors]
    return [turn(xx, xy, yy, t) for t, ((xx, xy), (_, yy)) in zip(ways, grams, strict=True)]


def _way(weight: Each) -> float:
    total = weight[0] + weight[1]
    return weight[1] / total if abs(total) >= EVEN else 0.5


def _deltas(base: Tensor | None, models: tuple[Tensor, ...]) -> list[Tensor]:
    return list(models if base is None else deltas_of(base, models))


def _turn_by_vector(x: Tensor, y: Tensor, t: float) -> Tensor:
    """(p, q) of each vector along the last dimension, (2, ..., 1)."""
    from expo.ops import tree_sum

    sums = [tree_sum(both) for both in (x * x, x * y, y * y)]
    turns = [turn(*row, t) for row in zip(*(s.reshape(-1).tolist() for s in sums), strict=True)]
    return x.new_tensor(turns).T.reshape(2, *sums[0].shape, 1)


def _reads(weight: Each, nuslerp_row_wise: bool, nuslerp_flatten: bool):
    return "tile" if nuslerp_flatten else "tensor" if nuslerp_row_wise else "row"


@method(
    spreads=True,
    reads=_reads,
    survey=_factors,
    passes=lambda tensor: tensor.parameters["nuslerp_flatten"],
    scratch=6,
)
def nuslerp(
    base: Tensor | None,
    first: Tensor,
    second: Tensor,
    *,
    weight: Each,
    nuslerp_row_wise: bool = False,
    nuslerp_flatten: bool = True,
    here: Here,
) -> Tensor:
    """slerp(first, second) at t = w_2 / (w_1 + w_2); with a base, base + slerp(first - base, second - base).

    One angle for the whole tensor. Without nuslerp_flatten one for each row (the last dimension), and with
    nuslerp_row_wise for each column (the first dimension): mergekit named them so. Tiles are (n,).
    """
    t = _way(weight)
    if t in (0, 1):
        return second if t else first
    x, y = _deltas(base, (first, second))
    if nuslerp_flatten:
        p, q = here.surveyed
    else:
        along, shape = (0, here.shape or (1,)) if nuslerp_row_wise else (-1, (-1, here.width))
        x, y = x.view(shape), y.view(shape)
        p, q = (part.movedim(-1, along) for part in _turn_by_vector(x.movedim(along, -1), y.movedim(along, -1), t))
    turned = less(x * p, (x - y).mul_(q)).view(-1)
    return turned if base is None else less(base, turned.neg_())
