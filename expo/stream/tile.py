"""One tile of a computed tensor: read, widen, apply the method, round once, check, sum.

Everything that is the same for all tiles of a job is looked up once: on two threads, what Python does between the
tensor operations is what they wait for each other about.
"""

import bisect
import functools
import math
from typing import Any

import torch
from torch import Tensor

from expo.methods import Here, find_method
from expo.ops import SEGMENT, beyond, clamp_to, noise_key, noise_over, round_nearest, round_stochastic, torch_dtype
from expo.planning.budget import wide_bytes
from expo.planning.jobs import Job, Operand
from expo.stream.checks import refuse_non_finite, refuse_overflow
from expo.stream.report import total

_BLOCK = 65_536  # elements of one float32 product


class ComputedTile:
    """The work on tiles of n elements of one job, in one lane's buffers."""

    def __init__(self, lane: Any, job: Job, n: int):
        self.lane, self.job, self.n = lane, job, n
        self.settings = lane.settings
        wide = wide_dtype(job)
        k = len(job.operands)
        rows = lane.scratch("wide", (k + 2) * n, wide).view(k + 2, n)
        # The two changes take the last two rows. The last operand but the donor shares one of them: its values are
        # spent once the method has run, and what fits into the cache decides the speed.
        places = iter(rows)
        spent = next((i for i in reversed(range(k)) if i != job.donor), None)
        self.tiles = [rows[k] if i == spent else next(places) for i in range(k)]
        self.changes = rows[k:]
        self.exact, self.moved = rows[k], rows[k + 1]  # unpacked here: tile by tile it would take 10 us
        self.products = _Products(self.changes)
        self.donor = self.tiles[job.donor]
        # The donor is read first: rows that it alone has stand in for the others'.
        order = sorted(range(k), key=lambda i: i != job.donor)
        self.loads = [self._load(job.operands[i], self.tiles[i]) for i in order]
        without_base = len(self.tiles) == job.n_models and job.method and find_method(job.method).base == "optional"
        self.arguments = [None, *self.tiles] if without_base else self.tiles
        self.call = self._method()
        self.guards = self._must_look()
        self.surveyed = lane.surveyed.get(job.name)
        self.host, self.view = lane.raw("written", job.dtype.n_bytes(n), torch_dtype(job.dtype))
        on_cpu = self.settings.device.type == "cpu"
        self.written = self.host if on_cpu else lane.scratch("rounded", n, torch_dtype(job.dtype))
        self.stochastic = self.settings.rounding == "stochastic" and wide_bytes(job) * 8 > job.dtype.bits
        self.mask_keys: dict[int, int] = {}  # of each model
        self.noise_key = noise_key(self.settings.seed, "rounding", job.noise_name)

    def _load(self, operand: Operand, into: Tensor):
        reader, spec = self.lane.readers[operand.role], operand.spec
        dtype = torch_dtype(spec.dtype)
        if operand.rows is not None:
            return functools.partial(self._load_rows, operand, reader, into)
        width = dtype.itemsize
        if into.dtype == dtype and into.device.type == "cpu":  # nothing to widen: a view's float32, or float64
            straight = memoryview(into.numpy()).cast("B")
            return lambda start: reader.read_into(straight, spec, start * width)
        view, put = self.lane.stored(spec.dtype.n_bytes(self.n), dtype)

        def load(start: int) -> None:
            reader.read_into(view, spec, start * width)
            put(into)

        return load

    def _load_rows(self, operand: Operand, reader: Any, into: Tensor, start: int) -> None:
        """Rows of an operand in the donor's order; where it has none, the donor's own."""
        into.copy_(self.donor)
        spec, runs = operand.spec, operand.rows
        width = math.prod(spec.shape[1:])
        for run in runs[max(0, bisect.bisect_right(runs, start, key=lambda run: run.first * width) - 1) :]:
            if run.first * width >= start + self.n:
                break
            first, last = max(start, run.first * width), min(start + self.n, (run.first + run.n_rows) * width)
            if run.source is not None and first < last:
                at = first - (run.first - run.source) * width
                n_bytes = spec.dtype.n_bytes(last - first)
                view, put = self.lane.stored(n_bytes, torch_dtype(spec.dtype))
                reader.read_into(view, spec, spec.dtype.n_bytes(at))
                put(into[first - start : last - start])

    def _method(self):
        """The job's function of (tiles, start)."""
        if self.job.method is None:
            return lambda start: self.donor
        if self.settings.reference:
            return self._reference
        method = find_method(self.job.method)
        return functools.partial(self.call_with, method.apply, here=method.wants_here)

    def _reference(self, start: int) -> Tensor:
        """The authors' result; the change that it rounds takes the base's place, to be measured against."""
        base, aligned = self.tiles
        alpha = self.job.parameters["alpha"]
        asked = _reference_extrapolation(base, aligned, alpha=alpha)
        torch.sub(aligned, base, out=self.exact).mul_(alpha)
        return asked

    def call_with(self, function: Any, start: int, *, here: bool = True) -> Any:
        """A function of the method's signature, on the tiles that lie in the buffers."""
        place = {"here": self._here(start)} if here else {}
        return function(*self.arguments, **self.job.parameters, **place)

    def _here(self, start: int) -> Here:
        return Here(start, self.job.shape, functools.partial(self._noise, start), self.surveyed)

    def _noise(self, start: int, model: int, bits: int = 32) -> Tensor:
        """Noise of one model's mask, the same whatever else is computed."""
        if model not in self.mask_keys:
            self.mask_keys[model] = noise_key(self.settings.seed, "mask", self.job.noise_name, model)
        key = self.mask_keys[model]
        return noise_over(key, start, self.n, self.settings.device, bits=bits)

    def load(self, start: int) -> None:
        """Read elements [start, start + n) of every operand."""
        for load in self.loads:
            load(start)
        if self.guards:
            self._refuse_non_finite(start)

    def _must_look(self) -> bool:
        """Whether the method's own result might hide that an input is not finite."""
        may_hide = bool(self.job.method) and not find_method(self.job.method).spreads
        return may_hide and self.settings.checks and not self.settings.allow_non_finite

    def _refuse_non_finite(self, start: int) -> None:
        """Raise NonFinite where an input holds what a comparison of the method could swallow."""
        sums = [float(torch.dot(tile, tile)) for tile in self.tiles]
        if not all(map(math.isfinite, sums)):  # or the squares are beyond the range
            refuse_non_finite(self.lane.plan, self.job, zip(self.job.operands, self.tiles, strict=True), start)

    def compute(self, start: int) -> tuple[memoryview, tuple[float, float, float]]:
        """The bytes of elements [start, start + n), and their part of the report's sums."""
        asked = self.asked(start)
        result = self._in_range(asked, start)
        if self.job.dtype.name == "F8_E4M3":
            result = self._without_infinities(result, start)
        self._round(result, start)
        return self.view, self._sums(asked, start) if self.settings.checks else (0.0, 0.0, 0.0)

    def asked(self, start: int) -> Tensor:
        """What the method gives for elements [start, start + n), not rounded."""
        self.load(start)
        return self._of_loaded(start)

    def _of_loaded(self, start: int) -> Tensor:
        """The method's result on what lies in the buffers, which it may spend."""
        if not self.settings.allow_non_finite:
            return self.call(start)
        # Infinities that all inputs share have no delta, and stay; inf - inf would make them NaN.
        equal = torch.stack([tile == self.donor for tile in self.tiles]).all(0)
        asked = self.call(start)
        return torch.where(equal & torch.isnan(asked), self.donor, asked)

    def _in_range(self, asked: Tensor, start: int) -> Tensor:
        """A result as it will be rounded."""
        quotient = self.quotient(asked, start)
        return clamp_to(quotient, self.job.dtype) if self.settings.saturate else quotient

    def quotient(self, result: Tensor, start: int) -> Tensor:
        """A result as it is written: itself, where it has no scale."""
        return result

    def product(self, written: Tensor) -> Tensor:
        """What was written, as the numbers that it stands for; in place."""
        return written

    def _without_infinities(self, result: Tensor, start: int) -> Tensor:
        """torch casts what this type cannot hold to its largest value, without a word: refuse it, or make it NaN."""
        far = beyond(result, self.job.dtype, stochastic=self.stochastic)
        if bool(far.any()):
            self.examine(start)
            return torch.where(torch.isinf(result), float("nan"), result)
        return result

    def _round(self, result: Tensor, start: int) -> None:
        """Put the result into the output's type: on the device, and as bytes on the host."""
        if self.stochastic:
            self._round_stochastic(result, start)
            if self.settings.allow_non_finite and bool((broken := torch.isnan(result)).any()):
                self.written.copy_(torch.where(broken, result, self.written.to(result.dtype)))
        else:
            round_nearest(result, self.written)
        if self.written is not self.host:
            self.host.copy_(self.written)

    def _round_stochastic(self, result: Tensor, start: int) -> None:
        """Segment by segment, since noise is keyed anew in each."""
        at = start
        while at < start + self.n:
            stop = min(start + self.n, (at // SEGMENT + 1) * SEGMENT)
            piece = slice(at - start, stop - start)
            scratch = self.moved[piece]
            round_stochastic(result[piece], self.written[piece], self.job.dtype, self.noise_key, at, scratch)
            at = stop

    def _sums(self, asked: Tensor, start: int) -> tuple[float, float, float]:
        """(exact . written, exact . exact, written . written) of the changes; raises on what must not pass.

        asked: what the method gave, which may lie where the exact change is put. A NaN or an infinity anywhere shows in
        these sums, so that the exact look at each element is rarely taken.
        """
        if not (self.settings.reference and self.job.method):
            torch.sub(asked, self.donor, out=self.exact)
        self.product(self.moved.copy_(self.written)).sub_(self.donor)
        sums = self.products()
        if all(map(math.isfinite, sums)):
            return sums
        sums, held = _finite_products(self.changes)[0], self.exact.clone()
        self.examine(start)
        self.exact.copy_(held)  # where the method has worked once more
        return sums  # nothing is wrong: the squares overflowed, or infinities are allowed

    def change_of(self, other: Tensor, first: int) -> tuple[tuple[float, float, float], int]:
        """The sums of the last `compute`, had it written `other` for elements [start + first, ...) of its tile.

        NaN and infinities of `other` are left out; their number comes second.
        """
        changes = self.changes[:, first : first + len(other)]
        changes[1].copy_(other).sub_(self.donor[first : first + len(other)])
        sums = _Products(changes)()
        return (sums, 0) if all(map(math.isfinite, sums)) else _finite_products(changes)

    def examine(self, start: int) -> None:
        """Work the tile out once more, and look at each element; raises NonFinite or Overflow for the first bad one."""
        self.load(start)
        if not self.settings.allow_non_finite:
            refuse_non_finite(self.lane.plan, self.job, zip(self.job.operands, self.tiles, strict=True), start)
        finite = torch.stack([torch.isfinite(tile) for tile in self.tiles]).all(0)
        result = self._in_range(self._of_loaded(start), start)
        refuse_overflow(self.job, finite, result, start, stochastic=self.stochastic)


def wide_dtype(job: Job) -> torch.dtype:
    """float32 where nothing has over 16 bits, else float64."""
    return torch.float32 if wide_bytes(job) == 4 else torch.float64


class _Products:
    """exact . written, exact . exact and written . written of rows (2, n), from fixed blocks; never for bytes."""

    def __init__(self, changes: Tensor):
        self.blocks = [(block, block.T) for block in changes.split(_BLOCK, dim=1)]

    def __call__(self) -> tuple[float, float, float]:
        parts = [self._of_block(*block) for block in self.blocks]
        return parts[0] if len(parts) == 1 else tuple(map(total, zip(*parts, strict=True)))

    def _of_block(self, rows: Tensor, columns: Tensor) -> tuple[float, float, float]:
        (exact, mixed), (_, written) = torch.mm(rows, columns).tolist()
        return mixed, exact, written


def _finite_products(changes: Tensor) -> tuple[tuple[float, float, float], int]:
    """The products in float64 without the columns that hold a NaN or an infinity, and the number of these."""
    kept = torch.isfinite(changes).all(0)
    return _Products(torch.where(kept, changes, 0.0).to(torch.float64))(), int((~kept).sum())


def _reference_extrapolation(base: Tensor, aligned: Tensor, *, alpha: float) -> Tensor:
    """What the ExPO authors' script computes: inputs cast to bfloat16, then three bfloat16 roundings."""

    def rounded(x: Tensor) -> Tensor:
        # To float32 between the operations: bfloat16 arithmetic itself changes bits with the tile size.
        return x.to(torch.bfloat16).to(torch.float32)

    base, aligned = rounded(base), rounded(aligned)
    return rounded(aligned + rounded(rounded(aligned - base) * alpha))
