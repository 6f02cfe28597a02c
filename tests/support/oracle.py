"""Float formats and safetensors files from their definitions alone: the tests' authority. Knows no torch, no expo."""

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Format:
    """A binary float: sign, `exponent` bits, `mantissa` bits."""

    exponent: int
    mantissa: int
    largest: float
    has_infinity: bool = True

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def min_exponent(self) -> int:
        return 2 - (1 << self.exponent - 1)


FORMATS = {
    "F64": Format(11, 52, float(np.finfo(np.float64).max)),
    "F32": Format(8, 23, float(np.finfo(np.float32).max)),
    "F16": Format(5, 10, 65504.0),
    "BF16": Format(8, 7, (2 - 2.0**-7) * 2.0**127),
    "F8_E4M3": Format(4, 3, 448.0, has_infinity=False),
    "F8_E5M2": Format(5, 2, 57344.0),
}
TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


def exponent_of(x: np.ndarray, name: str) -> np.ndarray:
    """The exponent that a format stores |x| with: floor(log2 |x|), no less than its smallest."""
    _, exponent = np.frexp(np.abs(x))  # |x| = m * 2**exponent, m in [0.5, 1)
    least = FORMATS[name].min_exponent
    return np.where(x == 0, least, np.maximum(exponent - 1, least))


def step(x: np.ndarray, name: str) -> np.ndarray:
    """The distance of neighbouring values of a format at each x."""
    return np.ldexp(1.0, exponent_of(x, name) - FORMATS[name].mantissa)


def rounded(x: np.ndarray, name: str) -> np.ndarray:
    """float64 -> the format's nearest value, ties to even, still as float64; unbounded above."""
    x = np.asarray(x, np.float64)
    return x if name == "F64" else np.rint(x / step(x, name)) * step(x, name)


def rounded_exactly(x: Fraction, name: str) -> float:
    """The same for one rational number, without a rounding before."""
    form = FORMATS[name]
    if x == 0:
        return 0.0
    exponent = abs(x.numerator).bit_length() - x.denominator.bit_length()
    exponent -= abs(x) < Fraction(2) ** exponent  # floor(log2 |x|)
    exponent = max(exponent, form.min_exponent)
    unit = Fraction(2) ** (exponent - form.mantissa)
    return float(round(x / unit) * unit)  # round() of a Fraction is to even


def decode(raw: bytes, name: str) -> np.ndarray:
    """Stored bytes -> float64 (n,)."""
    form = FORMATS[name]
    if name == "F64":
        return np.frombuffer(raw, "<f8")
    bits = np.frombuffer(raw, f"<u{form.bits // 8}").astype(np.int64)
    fraction = bits & (1 << form.mantissa) - 1
    exponent = bits >> form.mantissa & (1 << form.exponent) - 1
    top = (1 << form.exponent) - 1
    significand = fraction + (exponent > 0) * (1 << form.mantissa)
    value = np.ldexp(significand.astype(np.float64), np.maximum(exponent, 1) - 1 + form.min_exponent - form.mantissa)
    if form.has_infinity:
        value = np.where(exponent == top, np.where(fraction == 0, np.inf, np.nan), value)
    else:
        value = np.where((exponent == top) & (fraction == (1 << form.mantissa) - 1), np.nan, value)
    return np.where(bits >> form.bits - 1 == 1, -value, value)


def encode(x: np.ndarray, name: str) -> bytes:
    """float64 -> stored bytes, rounded to nearest even; what is beyond the range is a mistake in the test."""
    form = FORMATS[name]
    x = np.asarray(x, np.float64).reshape(-1)
    if name == "F64":
        return x.astype("<f8").tobytes()
    value = np.abs(rounded(x, name))
    assert not (value > form.largest).any(), f"beyond {name}"
    exponent = exponent_of(value, name)
    steps = np.ldexp(value, form.mantissa - exponent).astype(np.int64)
    bits = (exponent - form.min_exponent << form.mantissa) + steps
    bits |= np.signbit(x).astype(np.int64) << form.bits - 1
    return bits.astype(f"<u{form.bits // 8}").tobytes()


# --- files -----------------------------------------------------------------------------------------------------------

Stored = tuple[str, tuple[int, ...], bytes]  # dtype's name, shape, bytes


def write_stored(path: Path, tensors: dict[str, Stored], metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file of raw tensors, in the order given."""
    table: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    at = 0
    for name, (dtype, shape, raw) in tensors.items():
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    header = json.dumps(table).encode()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    body = b"".join(raw for _, _, raw in tensors.values())
    path.write_bytes(len(header).to_bytes(8, "little") + header + body)
    return path


def read_stored(path: Path) -> dict[str, Stored]:
    """Every tensor of a safetensors file, or of all such files of a folder, in the order of their bytes."""
    path = Path(path)
    if path.is_dir():
        return {name: held for file in sorted(path.glob("*.safetensors")) for name, held in read_stored(file).items()}
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    table = json.loads(raw[8:start])
    table.pop("__metadata__", None)
    rows = sorted(table.items(), key=lambda row: row[1]["data_offsets"])
    return {
        name: (row["dtype"], tuple(row["shape"]), raw[start + row["data_offsets"][0] : start + row["data_offsets"][1]])
        for name, row in rows
    }


def values(stored: Stored) -> np.ndarray:
    """A stored tensor's elements as float64 (n,)."""
    return decode(stored[2], stored[0])


# --- pairs -----------------------------------------------------------------------------------------------------------


def draw(n: int, *, seed: int, dtype: str, spread: float = 6.0) -> np.ndarray:
    """n values over `spread` powers of two to each side of 1, already values of `dtype`."""
    noise = np.random.default_rng(seed)
    x = noise.uniform(1, 2, n) * 2.0 ** noise.uniform(-spread, spread, n) * noise.choice([-1.0, 1.0], n)
    return rounded(x, dtype)


def near(b: np.ndarray, *, seed: int, dtype: str, relative: float = 0.05) -> np.ndarray:
    """Values of `dtype` at a small distance from b."""
    return rounded(b * (1 + relative * np.random.default_rng(seed).standard_normal(b.shape)), dtype)


def write_pair(folder: Path, tensors: dict[str, tuple]) -> dict[str, Path]:
    """Checkpoint files sft and dpo from name -> (type of A, A, type of B, B) or the same with a shape."""
    a, b = {}, {}
    for name, (ta, x, tb, y, *shape) in tensors.items():
        shape = shape[0] if shape else np.shape(y)
        a[name], b[name] = (ta, shape, encode(x, ta)), (tb, shape, encode(y, tb))
    return {
        "sft": write_stored(folder / "sft" / "model.safetensors", a),
        "dpo": write_stored(folder / "dpo" / "model.safetensors", b),
    }
