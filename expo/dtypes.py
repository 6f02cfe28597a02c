"""One table of element types: the safetensors name, torch's name, the width, and how it rounds. Knows no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DType:
    """One element type as safetensors spells it."""

    name: str
    torch_name: str  # attribute of torch; "" where torch has no such type
    bits: int
    mantissa: int = 0  # stored fraction bits; 0 for types that are only copied
    min_exponent: int = 0  # exponent of the smallest normal number
    largest: float = 0.0  # largest finite value
    overflow: float = 0.0  # half a step above `largest`, where rounding to nearest leaves the range

    @property
    def computed(self) -> bool:
        """True for the floats that arithmetic is done on; every other type is copied."""
        return self.mantissa > 0

    @property
    def tie_overflows(self) -> bool:
        """Whether `overflow` itself rounds beyond `largest`: ties go to the even neighbour, which in E4M3 is 448."""
        return self.name != "F8_E4M3"

    def n_bytes(self, n_elements: int) -> int:
        """Bytes that hold `n_elements`; narrow types share bytes, and a ragged end is refused by the header."""
        return n_elements * self.bits // 8

    def __str__(self) -> str:
        return self.name


def _float(name: str, torch_name: str, bits: int, mantissa: int, min_exponent: int, largest: float) -> DType:
    exponent = 0  # of `largest`
    while 2.0**exponent * 2 <= largest:
        exponent += 1
    half_step = 2.0 ** (exponent - mantissa - 1)
    return DType(name, torch_name, bits, mantissa, min_exponent, largest, largest + half_step)


_FLOATS = [
    DType("F64", "float64", 64, 52, -1022, 1.7976931348623157e308, float("inf")),
    _float("F32", "float32", 32, 23, -126, (2 - 2.0**-23) * 2.0**127),
    _float("F16", "float16", 16, 10, -14, 65504.0),
    _float("BF16", "bfloat16", 16, 7, -126, (2 - 2.0**-7) * 2.0**127),
    _float("F8_E4M3", "float8_e4m3fn", 8, 3, -6, 448.0),
    _float("F8_E5M2", "float8_e5m2", 8, 2, -14, 57344.0),
]
_COPIED = [
    DType("I64", "int64", 64),
    DType("U64", "uint64", 64),
    DType("C64", "complex64", 64),
    DType("I32", "int32", 32),
    DType("U32", "uint32", 32),
    DType("I16", "int16", 16),
    DType("U16", "uint16", 16),
    DType("I8", "int8", 8),
    DType("U8", "uint8", 8),
    DType("BOOL", "bool", 8),
    DType("F8_E4M3FNUZ", "float8_e4m3fnuz", 8),
    DType("F8_E5M2FNUZ", "float8_e5m2fnuz", 8),
    DType("F8_E8M0", "float8_e8m0fnu", 8),
    DType("F6_E2M3", "", 6),
    DType("F6_E3M2", "", 6),
    DType("F4", "", 4),
]

DTYPES = {dtype.name: dtype for dtype in [*_FLOATS, *_COPIED]}
BY_TORCH_NAME = {dtype.torch_name: dtype for dtype in DTYPES.values() if dtype.torch_name}
COMPUTED = tuple(dtype.name for dtype in _FLOATS)
