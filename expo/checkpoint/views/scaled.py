"""8-bit floats with scales beside them, as the float32 numbers that they stand for. Loads torch late.

Each number is its float8's value times the scale of its block, both exact in float32, rounded once.
"""

from dataclasses import dataclass
from typing import Any

from expo.checkpoint.spec import TensorSpec
from expo.checkpoint.views.nested import Read, Touched
from expo.dtypes import DTYPES

_CHUNK = 65_536  # elements read at a time
SCALE_TYPES = ("F32", "BF16", "F16", "F8_E8M0")


@dataclass(frozen=True)
class ScaledTensor:
    """The view of a float8 tensor with one scale for each block of its last two axes."""

    weight: TensorSpec  # (..., rows, columns)
    scale: TensorSpec  # in storage order one number a block, of one matrix after the other; or one for all
    block: tuple[int, int]  # rows and columns that share a scale

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        return (self.weight, self.scale)

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of one matrix; a vector is one row."""
        return ((1, 1), *self.weight.shape)[-2:] if len(self.weight.shape) > 1 else (1, self.weight.n_elements)

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks along both axes."""
        return tuple(-(-n // size) for n, size in zip(self.matrix, self.block, strict=True))

    @property
    def scratch_bytes(self) -> int:
        """What is read at a time, the scales as stored and widened, and those of one row."""
        return _CHUNK + 12 * self.scale.n_elements + 4 * self.matrix[1]

    def touched(self, start: int, n_bytes: int) -> Touched:
        """The same elements of the stored tensor; the scales are read once."""
        yield self.weight, start // 4, n_bytes // 4

    def read_into(self, out: memoryview, start: int, read: Read, held: dict[str, Any]) -> None:
        """Fill `out` with bytes [start, start + len(out)) of the float32 numbers."""
        import torch

        out = memoryview(out).cast("B")
        first, last = start // 4, -(-(start + len(out)) // 4)
        values = torch.empty(min(_CHUNK, last - first), dtype=torch.float32)
        for at in range(first, last, _CHUNK):
            n = min(_CHUNK, last - at)
            self._compute(torch, values[:n], at, read, held)
            low, high = max(start, at * 4), min(start + len(out), (at + n) * 4)
            computed = memoryview(values.numpy()).cast("B")
            out[low - start : high - start] = computed[low - at * 4 : high - at * 4]

    def _compute(self, torch: Any, values: Any, first: int, read: Read, held: dict[str, Any]) -> None:
        """Elements [first, first + len(values))."""
        raw = torch.empty(len(values), dtype=torch.uint8)
        read(memoryview(raw.numpy()), self.weight, first)
        values.copy_(raw.view(getattr(torch, self.weight.dtype.torch_name)))
        scales = self._scales(torch, read, held)  # (matrices, rows, columns) of blocks
        if scales.numel() == 1:
            values.mul_(scales.view(()))
            return
        (n_rows, width), (rows, _) = self.matrix, self.block
        done = 0
        while done < len(values):
            row, column = divmod(first + done, width)
            matrix, inside = divmod(row, n_rows)
            factors = self._factors(scales, matrix, inside // rows)
            if column or len(values) - done < width:  # part of a row
                n = min(width - column, len(values) - done)
                values[done : done + n].mul_(factors[column : column + n])
            else:
                together = min(rows - inside % rows, n_rows - inside, (len(values) - done) // width)
                n = together * width
                values[done : done + n].view(together, width).mul_(factors)
            done += n

    def _factors(self, scales: Any, matrix: int, row: int) -> Any:
        """The scale of each element of a row of blocks."""
        width = self.matrix[1]
        own = scales[matrix if len(scales) > 1 else 0, row]
        return own.expand(width) if len(own) == 1 else own.repeat_interleave(self.block[1])[:width]

    def _scales(self, torch: Any, read: Read, held: dict[str, Any]) -> Any:
        kept = held.get("scales")
        if kept is None or kept[0] is not self:
            import numpy as np

            raw = np.empty(self.scale.n_bytes, np.uint8)
            read(memoryview(raw), self.scale, 0)
            wide = torch.from_numpy(widened(raw, self.scale).astype(np.float32))
            kept = held["scales"] = (self, wide.view(-1, *self.grid))
        return kept[1]


def widened(raw: Any, scale: TensorSpec) -> Any:
    """Scales as float64, exactly, from their stored bytes; of the type without fraction each is a power of two."""
    import numpy as np

    from expo.checkpoint.views.widen import as_float64

    if scale.dtype.name == "F8_E8M0":
        return np.where(raw == 255, np.nan, np.ldexp(1.0, raw.astype(np.int64) - 127))
    return as_float64(raw, scale.dtype)


def fitting_block(weight: TensorSpec, scale: TensorSpec, stated: tuple[int, int] | None) -> tuple[int, int] | None:
    """The block that a scale's shape means: the stated size, one for all, one a row, or 128 x 128; None for no fit."""
    rows, columns = ScaledTensor(weight, scale, (1, 1)).matrix
    n_matrices = weight.n_elements // max(1, rows * columns)

    def fits(block: tuple[int, int]) -> bool:
        grid = (-(-rows // block[0]), -(-columns // block[1]))
        shape = scale.shape
        if grid == (1, 1):
            return scale.n_elements in (1, n_matrices)
        if grid[1] == 1 and scale.n_elements == n_matrices * rows:
            return shape[:1] == weight.shape[:1] and (len(shape) < 2 or shape[-1] == 1 or shape[-1] == rows)
        return shape == (*weight.shape[:-2], *grid)

    tried = [stated] if stated else []
    tried += [(rows, columns), (1, columns), (128, 128)]
    return next((block for block in tried if rows and columns and fits(block)), None)


def as_scaled(weight: TensorSpec, scale: TensorSpec, block: tuple[int, int]) -> TensorSpec:
    """The weight as a tensor of its checkpoint: computed in float32, written as bfloat16 unless told otherwise."""
    view = ScaledTensor(weight, scale, block)
    n_bytes = 4 * weight.n_elements
    return TensorSpec(weight.name, DTYPES["F32"], weight.shape, weight.file, 0, n_bytes, view, DTYPES["BF16"])
