"""A base tensor with adapters applied, in blocks of rows: W + s B A, DoRA's norms, replaced tensors. Loads torch late.

Everything is computed in float64 and rounded once, to the view's own type. The shape of every matrix product depends
on the tensor alone: blocks of a fixed number of rows (the last one filled up with zeros) and of fixed columns. So no
reader's cuts, no thread and no tile changes a bit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from expo.checkpoint.spec import TensorSpec
from expo.checkpoint.views.nested import Read, through
from expo.dtypes import DTYPES, DType

MOST_ROWS = 128  # of a block
_BLOCK = 2**18  # elements of a block, where its rows are so long that fewer of them fill it
_LIBRARY = 8 * 2**20  # bytes that the matrix library keeps for itself, a thread
_LEAST_RANK = 2  # a product of rank 1 is no sum that starts at +0, so it may be -0
_COLUMNS = 1024  # of one matrix product: a panel of them stays in the cache


@dataclass(frozen=True, slots=True)
class LowRank:
    """One adapter's change to one tensor: scale * B @ A, or its transpose."""

    a: TensorSpec  # (rank, n_in), of a convolution (rank, n_in, ...)
    b: TensorSpec  # (n_out, rank), of a convolution (n_out, rank, 1, ...)
    scale: float
    transposed: bool  # embeddings, and weights stored as (n_in, n_out)
    magnitude: TensorSpec | None = None  # DoRA: the norm of each output's weights, n_out elements

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        return (self.a, self.b) if self.magnitude is None else (self.a, self.b, self.magnitude)


@dataclass(frozen=True)
class AdaptedTensor:
    """The view of `base` with changes applied in order, each to the result of those before it."""

    base: TensorSpec
    changes: tuple[LowRank, ...] = ()

    @property
    def dtype(self) -> DType:
        """The type of the view's elements: wide enough that rounding to it is not seen in an output of the base's."""
        if not self.changes:
            return self.base.dtype
        return DTYPES["F32"] if self.base.dtype.bits <= 16 else DTYPES["F64"]

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        return (*self.base.parts, *(part for change in self.changes for part in change.parts))

    @property
    def n_columns(self) -> int:
        return math.prod(self.base.shape[1:])

    @property
    def n_rows_at_once(self) -> int:
        """Rows of a block: at most 128, fewer where rows are long, never fewer than 32."""
        rows = MOST_ROWS
        while rows > 32 and rows * self.n_columns > _BLOCK:
            rows //= 2
        return rows

    @property
    def scratch_bytes(self) -> int:
        """Memory of one thread: a block in float64, as read and as given out; panels; the factors, also as read."""
        below = self.base.view.scratch_bytes if self.base.view else 0
        if not self.changes:
            return below
        n_block = self.n_rows_at_once * self.n_columns
        n_factors = sum(change.rank * (self.n_columns + self.n_rows_at_once) for change in self.changes)
        wide_as_read = 8 + (self.dtype.bits + self.base.dtype.bits) // 8
        return n_block * wide_as_read + 2 * MOST_ROWS * _COLUMNS * 8 + n_factors * 16 + _LIBRARY + below

    def read_into(self, out: memoryview, start: int, read: Read, held: dict[str, Any]) -> None:
        """Fill `out` with bytes [start, start + len(out)) of the view, in `dtype`."""
        read = through(read, held)
        if not self.changes:
            read(out, self.base, start)
            return
        if not len(out):
            return
        blocks = held.get("blocks")
        if blocks is None or blocks.view is not self:
            held.pop("blocks", None)  # its memory goes before the next one's comes
            blocks = held["blocks"] = _Blocks(self, read)
        done = 0
        while done < len(out):
            index, inside = divmod(start + done, blocks.n_bytes)
            block = blocks.at(index)
            n = min(len(out) - done, len(block) - inside)
            out[done : done + n] = block[inside : inside + n]
            done += n


