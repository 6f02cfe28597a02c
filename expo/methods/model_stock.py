"""Model Stock: between the base and the models' mean, as far as the angle between the models says."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from expo.methods.declare import Here, method
from expo.methods.sparse import deltas_of
from expo.methods.sphere import cosine, gram, products
from expo.methods.survey import Sums
from expo.methods.task_vectors import less

if TYPE_CHECKING:
    from torch import Tensor

SINGULAR = 1e-6  # a divisor nearer to 0 than this keeps the base


def _ratios(tensors):
    """For each tensor the way t from the base to the mean; None where each row has one of its own."""
    if tensors[0].parameters["filter_wise"]:
        return [None] * len(tensors)
    sums = yield Sums(lambda base, *models, **_: products(list(deltas_of(base, models))))
    return [_ratio(gram(row, tensor.n_models)) for tensor, row in zip(tensors, sums, strict=True)]


def _ratio(g: list[list[float]]) -> float:
    """N cos / (1 + (N - 1) cos) for the mean cosine over all pairs."""
    n = len(g)
    pairs = list(combinations(range(n), 2))
    cos = sum(cosine(g[i][i], g[i][j], g[j][j]) for i, j in pairs) / len(pairs)
    divisor = 1 + (n - 1) * cos
    return n * cos / divisor if abs(divisor) >= SINGULAR else 0.0


@method(
    spreads=True,
    models=(2, None),
    reads=lambda filter_wise: "row" if filter_wise else "tile",
    survey=_ratios,
    passes=lambda tensor: not tensor.parameters["filter_wise"],
    paper="arXiv:2403.19522",
)
def model_stock(base: Tensor, *models: Tensor, filter_wise: bool = False, here: Here) -> Tensor:
    """base + t * (mean of the models - base), t = N cos / (1 + (N - 1) cos).

    cos is the mean cosine between two models' deltas, of the whole tensor or, with filter_wise, of each row. Jang et
    al., "Model Stock: All we need is just a few fine-tuned models". Tiles are (n,).
    """
    deltas, ratio = list(deltas_of(base, models)), here.surveyed
    if filter_wise:
        ratio = _ratio_by_row([delta.view(-1, here.width) for delta in deltas])
    back = deltas[0]
    for delta in deltas[1:]:
        back += delta
    rows = back.view(-1, here.width) if filter_wise else back
    rows *= -ratio / len(models)
    return less(base, back)


def _ratio_by_row(deltas: list[Tensor]) -> Tensor:
    """The same ratio for each row, (rows, 1)."""
    from expo.ops import tree_sum

    n = len(deltas)
    lengths = [tree_sum(d * d).sqrt() for d in deltas]
    cos = 0.0
    for i, j in combinations(range(n), 2):
        both = lengths[i] * lengths[j]
        cos += (tree_sum(deltas[i] * deltas[j]) / both).where(both > 0, 0.0)
    cos = cos / (n * (n - 1) / 2)
    divisor = cos * (n - 1) + 1
    return (cos * n / divisor).where(divisor.abs() >= SINGULAR, 0.0).unsqueeze(-1)
