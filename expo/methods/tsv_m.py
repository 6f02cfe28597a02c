"""TSV-M: the strongest singular vectors of each task, made orthogonal to those of the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from expo.methods.declare import Here, method
from expo.methods.singular import by_matrix, by_mean, decomposed, whitened

if TYPE_CHECKING:
    from torch import Tensor


@method(
    reads=lambda lambda_, spectral: "tensor" if spectral else "tile",
    exact="per device",
    nothing=lambda lambda_, spectral: lambda_ == 0,
    scratch=9,
    paper="arXiv:2412.00081",
)
def tsv_m(base: Tensor, *models: Tensor, lambda_: float = 1.0, spectral: bool = True, here: Here) -> Tensor:
    """base + lambda * U S V^T of the models' leading singular vectors, U and V whitened.

    Each of n deltas keeps 1/n of its singular vectors; U and V of all are joined and replaced by the nearest matrices
    with orthonormal columns. Three dimensions are a stack of matrices. Vectors, and with spectral: false (say, for
    embeddings, by a filter) any tensor, take the mean of the deltas. Gargiulo et al., "Task Singular Vectors:
    Reducing Task Interference in Model Merging". Tiles are whole tensors, (n,).
    """
    if not spectral or len(models) == 1:
        return by_mean(base, models, lambda_)
    return by_matrix(base, models, here.shape, _merge, lambda_)


def _merge(deltas: Iterator[Tensor], n: int) -> Tensor:
    """U S V^T of n deltas, (rows, columns)."""
    import torch

    left, middle, right = [], [], []
    for delta in deltas:
        share = max(1, min(delta.shape) // n)
        u, s, vt = decomposed(delta)
        left.append(u[:, :share].clone())
        middle.append(s[:share])
        right.append(vt[:share].T.clone())
        del delta, u, vt  # before the next ones come
    return (whitened(left) * torch.cat(middle)) @ whitened(right).T
