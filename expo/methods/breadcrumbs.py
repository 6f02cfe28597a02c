"""breadcrumbs: task vectors without their largest and their smallest elements, added to a base."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from expo.methods.declare import Each, Here, Surveyed, method
from expo.methods.sparse import NOTHING, Sparse, is_nothing, keep_largest, rescaled, sparse_deltas, trimmed
from expo.methods.task_vectors import summed

if TYPE_CHECKING:
    from torch import Tensor


def between(density: float, gamma: float, n: int) -> tuple[int, int]:
    """(how many of n elements are kept, how many larger ones are dropped); where both are too many, fewer outliers."""
    kept = int(density * n)
    return kept, min(int(gamma * n), n - kept)


def survey(tensors: Sequence[Surveyed]) -> Generator[Any, Any, list[Sparse]]:
    """The cuts of one tensor, and what rescaling asks for."""
    (tensor,) = tensors
    ((lower_cuts, upper_cuts),) = yield from keep_largest(tensors, _counts(tensor))
    found = [Sparse(tuple(lower_cuts), tuple(upper_cuts) if any(cut != NOTHING for cut in upper_cuts) else ())]
    return (yield from rescaled(tensors, trimmed, found)) if tensor.parameters["rescale"] else found


def _counts(tensor: Surveyed) -> tuple[list[int], list[int]]:
    """For each model how many are larger than what is dropped as small, and how many are dropped as outliers."""
    given = tensor.parameters
    counts = [between(*pair, tensor.n_elements) for pair in zip(given["density"], given["gamma"], strict=True)]
    lower = [kept + outliers if kept else 0 for kept, outliers in counts]
    return lower, [outliers if kept else 0 for kept, outliers in counts]


def passes(tensor: Surveyed) -> int:
    """How often the survey reads a tensor."""
    cut = any(0 < count < tensor.n_elements for counts in _counts(tensor) for count in counts)
    return cut + tensor.parameters["rescale"]


@method(
    nothing=is_nothing,
    ranges={"density": (0, 1), "gamma": (0, 1)},
    survey=survey,
    passes=passes,
    paper="arXiv:2312.06795",
)
def breadcrumbs(
    base: Tensor,
    *models: Tensor,
    weight: Each,
    density: Each = 1.0,
    gamma: Each = 0.01,
    normalize: bool = False,
    lambda_: float = 1.0,
    rescale: bool = False,
    int8_mask: bool = False,
    here: Here,
) -> Tensor:
    """base + lambda * sum of w_i d_i; d_i is x_i - base without its largest and smallest elements.

    The int(gamma n) elements of largest magnitude are dropped, the next int(density n) kept, the rest dropped; of equal
    ones the first are the larger. normalize divides by the sum of w_i. Davari and Belilovsky, "Model Breadcrumbs".
    Tiles are (n,), float32 or float64. int8_mask is accepted and has no effect.
    """
    deltas = sparse_deltas(trimmed, base, models, here=here)
    return summed(base, deltas, weight, normalize=normalize, scale=lambda_, factors=here.surveyed.factors)
