"""Norms, products and counts of two tensors, folded tile by tile in float64, whatever the order of the threads."""

import math
import threading
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from expo.analysis.pairs import Pair
from expo.checkpoint import Shards
from expo.checkpoint.spec import TensorSpec
from expo.dtypes import DType
from expo.ops import SEGMENT, elements_of, n_segments, torch_dtype
from expo.planning.budget import TILE


@dataclass(frozen=True, slots=True)
class Sums:
    """What is summed over the elements of a pair (A, B)."""

    delta: float = 0.0  # |B - A|^2
    a: float = 0.0  # |A|^2
    b: float = 0.0  # |B|^2
    dot: float = 0.0  # A . B
    n_elements: int = 0
    n_changed: int = 0
    n_non_finite: int = 0  # elements that are not finite on either side, left out of the sums

    @classmethod
    def total(cls, parts: "list[Sums]") -> "Sums":
        """The sum over parts, rounded once: their order never shows."""
        names = ("delta", "a", "b", "dot")
        floats = {name: math.fsum(getattr(part, name) for part in parts) for name in names}
        counts = {name: sum(getattr(part, name) for part in parts) for name in cls.__slots__ if name not in names}
        return cls(**floats, **counts)

    @property
    def relative(self) -> float | None:
        """||B - A|| / ||B||; None where B is all zero and A is not."""
        if self.delta == 0:
            return 0.0
        return math.sqrt(self.delta / self.b) if self.b > 0 else None

    @property
    def cosine(self) -> float | None:
        """Between A and B; None where one of them is all zero."""
        return self.dot / (math.sqrt(self.a) * math.sqrt(self.b)) if self.a > 0 and self.b > 0 else None

    @property
    def changed(self) -> float | None:
        """The share of elements that differ; None for an empty tensor."""
        return self.n_changed / self.n_elements if self.n_elements else None


class Measure:
    """Reads tiles of both sides into buffers of the calling thread, and keeps one record for each segment."""

    def __init__(self, pairs: dict[str, Pair], a: Shards, b: Shards):
        self.pairs = pairs
        self.readers = (a, b)
        self.parts: dict[tuple[str, int], Sums] = {}
        self.local = threading.local()

    def tile(self, name: str, start: int, n: int) -> None:
        """Add elements [start, start + n), within one segment; one thread does a segment, from first to last."""
        pair = self.pairs[name]
        key = (name, start // SEGMENT)
        found = self._floats(pair, start, n) if pair.computed else self._bytes(pair, start, n)
        before = self.parts.get(key)
        self.parts[key] = Sums.total([before, found]) if before else found

    def segment(self, spec: TensorSpec, segment: int) -> int:
        """Add one segment of the pair that B's tensor `spec` belongs to; returns its bytes in B."""
        first, last = elements_of(segment, spec.n_elements)
        with torch.inference_mode():
            for start in range(first, last, TILE):
                self.tile(spec.name, start, min(TILE, last - start))
        return spec.dtype.n_bytes(last - first)

    def sums(self, name: str) -> Sums:
        """All segments of one tensor together."""
        count = n_segments(self.pairs[name].b.n_elements)
        return Sums.total([self.parts.get((name, segment), Sums()) for segment in range(count)])

    def _floats(self, pair: Pair, start: int, n: int) -> Sums:
        a = self._wide(0, self._read(0, pair.a, start, n), pair.a.dtype)
        b = self._wide(1, self._read(1, pair.b, start, n), pair.b.dtype)
        delta = torch.sub(b, a, out=self._buffer("delta", n, torch.float64))
        sums = [float(torch.dot(x, y)) for x, y in ((delta, delta), (a, a), (b, b), (a, b))]
        if all(map(math.isfinite, sums)):
            return Sums(*sums, n, int(np.count_nonzero(a.numpy() != b.numpy())))
        return _with_gaps(a, b)

    def _bytes(self, pair: Pair, start: int, n: int) -> Sums:
        """Elements that hold other bytes; types narrower than a byte are counted by whole bytes."""
        a, b = self._read(0, pair.a, start, n), self._read(1, pair.b, start, n)
        width = max(1, pair.b.dtype.bits // 8)
        differ = (a != b).view(-1, width).any(1)
        n_changed = int(differ.sum()) * (width * 8 // pair.b.dtype.bits)
        return Sums(n_elements=n, n_changed=n_changed)

    def _read(self, side: int, spec, start: int, n: int) -> Tensor:
        """Raw bytes of elements [start, start + n)."""
        raw = self._buffer(f"raw{side}", spec.dtype.n_bytes(n), torch.uint8)
        self.readers[side].read_into(memoryview(raw.numpy()), spec, spec.dtype.n_bytes(start))
        return raw

    def _wide(self, side: int, raw: Tensor, dtype: DType) -> Tensor:
        narrow = raw.view(torch_dtype(dtype))
        return self._buffer(f"wide{side}", len(narrow), torch.float64).copy_(narrow)

    def _buffer(self, slot: str, n: int, dtype: torch.dtype) -> Tensor:
        held = getattr(self.local, slot, None)
        if held is None or len(held) < n:
            held = torch.empty(n, dtype=dtype)
            setattr(self.local, slot, held)
        return held[:n]


def _with_gaps(a: Tensor, b: Tensor) -> Sums:
    """The sums over elements that are finite on both sides; two NaNs count as equal."""
    finite = torch.isfinite(a) & torch.isfinite(b)
    n_changed = int(((a != b) & ~(torch.isnan(a) & torch.isnan(b))).sum())
    n_gaps = len(a) - int(finite.sum())
    a, b = torch.where(finite, a, 0.0), torch.where(finite, b, 0.0)
    delta = b - a
    sums = [float(torch.dot(x, y)) for x, y in ((delta, delta), (a, a), (b, b), (a, b))]
    return Sums(*sums, len(a), n_changed, n_gaps)
