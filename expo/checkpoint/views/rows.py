"""An embedding or a head with the output vocabulary's rows: each from one stored row, the mean of several, or zeros."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xxhash

from expo.checkpoint.spec import TensorSpec
from expo.checkpoint.views.widen import as_float64
from expo.dtypes import DTYPES, DType

_CHUNK = 65_536  # elements widened at a time
Read = Callable[[memoryview, TensorSpec, int], None]


@dataclass(frozen=True, slots=True)
class Donor:
    """A tensor that rows are taken from; `prefix` stands before its files where they belong to another checkpoint."""

    spec: TensorSpec
    prefix: str = ""

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        """Its stored tensors, under the files' names in the checkpoint that reads them."""
        return tuple(self.moved(part) for part in self.spec.parts)

    def moved(self, part: TensorSpec) -> TensorSpec:
        return replace(part, file=self.prefix + part.file) if self.prefix else part

    def read_into(self, out: memoryview, start: int, read: Read, held: dict[str, Any]) -> None:
        """Fill `out` with the donor's own bytes, computed where it is a view itself."""
        if self.spec.view is None:
            read(out, self.moved(self.spec), start)
        else:
            self.spec.view.read_into(out, start, lambda piece, part, at: read(piece, self.moved(part), at), held)


class RowTable:
    """Output row -> the rows it is made of, as (donor, row) pairs: none for zeros, several for their mean.

    Held as runs of consecutive rows, in arrays: a vocabulary has hundreds of thousands.
    """

    def __init__(self, rows: Sequence[Sequence[tuple[int, int]]]):
        counts = np.fromiter(map(len, rows), np.int32, len(rows))
        flat = np.array([pair for sources in rows for pair in sources], np.int64).reshape(-1, 2)
        first = np.cumsum(counts) - counts  # of each row's pairs
        donor, row = (np.append(flat[:, k], -1)[np.where(counts == 0, -1, first)] for k in (0, 1))
        follows = (counts[1:] == counts[:-1]) & (counts[1:] <= 1) & (donor[1:] == donor[:-1])
        follows &= (row[1:] == row[:-1] + 1) | (counts[1:] == 0)
        begins = np.flatnonzero(np.append(True, ~follows)) if len(rows) else np.zeros(0, np.int64)
        self.n_rows = len(rows)
        self.starts = begins.astype(np.int64)  # first output row of each run
        # A run of several rows has at most one pair, its first row's.
        self.pairs = flat[np.concatenate([np.arange(first[k], first[k] + counts[k]) for k in begins] or [begins])]
        self.ends = np.cumsum(counts[begins])  # of each run's pairs
        self.has_means = bool((counts > 1).any())

    @property
    def digest(self) -> str:
        """The same for tables that say the same."""
        state = xxhash.xxh3_128(self.n_rows.to_bytes(8, "little"))
        for array in (self.starts, self.ends.astype(np.int64), self.pairs):
            state.update(np.ascontiguousarray(array).tobytes())
        return state.hexdigest()

    @property
    def donors(self) -> tuple[int, ...]:
        """Every donor that a row comes from."""
        return tuple(np.unique(self.pairs[:, 0]).tolist())

    def runs(self, first: int, end: int) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
        """(first row, row after the last, sources of the first) of the runs that touch rows [first, end)."""
        k = int(np.searchsorted(self.starts, first, side="right")) - 1
        while k < len(self.starts) and self.starts[k] < end:
            after = int(self.starts[k + 1]) if k + 1 < len(self.starts) else self.n_rows
            pairs = self.pairs[self.ends[k - 1] if k else 0 : self.ends[k]]
            yield int(self.starts[k]), after, [tuple(pair) for pair in pairs.tolist()]
            k += 1


