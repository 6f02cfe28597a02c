"""How far two stored values lie apart, in steps of their type: 0 for the same value, 1 for neighbours."""

from dataclasses import dataclass

import numpy as np
import torch

from expo.dtypes import DType
from expo.ops import torch_dtype

_WORDS = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


@dataclass(frozen=True, slots=True)
class Apart:
    """Two runs of elements of one type beside each other."""

    n_elements: int = 0
    n_identical: int = 0  # of the same bits
    most_steps: int = 0
    worst: int = -1  # the element that is farthest away; -1 where all have the same value
    n_uncomparable: int = 0  # elements of other bits of which one is NaN, or whose type has no order

    def joined(self, other: "Apart") -> "Apart":
        """Both together; the earlier of two that are equally far away counts."""
        far = max((self, other), key=lambda part: (part.most_steps, -part.worst if part.worst >= 0 else -np.inf))
        return Apart(
            self.n_elements + other.n_elements,
            self.n_identical + other.n_identical,
            far.most_steps,
            far.worst,
            self.n_uncomparable + other.n_uncomparable,
        )


def apart(ours: memoryview, theirs: memoryview, dtype: DType, start: int) -> Apart:
    """Compare elements [start, ...) of a tensor, given as bytes."""
    n = len(ours) * 8 // dtype.bits
    if ours == theirs:
        return Apart(n, n)
    word = _WORDS.get(dtype.bits, np.uint8)
    mine, other = np.frombuffer(ours, word), np.frombuffer(theirs, word)
    differ = np.flatnonzero(mine != other)
    n_identical = n - len(differ) * (word().itemsize * 8 // dtype.bits)
    if not dtype.computed:
        return Apart(n, n_identical, n_uncomparable=n - n_identical)
    mine, other = mine[differ], other[differ]
    compared = ~(_is_nan(mine, dtype) | _is_nan(other, dtype))
    far = steps(mine[compared], other[compared], dtype)
    most = int(far.max()) if len(far) else 0
    worst = start + int(differ[compared][int(far.argmax())]) if most else -1
    return Apart(n, n_identical, most, worst, int((~compared).sum()))


def steps(one: np.ndarray, other: np.ndarray, dtype: DType) -> np.ndarray:
    """Representable values from one to the other, element by element; +0 and -0 are the same value."""
    a, b = _place(one, dtype), _place(other, dtype)
    # In two's complement the difference is right even where it has 65 bits' worth of signs.
    return np.maximum(a, b).astype(np.uint64) - np.minimum(a, b).astype(np.uint64)


def _place(words: np.ndarray, dtype: DType) -> np.ndarray:
    """The place of each value among all values of the type, counted from zero."""
    sign = 1 << (dtype.bits - 1)
    wide = words.astype(np.uint64)
    size = (wide & np.uint64(sign - 1)).astype(np.int64)
    return np.where(wide & np.uint64(sign), -size, size)


def _is_nan(words: np.ndarray, dtype: DType) -> np.ndarray:
    return torch.from_numpy(words.copy()).view(torch_dtype(dtype)).to(torch.float64).isnan().numpy()
