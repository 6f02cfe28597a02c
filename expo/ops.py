"""Tile arithmetic shared by methods and the stream: rounding, counter noise, finiteness. Knows tensors, no names.

Everything here is built from operations whose bits do not depend on tile size, instruction set or device:
separate mul, add, sub, compare, where, casts, and integer operations on the bits of floats.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
import xxhash
from torch import Tensor

from expo.dtypes import DType

SEGMENT = 1_048_576  # elements: the fixed unit of work, journal, hashing and noise
_MASK64 = (1 << 64) - 1
_COUNTERS = np.arange(1 << 15, dtype=np.uint32)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch's own threads off, and back: expo's work on whole segments, and no result depends on the cores."""
    _begin_vector_math()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _begin_vector_math() -> None:
    """Call one of torch's vector functions (sqrt, exp, log), before threads do.

    Where two threads make a process's first call together, one of them may be given the library's fast answers, of
    half the digits (measured with MKL: 3 in 1,000 such calls, 1.7e-4 off; none in 2,800 after a call by one thread).
    """
    torch.ones(64).sqrt_()


def torch_dtype(dtype: DType) -> torch.dtype:
    """torch's own object for one element type; only for types that torch has."""
    return getattr(torch, dtype.torch_name)


def n_segments(n_elements: int) -> int:
    """Segments of one tensor; an empty tensor has one empty segment."""
    return max(1, -(-n_elements // SEGMENT))


def elements_of(segment: int, n_elements: int) -> tuple[int, int]:
    """The first element of a segment, and the one past its last."""
    return segment * SEGMENT, min((segment + 1) * SEGMENT, n_elements)


def noise_key(seed: int, purpose: str, name: str, position: int = 0) -> int:
    """A 64-bit key: each (seed, purpose, output tensor, input position) has a stream of its own."""
    return xxhash.xxh3_64_intdigest(f"{seed}\0{purpose}\0{name}\0{position}".encode())


def counter_noise(key: int, start: int, n: int, device: torch.device | str = "cpu", *, bits: int = 32) -> Tensor:
    """Noise for elements [start, start + n), int32 or int16 (n,): a function of key, width and index alone.

    An integer hash of the index (Wellons' "lowbias32"), keyed anew each segment; the range must not cross a
    segment's border. With 16 bits two neighbours share one hash, which halves the cost.
    """
    segment, first = divmod(start, SEGMENT)
    segment_key = xxhash.xxh3_64_intdigest(segment.to_bytes(8, "little"), seed=key & _MASK64)
    if bits == 32:
        return _hashed(segment_key, first, first + n, device)
    words = _hashed(segment_key, first // 2, (first + n + 1) // 2, device)
    return words.view(torch.int16)[first % 2 : first % 2 + n]


def noise_over(key: int, start: int, n: int, device: torch.device | str = "cpu", *, bits: int = 32) -> Tensor:
    """counter_noise for any range: joined at the borders of segments."""
    if start // SEGMENT == (start + max(n, 1) - 1) // SEGMENT:
        return counter_noise(key, start, n, device, bits=bits)
    parts, end = [], start + n
    while start < end:
        stop = min(end, (start // SEGMENT + 1) * SEGMENT)
        parts.append(counter_noise(key, start, stop - start, device, bits=bits))
        start = stop
    return torch.cat(parts)


def _hashed(key: int, first: int, last: int, device: torch.device | str) -> Tensor:
    """lowbias32 of each counter in [first, last) under a 64-bit key."""
    by_numpy = torch.device(device).type == "cpu"
    return _hashed_by_numpy(key, first, last) if by_numpy else _hashed_by_torch(key, first, last, device)


def _hashed_by_torch(key: int, first: int, last: int, device: torch.device | str) -> Tensor:
    word = torch.arange(first, last, dtype=torch.int32, device=device).bitwise_xor_(_signed(key >> 32))
    word.bitwise_xor_(word.bitwise_right_shift(16).bitwise_and_(0xFFFF)).mul_(_signed(0x7FEB352D))
    word.bitwise_xor_(word.bitwise_right_shift(15).bitwise_and_(0x1FFFF)).mul_(_signed(0x846CA68B))
    word.add_(_signed(key))
    return word.bitwise_xor_(word.bitwise_right_shift(16).bitwise_and_(0xFFFF))


def _hashed_by_numpy(key: int, first: int, last: int) -> Tensor:
    """The same, where words without a sign save the masks after each shift."""
    word = np.empty(last - first, np.uint32)
    at = first
    while at < last:
        block, low = divmod(at, len(_COUNTERS))
        n = min(len(_COUNTERS) - low, last - at)
        # The first shift meets none of the low bits of a counter, so that it can be taken of the key alone.
        high = block * len(_COUNTERS) ^ key >> 32
        np.bitwise_xor(_COUNTERS[low : low + n], np.uint32(high ^ high >> 16), out=word[at - first :][:n])
        at += n
    word *= np.uint32(0x7FEB352D)
    shifted = word >> np.uint32(15)
    word ^= shifted
    word *= np.uint32(0x846CA68B)
    word += np.uint32(key & 0xFFFFFFFF)
    word ^= np.right_shift(word, np.uint32(16), out=shifted)
    return torch.from_numpy(word.view(np.int32))


def _signed(word: int) -> int:
    """The same 32 bits as a signed number, which is what int32 tensors take."""
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >> 31 else word


def round_nearest(wide: Tensor, out: Tensor) -> None:
    """Round `wide` (float32 or float64) once, to nearest even, into `out`."""
    if wide.dtype == torch.float64 and out.dtype not in (torch.float64, torch.float32):
        # torch goes from float64 to narrow types by way of float32, which would round twice.
        wide = _round_to_odd(wide)
    out.copy_(wide)


def _round_to_odd(wide: Tensor) -> Tensor:
    """float64 to float32, inexact results with the last bit set: rounding again to nearest is then exact."""
    near = wide.to(torch.float32)
    back = near.to(torch.float64)
    bits = near.view(torch.int32)
    bits = torch.where(back.abs() > wide.abs(), bits - 1, bits)  # towards zero
    return torch.where(back != wide, bits | 1, bits).view(torch.float32)


def round_stochastic(
    wide: Tensor, out: Tensor, dtype: DType, key: int, start: int, scratch: Tensor | None = None
) -> None:
    """Round `wide`, elements [start, start + n), up or down so that the mean is exact; the noise is the key's.

    A value that `dtype` holds exactly never moves. Infinities stay; NaN is the caller's to keep. scratch: another
    tensor like `wide`, to work in.
    """
    if wide.dtype == torch.float32 and dtype.name == "BF16":
        # A bfloat16 is the upper half of a float32: add 16 random bits to the lower half and cut it off.
        noise = counter_noise(key, start, len(wide), wide.device, bits=16)
        upper = (torch.empty_like(wide) if scratch is None else scratch).view(torch.int32)
        upper.copy_(noise).add_(wide.view(torch.int32)).add_(1 << 15).bitwise_right_shift_(16)
        out.view(torch.int16).copy_(upper)
    else:
        noise = counter_noise(key, start, len(wide), wide.device)
        out.copy_(_stochastic(wide.to(torch.float64), dtype, noise))


def _stochastic(wide: Tensor, dtype: DType, noise: Tensor) -> Tensor:
    """The general form in float64: floor(x / step + u) * step, where step is the grid's at x. Exact scalings only."""
    exponent = (wide.view(torch.int64) >> 52 & 0x7FF) - 1023
    scale = exponent.clamp_(min=dtype.min_exponent) - dtype.mantissa  # the step at x is 2**scale
    steps = wide * _power_of_two(-scale)
    below = torch.floor(steps)
    u = ((noise.to(torch.int64) & 0xFFFFFFFF).to(torch.float64) + 0.5) * 2.0**-32
    rounded = (below + (steps - below > u).to(torch.float64)) * _power_of_two(scale)
    return torch.where(torch.isfinite(wide), rounded.copysign(wide), wide)


def _power_of_two(exponent: Tensor) -> Tensor:
    """2**exponent as float64 from its bits; exponent int64 within the normal range."""
    return (exponent.clamp(-1022, 1023) + 1023 << 52).view(torch.float64)


def tree_sum(x: Tensor) -> Tensor:
    """The sum over the last dimension, by a halving tree of elementwise adds: the same bits on every machine."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        folded = x[..., :half] + x[..., half : 2 * half]
        x = torch.cat([folded, x[..., 2 * half :]], dim=-1) if x.shape[-1] % 2 else folded
    return x[..., 0] if x.shape[-1] else x.sum(-1)


def clamp_to(wide: Tensor, dtype: DType) -> Tensor:
    """Values beyond the type's range become its largest; NaN stays."""
    return wide.clamp(-dtype.largest, dtype.largest)


def beyond(wide: Tensor, dtype: DType, *, stochastic: bool = False) -> Tensor:
    """Where a value cannot be rounded into the type's range; True for infinities, False for NaN."""
    magnitude = wide.abs()
    if stochastic or not dtype.tie_overflows:
        return magnitude > (dtype.largest if stochastic else dtype.overflow)
    return magnitude >= dtype.overflow
