"""Matrices by their singular vectors: what tsv_m and iso_c share. Bits are those of one device's linear algebra."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from expo.methods.task_vectors import less

if TYPE_CHECKING:
    from torch import Tensor


def by_matrix(
    base: Tensor,
    models: Sequence[Tensor],
    shape: tuple[int, ...],
    merge: Callable[[Iterator[Tensor], int], Tensor],
    scale: float,
) -> Tensor:
    """base + scale * `merge` of the models' deltas, (n,); three dimensions are a stack of matrices.

    A tensor that is no matrix, or one with a single row or column, takes the mean of the deltas. merge: of the deltas
    of one matrix, (rows, columns), which come one at a time and may be changed, and of their number.
    """
    import torch

    if len(shape) not in (2, 3) or min(shape[-2:]) < 2:
        return by_mean(base, models, scale)
    moved = torch.empty_like(base)
    stacks = [x.view(-1, *shape[-2:]) for x in (moved, base, *models)]
    for into, start, *ends in zip(*stacks, strict=True):
        into.copy_(merge((end - start for end in ends), len(ends)))
    return less(base, moved.mul_(-scale))


def by_mean(base: Tensor, models: Sequence[Tensor], scale: float) -> Tensor:
    """base + scale * the mean of the models' deltas."""
    back = models[0].sub_(base)
    for model in models[1:]:
        back += model.sub_(base)
    return less(base, back.mul_(-scale / len(models)))


def decomposed(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(U, S, V^T) up to the rank that the matrix has in its floats: what lies below is noise without a direction."""
    import torch

    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((s > s[:1] * (max(matrix.shape) * torch.finfo(s.dtype).eps)).count_nonzero())
    return u[:, :rank], s[:rank], vt[:rank]


def whitened(parts: list[Tensor]) -> Tensor:
    """The matrix with orthonormal columns nearest to these side by side (Procrustes); empties the list.

    Where columns depend on others, the nearest partial isometry: what they lack has no direction.
    """
    import torch

    joined = torch.cat(parts, 1)
    parts.clear()
    u, _, vt = decomposed(joined)
    return u @ vt
