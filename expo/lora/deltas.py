"""Deltas of a pair of checkpoints: what changed, one of them whole, and what a product of factors leaves of it."""

import math

import torch
from torch import Tensor

from expo.analysis.measure import Measure, Sums
from expo.analysis.pool import for_each, segments
from expo.checkpoint import Shards
from expo.checkpoint.spec import TensorSpec
from expo.errors import DataError
from expo.ops import torch_dtype
from expo.planning.budget import TILE


def survey(pairs, readers, threads: int, progress) -> dict[str, Sums]:
    """How far each pair lies apart; raises DataError for what an adapter cannot hold."""
    measure = Measure(pairs, *readers)

    def work(piece: tuple[TensorSpec, int]) -> None:
        n_bytes = measure.segment(*piece)
        if progress:
            progress(2 * n_bytes)

    for_each(segments(pair.b for pair in pairs.values()), lambda: work, threads)
    sums = {name: measure.sums(name) for name in pairs}
    for name, found in sums.items():
        if found.n_non_finite:
            raise DataError(f"{name}: {found.n_non_finite} elements are not finite in one of the two.")
        if found.n_changed and not pairs[name].computed:
            raise DataError(f"{name} is {pairs[name].b.dtype} and differs: an adapter holds floats only.")
    return sums


def delta_of(pair, readers) -> Tensor:
    """tuned - base, rounded once to float32: (rows, columns)."""
    a, b = (wide(spec, reader) for spec, reader in zip((pair.a, pair.b), readers, strict=True))
    return b.sub_(a).to(torch.float32).view(pair.b.shape)


def wide(spec: TensorSpec, reader: Shards) -> Tensor:
    """A tensor in float32 where it has at most 24 significant bits, else in float64."""
    whole = torch.empty(spec.n_elements, dtype=torch.float64 if spec.dtype.bits > 32 else torch.float32)
    raw = torch.empty(spec.dtype.n_bytes(TILE), dtype=torch.uint8)
    for start in range(0, spec.n_elements, TILE):
        n = min(TILE, spec.n_elements - start)
        piece = raw[: spec.dtype.n_bytes(n)]
        reader.read_into(memoryview(piece.numpy()), spec, spec.dtype.n_bytes(start))
        whole[start : start + n].copy_(piece.view(torch_dtype(spec.dtype)))
    return whole


def residual(delta: Tensor, b: Tensor, a: Tensor) -> tuple[float, float]:
    """|delta - B A|^2 and |delta|^2, by blocks of rows, in float64."""
    lost, total = [], []
    for first in range(0, len(delta), 256):
        rows = delta[first : first + 256].double()
        total.append(float(rows.square().sum()))
        lost.append(float((rows - b[first : first + 256] @ a).square().sum()))
    return math.fsum(lost), math.fsum(total)
