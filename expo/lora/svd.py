"""The first singular triples of one matrix, the same bits each time. Knows no names and no files.

Where few are wanted of many, by subspace iteration from a fixed random start (Halko et al., arXiv:0909.4061).
"""

import torch
from torch import Tensor

from expo.ops import SEGMENT, counter_noise

_ALWAYS_WHOLE = 512  # sides up to here are decomposed whole: it takes no time
_SPARE = 16  # vectors beyond those wanted, at least
_ROUNDS = (2, 12)  # of subspace iteration: at least, at most
_GAIN = 1e-6  # of the energy in one round, below which the subspace is found


def first_triples(matrix: Tensor, rank: int, key: int) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, rank), S (rank,), V^T (rank, n) of the best approximation of `matrix` (m, n); all float64.

    key: of the random start, such as a hash of the tensor's name. Each row of V^T has its largest element positive.
    """
    small = min(matrix.shape)
    if _is_whole(small, rank):
        left, values, right = torch.linalg.svd(matrix.to(torch.float64), full_matrices=False)
    else:
        basis = _range_of(matrix, min(small, rank + max(_SPARE, rank // 4)), key)
        inner, values, right = torch.linalg.svd((basis.T @ matrix).to(torch.float64), full_matrices=False)
        left = basis.to(torch.float64) @ inner
    left, values, right = left[:, :rank], values[:rank], right[:rank]
    largest = right.gather(1, right.abs().argmax(1, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0)  # (rank, 1)
    return left * sign.T, values, right * sign


def working_bytes(shape: tuple[int, int], rank: int) -> int:
    """Memory that a delta of this shape and its decomposition take together, at most."""
    n_elements = shape[0] * shape[1]
    # Whole: the matrix, its factors and LAPACK's copy, all in float64. By iteration: the matrix, and both inputs
    # while it is made, in float32; the vectors are narrow.
    return n_elements * (40 if _is_whole(min(shape), rank) else 16)


def _is_whole(small: int, rank: int) -> bool:
    return small <= _ALWAYS_WHOLE or 4 * rank >= small


def balanced_factors(left: Tensor, values: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """B = U sqrt(S) and A = sqrt(S) V^T: both of one size, so that a narrow type holds them equally well."""
    root = values.sqrt()
    return left * root, root[:, None] * right


def product_triples(b: Tensor, a: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """`first_triples` of B @ A from the factors alone; b (m, k), a (k, n), with k far below m and n."""
    left, r_left = torch.linalg.qr(b.to(torch.float64))
    right, r_right = torch.linalg.qr(a.to(torch.float64).T)
    inner_left, values, inner_right = first_triples(r_left @ r_right.T, rank, 0)
    return left @ inner_left, values, inner_right @ right.T


def _range_of(matrix: Tensor, n_vectors: int, key: int) -> Tensor:
    """An orthonormal basis (m, n_vectors) of nearly all that the largest singular values span."""
    start = _noise(key, matrix.shape[1] * n_vectors).view(matrix.shape[1], n_vectors).to(matrix.dtype)
    basis = torch.linalg.qr(matrix @ start)[0]
    before = 0.0
    for turn in range(_ROUNDS[1]):
        image = matrix.T @ basis  # (n, n_vectors)
        energy = float(image.to(torch.float64).square().sum())
        if turn >= _ROUNDS[0] and energy - before <= _GAIN * energy:
            break
        before = energy
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(image)[0])[0]
    return basis


def _noise(key: int, n: int) -> Tensor:
    """n numbers, evenly spread between -1 and 1."""
    pieces = [counter_noise(key, at, min(SEGMENT, n - at)) for at in range(0, n, SEGMENT)]
    return torch.cat(pieces).to(torch.float64) * 2.0**-31