class RowsView:
    """A tensor over the vocabulary, its rows gathered from those of several tensors.

    Rows are copied as bytes where every donor has the view's type and none is a mean; otherwise the view is float32
    (float64 if a donor is), which holds each donor's values exactly; a mean is summed in float64 and rounded once.
    """

    def __init__(self, table: RowTable, donors: Sequence[Donor], shape: tuple[int, ...], dtype: DType):
        self.table = table
        self.donors = tuple(donors)
        self.shape = shape
        self.dtype = dtype
        self.parts = tuple(part for k in table.donors for part in self.donors[k].parts)
        self.row_bytes = dtype.n_bytes(int(np.prod(shape[1:], dtype=np.int64)))

    @property
    def scratch_bytes(self) -> int:
        """The widened chunks, and what donors that are views need."""
        nested = [self.donors[k].spec.view for k in self.table.donors]
        return 24 * _CHUNK + max((view.scratch_bytes for view in nested if view), default=0)

    def read_into(self, out: memoryview, start: int, read: Read, held: dict[str, Any]) -> None:
        """Fill `out` with bytes [start, start + len(out)): one read for each run of rows that lie together."""
        out = memoryview(out).cast("B")
        end = start + len(out)
        for first, after, sources in self.table.runs(start // self.row_bytes, -(-end // self.row_bytes)):
            begin = max(start, first * self.row_bytes)
            piece = out[begin - start : min(end, after * self.row_bytes) - start]
            self._fill(piece, sources, begin - first * self.row_bytes, read, held)

    def _fill(self, out: memoryview, sources: list[tuple[int, int]], at: int, read: Read, held: dict) -> None:
        """Bytes from `at` on of the run that begins with these sources."""
        if not sources:
            np.frombuffer(out, np.uint8)[:] = 0
            return
        (donor, row), *others = sources
        if not others and self.donors[donor].spec.dtype == self.dtype:
            self._donor(donor, out, row * self.row_bytes + at, read, held)
            return
        width = self.dtype.bits // 8
        begin, end = at // width, -(-(at + len(out)) // width)  # elements that the bytes touch
        for first in range(begin, end, _CHUNK):
            n = min(_CHUNK, end - first)
            raw = self._mean(sources, first, n, read, held).view(np.uint8)
            cut = raw[max(0, at - first * width) : at + len(out) - first * width]
            target = max(0, first * width - at)
            np.frombuffer(out, np.uint8)[target : target + len(cut)] = cut

    def _mean(self, sources: list[tuple[int, int]], first: int, n: int, read: Read, held: dict) -> np.ndarray:
        """Elements [first, first + n) of the run, in the view's type."""
        n_columns = self.row_bytes * 8 // self.dtype.bits
        total = None
        for donor, row in sources:
            dtype = self.donors[donor].spec.dtype
            raw = np.empty(dtype.n_bytes(n), np.uint8)
            self._donor(donor, memoryview(raw), dtype.n_bytes(row * n_columns + first), read, held)
            wide = as_float64(raw, dtype)
            total = wide if total is None else total + wide
        with np.errstate(invalid="ignore", over="ignore"):
            mean = total / len(sources) if len(sources) > 1 else total
            return mean.astype(np.float64 if self.dtype == DTYPES["F64"] else np.float32)

    def _donor(self, k: int, out: memoryview, at: int, read: Read, held: dict) -> None:
        self.donors[k].read_into(out, at, read, held.setdefault(f"rows of donor {k}", {}))

    def __repr__(self) -> str:
        donors = [(k, self.donors[k].parts) for k in self.table.donors]
        return f"RowsView({self.table.digest}, {self.shape}, {self.dtype}, {donors})"


def with_rows(own: TensorSpec, table: RowTable, donors: Sequence[Donor]) -> TensorSpec:
    """`own` with the rows of a table: its name, place and stored type, and the view that computes it."""
    types = {donors[k].spec.dtype.name for k in table.donors} or {own.dtype.name}
    if len(types) > 1 or table.has_means:
        types = {"F64"} if "F64" in types else {"F32"}
    dtype = DTYPES[types.pop()]
    shape = (table.n_rows, *own.shape[1:])
    view = RowsView(table, donors, shape, dtype)
    return replace(
        own, dtype=dtype, shape=shape, offset=0, n_bytes=table.n_rows * view.row_bytes, view=view,
        base_dtype=own.stored_dtype,
    )  # fmt: skip
