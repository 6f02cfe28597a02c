"""8-bit floats with scales beside them, as the float32 numbers that they stand for. Loads torch late.

Each number is its float8's value times the scale of its block, both exact in float32, rounded once.
"""

from dataclasses import dataclass
from typing import Any

from expo.checkpoint.spec import TensorSpec
from expo.checkpoint.views.nested import Read, Touched
from expo.dtypes import DTYPES
from expo.errors import BadScale

_CHUNK = 65_536  # elements read at a time
_GAIN = {"F8_E4M3": 256.0, "F8_E5M2": 1.0}  # 2 to the difference of the exponents' biases, to float16's
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
        return 6 * _CHUNK + 12 * self.scale.n_elements + 4 * self.matrix[1]

    def touched(self, start: int, n_bytes: int) -> Touched:
        """The same elements of the stored tensor; the scales are read once."""
        yield self.weight, start // 4, n_bytes // 4

    def read_into(self, out: memoryview, start: int, read: Read, held: dict[str, Any]) -> None:
        """Fill `out` with bytes [start, start + len(out)) of the float32 numbers."""
        import torch

        out = memoryview(out).cast("B")
        first, last = start // 4, -(-(start + len(out)) // 4)
        straight = start % 4 == 0 and len(out) % 4 == 0
        values = torch.frombuffer(out, dtype=torch.float32) if straight and len(out) else torch.empty(last - first)
        for at in range(first, last, _CHUNK):
            self._compute(torch, values[at - first :][:_CHUNK], at, read, held)
        if not straight:  # a reader may begin inside an element
            whole = memoryview(values.numpy()).cast("B")
            out[:] = whole[start - first * 4 :][: len(out)]

    def _compute(self, torch: Any, values: Any, first: int, read: Read, held: dict[str, Any]) -> None:
        """Elements [first, first + len(values))."""
        size = values.numel()
        if "float8" not in held:
            held["float8"] = Widening(torch)
        held["float8"].fill(values, self.weight, first, read)
        scales = self._scales(torch, read, held)  # (matrices, rows, columns) of blocks
        if scales.numel() == 1:
            values.mul_(scales.view(()))
            return
        (n_rows, width), (rows, _) = self.matrix, self.block
        done = 0
        while done < size:
            row, column = divmod(first + done, width)
            matrix, inside = divmod(row, n_rows)
            factors = self._factors(scales, matrix, inside // rows, held)
            if column or size - done < width:  # part of a row
                n = min(width - column, size - done)
                values[done : done + n].mul_(factors[column : column + n])
            else:
                together = min(rows - inside % rows, n_rows - inside, (size - done) // width)
                n = together * width
                values[done : done + n].view(together, width).mul_(factors)
            done += n

    def _factors(self, scales: Any, matrix: int, row: int, held: dict[str, Any]) -> Any:
        """The scale of each element of a row of blocks; the last one asked for stays in `held`."""
        kept = held.get("factors")
        if kept is None or kept[0] is not self or kept[1:3] != (matrix, row):
            width = self.matrix[1]
            own = scales[matrix if scales.shape[0] > 1 else 0, row]
            own = own.unsqueeze(1).expand(-1, self.block[1] if own.numel() > 1 else width).reshape(-1)[:width]
            kept = held["factors"] = (self, matrix, row, own)
        return kept[3]

    def _scales(self, torch: Any, read: Read, held: dict[str, Any]) -> Any:
        """All scales, times what `Widening` leaves to be multiplied; exact, as that is a power of two."""
        kept = held.get("scales")
        if kept is None or kept[0] is not self:
            import numpy as np

            raw = np.empty(self.scale.n_bytes, np.uint8)
            read(memoryview(raw), self.scale, 0)
            scales = widened(raw, self.scale)
            if problem := wrong_scale(scales, self.scale):
                raise BadScale(problem)
            wide = torch.from_numpy(scales.astype(np.float32))
            kept = held["scales"] = (self, wide.mul_(_GAIN[self.weight.dtype.name]).view(-1, *self.grid))
        return kept[1]


class Widening:
    """One thread's buffers for float8 codes on their way to float32, exactly, over their type's gain.

    They go by way of float16, whose fields lie in the same order: torch's own conversion takes ten times as long
    (measured: 5.8 ns an element). numpy does the integers, for torch takes some microseconds for each operation.
    """

    def __init__(self, torch: Any):
        import numpy as np

        self.np = np
        self.raw = bytearray(_CHUNK)
        self.codes = np.frombuffer(self.raw, np.int8)
        self.bits = np.empty(_CHUNK, np.int16)
        self.halves = torch.from_numpy(self.bits).view(torch.float16)

    def fill(self, values: Any, weight: TensorSpec, first: int, read: Read) -> None:
        """Elements [first, first + len(values)) of a tensor."""
        size = values.numel()
        codes, bits = self.codes[:size], self.bits[:size]
        read(memoryview(self.raw)[:size], weight, first)
        if weight.dtype.name == "F8_E5M2":
            self.np.multiply(codes, self.np.int16(1 << 8), out=bits)
            values.copy_(self.halves[:size])
            return
        self.np.multiply(codes, self.np.int16(1 << 7), out=bits)  # the sign fills the upper bits
        self.np.bitwise_and(bits, self.np.int16(~0x4000), out=bits)  # four bits of exponent where float16 has five
        values.copy_(self.halves[:size])
        if self.raw.find(0x7F, 0, size) >= 0 or self.raw.find(0xFF, 0, size) >= 0:  # the type's only NaN
            values.numpy()[(codes & 0x7F) == 0x7F] = self.np.nan


def widened(raw: Any, scale: TensorSpec) -> Any:
    """Scales as float64, exactly, from their stored bytes; of the type without fraction each is a power of two."""
    import numpy as np

    from expo.checkpoint.views.widen import as_float64

    if scale.dtype.name == "F8_E8M0":
        return np.where(raw == 255, np.nan, np.ldexp(1.0, raw.astype(np.int64) - 127))
    return as_float64(raw, scale.dtype)


def wrong_scale(values: Any, scale: TensorSpec) -> str | None:
    """A sentence about scales that hold zero, a negative number, NaN or an infinity."""
    import numpy as np

    wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if not len(wrong):
        return None
    more = f", and {len(wrong) - 1} more of it are wrong too" if len(wrong) > 1 else ""
    return (
        f"{scale.name}[{wrong[0]}] is {values[wrong[0]]:g}: a scale is a positive number{more}. "
        "The file is damaged: download it again."
    )


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
