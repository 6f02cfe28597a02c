"""TSV-M: the strongest singular vectors of each task, made orthogonal to those of the others."""

from __future__ import annotations

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


def _merge(deltas: list[Tensor]) -> Tensor:
    """U S V^T of n deltas, (rows, columns)."""
    import torch

    share = max(1, min(deltas[0].shape) // len(deltas))
    us, ss, vs = [], [], []
    while deltas:
        u, s, vt = decomposed(deltas.pop(0))
        us.append(u[:, :share].clone())
        ss.append(s[:share])
        vs.append(vt[:share].T.clone())
    return (whitened(torch.cat(us, 1)) * torch.cat(ss)) @ whitened(torch.cat(vs, 1)).T
