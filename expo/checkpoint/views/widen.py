"""Stored floats as float64, exactly; numpy has no bfloat16 and no 8-bit floats. No torch."""

from functools import cache

import numpy as np

from expo.dtypes import DType

_PLAIN = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


def as_float64(raw: np.ndarray, dtype: DType) -> np.ndarray:
    """The numbers that bytes of a computed type spell; a new array."""
    if dtype.bits == 8:
        return _table(dtype)[raw]
    if dtype.name == "BF16":
        narrow = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)  # it is a float32's upper half
    else:
        narrow = raw.view(_PLAIN[dtype.name])
    with np.errstate(invalid="ignore"):  # numpy would warn of a signalling NaN, which becomes a quiet one
        return narrow.astype(np.float64)


@cache
def _table(dtype: DType) -> np.ndarray:
    """The value of each of an 8-bit type's codes."""
    codes = np.arange(256)
    sign = np.where(codes & 128, -1.0, 1.0)
    fraction = codes & ((1 << dtype.mantissa) - 1)
    exponent = (codes & 127) >> dtype.mantissa
    power = np.maximum(exponent - 1, 0) + dtype.min_exponent
    values = np.ldexp(fraction + np.where(exponent > 0, 1 << dtype.mantissa, 0), power - dtype.mantissa)
    # Beyond the largest: NaN, but in E5M2 the first such code is infinity.
    beyond = values > dtype.largest
    values = np.where(beyond, np.nan, values)
    if dtype.name == "F8_E5M2":
        values[(codes & 127) == 0x7C] = np.inf
    return sign * values