class _Blocks:
    """One thread's buffers for one view, and the block that was computed last."""

    def __init__(self, view: AdaptedTensor, read: Read):
        import torch

        self.view, self.read, self.torch = view, read, torch
        self.n_rows, self.n_columns = view.base.shape[0], view.n_columns
        self.rows = view.n_rows_at_once
        with torch.inference_mode():
            self.raw = torch.empty(self.rows * self.n_columns * view.base.dtype.bits // 8, dtype=torch.uint8)
            self.narrow = self.raw.view(getattr(torch, view.base.dtype.torch_name)).view(self.rows, self.n_columns)
            self.wide = torch.empty(self.rows, self.n_columns, dtype=torch.float64)
            self.given = self.wide
            if view.dtype.name != "F64":
                self.given = torch.empty(self.rows, self.n_columns, dtype=getattr(torch, view.dtype.torch_name))
            self.panel = torch.empty(self.rows * _COLUMNS, dtype=torch.float64)
            self.rights = [self._right(change) for change in view.changes]
            self.gains = [None] * len(view.changes)
            for k, change in enumerate(view.changes):
                self.gains[k] = self._gain(k, change)
        self.bytes = memoryview(self.given.view(torch.uint8).numpy()).cast("B")
        self.n_bytes = len(self.bytes)  # of a whole block
        self.index = -1

    def at(self, index: int) -> memoryview:
        """The bytes of one block; of the last one, only those that the tensor has."""
        n = min(self.rows, self.n_rows - index * self.rows)
        if index != self.index:
            self.index = -1
            with self.torch.inference_mode():
                self._compute(index, n, len(self.view.changes))
                if self.given is not self.wide:
                    self.given[:n].copy_(self.wide[:n])
            self.index = index
        return self.bytes[: n * self.n_bytes // self.rows]

    def _compute(self, index: int, n: int, n_changes: int) -> None:
        """Rows of the base with the first `n_changes` applied, in float64; the last one without its norm's gain."""
        first, width = index * self.rows, self.n_columns * self.view.base.dtype.bits // 8
        self.read(memoryview(self.raw.numpy())[: n * width], self.view.base, first * width)
        self.wide[:n].copy_(self.narrow[:n])
        for k, change in enumerate(self.view.changes[:n_changes]):
            self._add(self._left(change, first, n), self.rights[k], n)
            if self.gains[k] is not None:
                self.wide[:n].mul_(self.gains[k](first, n))

    def _add(self, left: Any, rights: list, n: int) -> None:
        """wide += B @ A, a panel of columns at a time; `left` holds -scale * B."""
        at = 0
        for right in rights:  # (rank, columns)
            width = right.shape[1]
            product = self.panel[: self.rows * width].view(self.rows, width)
            self.torch.mm(left, right, out=product)
            # Minus what is -delta: a weight of -0.0 keeps its sign where the delta is 0.
            self.wide[:n, at : at + width].sub_(product[:n])
            at += width

    def _left(self, change: LowRank, first: int, n: int) -> Any:
        """-scale times the left factor of rows [first, first + n), filled up with zero rows: (rows, rank)."""
        left = self.torch.zeros(self.rows, max(_LEAST_RANK, change.rank), dtype=self.torch.float64)
        if not change.transposed:
            left[:n, : change.rank].copy_(
                self._load(change.b, first * change.rank, n * change.rank).view(n, change.rank)
            )
        else:
            for k in range(change.rank):  # A is (rank, n_in), and the rows wanted are its columns
                left[:n, k].copy_(self._load(change.a, k * self.n_rows + first, n))
        return left.mul_(-change.scale).add_(0.0)  # 0, never -0, where B is 0

    def _right(self, change: LowRank) -> list:
        """The right factor as panels of columns, each (rank, columns) and in one piece."""
        factor = change.b if change.transposed else change.a
        whole = self._load(factor, 0, factor.n_elements)
        whole = whole.view(self.n_columns, change.rank).T if change.transposed else whole.view(change.rank, -1)
        wide = self.torch.zeros(max(_LEAST_RANK, change.rank), self.n_columns, dtype=self.torch.float64)
        wide[: change.rank].copy_(whole)
        return [panel.contiguous() for panel in wide.split(_COLUMNS, dim=1)]

    def _gain(self, k: int, change: LowRank) -> Callable[[int, int], Any] | None:
        """DoRA: what rows [first, first + n) are multiplied by, magnitude / norm of each output's weights."""
        if change.magnitude is None:
            return None
        magnitude = self._load(change.magnitude, 0, change.magnitude.n_elements).to(self.torch.float64)
        if change.transposed:  # an output is a column: its norm takes a pass over the tensor
            gain = _quotient(self.torch, magnitude, self._column_norms(k))
            return lambda first, n: gain
        return lambda first, n: _quotient(self.torch, magnitude[first : first + n], self._row_norms(n)).view(n, 1)

    def _row_norms(self, n: int) -> Any:
        """Norms of the first n rows of the block, by elementwise sums only: no thread count changes their order."""
        lanes = self.panel[: self.rows * _COLUMNS].view(self.rows, _COLUMNS)[:n].zero_()
        for piece in self.wide[:n].split(_COLUMNS, dim=1):
            lanes[:, : piece.shape[1]].add_(piece.square())
        return _folded(lanes.T).sqrt_()

    def _column_norms(self, k: int) -> Any:
        """Norms of the columns with the first k + 1 changes applied: one pass over the tensor."""
        squares = self.torch.zeros(self.n_columns, dtype=self.torch.float64)
        for index in range(-(-self.n_rows // self.rows)):
            n = min(self.rows, self.n_rows - index * self.rows)
            self._compute(index, n, k + 1)
            self.wide[n:].zero_()
            squares.add_(_folded(self.wide.square_()))
        return squares.sqrt_()

    def _load(self, spec: TensorSpec, first: int, n: int) -> Any:
        """Elements [first, first + n) of a stored tensor, in its own type."""
        width = spec.dtype.bits // 8
        raw = self.torch.empty(n * width, dtype=self.torch.uint8)
        self.read(memoryview(raw.numpy()), spec, first * width)
        return raw.view(getattr(self.torch, spec.dtype.torch_name))


def _folded(rows: Any) -> Any:
    """The sum over rows, a power of two of them, as a halving tree of elementwise sums; spends them."""
    half = rows.shape[0]
    while half > 1:
        half //= 2
        rows[:half].add_(rows[half : 2 * half])
    return rows[0].clone()


def _quotient(torch: Any, magnitude: Any, norm: Any) -> Any:
    """magnitude / norm; 0 for weights that are all zero, which no gain changes."""
    return torch.where(norm > 0, magnitude / norm, 0.0)
