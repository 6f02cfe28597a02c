"""Iso-C: the sum of all tasks with every direction as strong as the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from expo.methods.declare import Here, method
from expo.methods.singular import by_matrix, by_mean, decomposed

if TYPE_CHECKING:
    from torch import Tensor


@method(
    reads=lambda lambda_, spectral: "tensor" if spectral else "tile",
    exact="per device",
    nothing=lambda lambda_, spectral: lambda_ == 0,
    scratch=7,
    paper="arXiv:2502.04959",
)
def iso_c(base: Tensor, *models: Tensor, lambda_: float = 1.0, spectral: bool = True, here: Here) -> Tensor:
    """base + lambda * mean(S) * U V^T, where U S V^T is the sum of the models' deltas.

    The mean is over the singular values that are not zero. Three dimensions are a stack of matrices. Vectors, and
    with spectral: false (say, for embeddings, by a filter) any tensor, take the mean of the deltas. Marczak et al.,
    "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces". Tiles are whole tensors,
    (n,).
    """
    if not spectral:
        return by_mean(base, models, lambda_)
    return by_matrix(base, models, here.shape, _flattened, lambda_)


def _flattened(deltas: Iterator[Tensor], n: int) -> Tensor:
    """The sum of n deltas with each singular value replaced by their mean, (rows, columns)."""
    total = next(deltas)
    for delta in deltas:
        total += delta
    u, s, vt = decomposed(total)
    return (u * s.mean()) @ vt if len(s) else total.zero_()
