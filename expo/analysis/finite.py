"""NaN and infinities in raw tensor bytes, found by two maxima over integers: faster than any float arithmetic."""

import numpy as np

from expo.dtypes import DType

_SIGNED = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
_UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


def least_bad(dtype: DType) -> int:
    """The bits of the least positive pattern that is no finite number; sign and magnitude order the patterns."""
    if dtype.name == "F8_E4M3":
        return 0x7F  # it has one NaN and no infinity
    return (1 << dtype.bits - 1) - (1 << dtype.mantissa)


def count_bad(raw: memoryview, dtype: DType) -> tuple[int, int, str]:
    """(how many elements are not finite, the first one's index, "nan" or "inf") in the bytes of a float tensor."""
    signed = np.frombuffer(raw, _SIGNED[dtype.bits])
    unsigned = signed.view(_UNSIGNED[dtype.bits])
    bad, sign = least_bad(dtype), 1 << dtype.bits - 1
    # Bits of positive floats are ordered as signed integers, those of negative ones as unsigned.
    if not len(signed) or (int(signed.max()) < bad and int(unsigned.max()) < sign + bad):
        return 0, -1, ""
    size = unsigned & unsigned.dtype.type(sign - 1)
    found = np.flatnonzero(size >= bad)
    first = int(found[0])
    infinite = int(size[first]) == bad and dtype.name != "F8_E4M3"
    return len(found), first, "inf" if infinite else "nan"
