"""ties: task vectors trimmed to their largest elements, and merged where they agree about the sign."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from expo.methods.declare import Each, Here, Surveyed, method
from expo.methods.sparse import Sparse, is_nothing, keep_largest, rescaled, sparse_deltas, trimmed, trims
from expo.methods.task_vectors import agreed

if TYPE_CHECKING:
    from torch import Tensor


def n_kept(density: float, n: int) -> int:
    """How many of n elements a density keeps: whole ones, and one at least unless the density is zero."""
    return max(int(density * n), density > 0)


def _survey(tensors: Sequence[Surveyed]) -> Generator[Any, Any, list[Sparse]]:
    """The cuts of one tensor or of the whole model, and what rescaling asks for."""
    cuts = yield from keep_largest(tensors, [[n_kept(share, n) for share, n in _shares(tensors)]])
    found = [Sparse(tuple(rows[0])) for rows in cuts]
    return (yield from rescaled(tensors, trimmed, found)) if tensors[0].parameters["rescale"] else found


def _shares(tensors: Sequence[Surveyed]) -> list[tuple[float, int]]:
    """(density, elements) of each model over all tensors; of several densities, the mean."""
    n = sum(tensor.n_elements for tensor in tensors)
    shares = []
    for i in range(tensors[0].n_models):
        sizes: dict[float, int] = {}
        for tensor in tensors:
            density = tensor.parameters["density"][i]
            sizes[density] = sizes.get(density, 0) + tensor.n_elements
        shares.append((next(iter(sizes)) if len(sizes) == 1 else sum(d * k for d, k in sizes.items()) / n, n))
    return shares


@method(
    nothing=is_nothing,
    ranges={"density": (0, 1)},
    survey=_survey,
    passes=lambda tensor: trims(tensor.parameters["density"]) + tensor.parameters["rescale"],
    model_scope=lambda trim_scope, **_: trim_scope == "model",
    paper="arXiv:2306.01708",
)
def ties(
    base: Tensor,
    *models: Tensor,
    weight: Each,
    density: Each = 1.0,
    normalize: bool = True,
    lambda_: float = 1.0,
    rescale: bool = False,
    trim_scope: Literal["tensor", "model"] = "tensor",
    int8_mask: bool = False,
    here: Here,
) -> Tensor:
    """base + lambda * sum of the w_i d_i with the elected sign / sum of their w_i; d_i is x_i - base, trimmed.

    Trimmed: the int(density * n) elements of largest magnitude stay, of a tensor or of the model (trim_scope), the
    first of equal ones; the rest are 0. The elected sign is that of the sum of all w_i d_i, + where it is 0 but for
    rounding; a d_i of 0 has no say. rescale: each trimmed d_i gets the L1 norm that it had before. Yadav et al.,
    "TIES-Merging" (which ranks the model). Tiles are (n,), float32 or float64. int8_mask is accepted and has no effect.
    """
    deltas = sparse_deltas(trimmed, base, models, here=here)
    return agreed(base, deltas, weight, normalize=normalize, scale=lambda_, factors=here.surveyed.factors)
