"""One worker's buffers and the work on one tile: read, widen, apply the method, round once, check, sum."""

import bisect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expo.errors import CopyMismatch, NonFinite, Overflow
from expo.methods import find_method
from expo.ops import (
    clamp_to,
    first_bad,
    noise_key,
    round_nearest,
    round_stochastic,
    torch_dtype,
)
from expo.planning.budget import wide_bytes
from expo.planning.jobs import Job, Operand, Plan

_BLOCK = 65_536  # elements of one float32 dot product
_VIEWS = 256  # views kept before they are made anew


@dataclass(frozen=True, slots=True)
class Settings:
    """How tiles are computed; from the recipe and the run's own options."""

    tile: int
    device: torch.device
    rounding: str
    reference: bool
    seed: int
    saturate: bool
    allow_non_finite: bool
    checks: bool = True  # finiteness and the report's sums


class Lane:
    """Reused buffers, host and device, for one thread."""

    def __init__(self, plan: Plan, readers: dict[str, Any], settings: Settings):
        self.plan = plan
        self.readers = readers
        self.settings = settings
        self.host: dict[str, Tensor] = {}
        self.device: dict[str, Tensor] = {}
        self.views: dict[tuple, Any] = {}  # of the buffers above, kept because making one costs as much as an addition

    # --- buffers ------------------------------------------------------------------------------------------------------

    def raw(self, slot: str, n_bytes: int, dtype: torch.dtype = torch.uint8) -> tuple[Tensor, memoryview]:
        """A host buffer as a tensor of `dtype`, and as the bytes that preadv fills."""
        key = (slot, n_bytes, dtype)
        if key not in self.views:
            buffer = self._buffer(self.host, slot, n_bytes, "cpu")
            self.views[key] = (buffer.view(dtype), memoryview(buffer.numpy()))
        return self.views[key]

    def scratch(self, slot: str, n: int, dtype: torch.dtype) -> Tensor:
        """A device buffer of n elements."""
        key = (slot, n, dtype)
        if key not in self.views:
            self.views[key] = self._buffer(self.device, slot, n * dtype.itemsize, self.settings.device).view(dtype)
        return self.views[key]

    def _buffer(self, held: dict[str, Tensor], slot: str, n_bytes: int, device: torch.device | str) -> Tensor:
        if slot not in held or len(held[slot]) < n_bytes:
            held[slot] = torch.empty(n_bytes, dtype=torch.uint8, device=device)
            self.views = {key: view for key, view in self.views.items() if key[0] != slot}
        if len(self.views) > _VIEWS:
            self.views.clear()
        return held[slot][:n_bytes]

    # --- reading ------------------------------------------------------------------------------------------------------

    def load(self, slot: str, operand: Operand, start: int, n: int, wide: torch.dtype, own: Tensor | None) -> Tensor:
        """Elements [start, start + n) of one operand, widened. `own`: the donor's tile, for rows it alone has."""
        if operand.rows is None:
            return self.scratch(slot, n, wide).copy_(self._stored(operand, start, n))
        tile = self.scratch(slot, n, wide).copy_(own)
        width = math.prod(operand.spec.shape[1:])
        runs = operand.rows
        for run in runs[max(0, bisect.bisect_right(runs, start, key=lambda run: run.first * width) - 1) :]:
            first, last = max(start, run.first * width), min(start + n, (run.first + run.n_rows) * width)
            if run.first * width >= start + n:
                break
            if run.source is not None and first < last:
                at = first - (run.first - run.source) * width
                tile[first - start : last - start].copy_(self._stored(operand, at, last - first))
        return tile

    def _stored(self, operand: Operand, at: int, n: int) -> Tensor:
        """Elements [at, at + n) of a stored tensor in their own type, on the host."""
        spec = operand.spec
        tensor, view = self.raw("stored", spec.dtype.n_bytes(n), torch_dtype(spec.dtype))
        self.readers[operand.role].read_into(view, spec, spec.dtype.n_bytes(at))
        return tensor

    # --- one tile -----------------------------------------------------------------------------------------------------

    def copy(self, job: Job, at: int, n_bytes: int) -> memoryview:
        """Bytes [at, at + n_bytes) of a tensor that is copied as it is."""
        donor = job.operands[job.donor]
        tensor, view = self.raw("copy", n_bytes)
        self.readers[donor.role].read_into(view, donor.spec, at)
        for other in job.operands[1:] if job.must_equal else ():
            twin, twin_view = self.raw("twin", n_bytes)
            self.readers[other.role].read_into(twin_view, other.spec, at)
            if not torch.equal(tensor, twin):
                raise CopyMismatch(job.name, job.dtype.name, other.role, donor.role)
        if job.dtype.computed and self.settings.checks and not self.settings.allow_non_finite:
            narrow = tensor.view(torch_dtype(job.dtype))
            wide = self.scratch("in0", len(narrow), _wide_dtype(job)).copy_(narrow)
            if not math.isfinite(float(torch.dot(wide, wide))):
                self._refuse(job, {donor.role: wide}, at * 8 // job.dtype.bits)
        return view

    def compute(self, job: Job, start: int, n: int) -> tuple[memoryview, tuple[float, float, float]]:
        """The bytes of elements [start, start + n) of a computed tensor, and its part of the report's sums."""
        tiles = self._operands(job, start, n)
        donor = tiles[job.donor]
        asked = result = self._result(job, tiles)
        if self.settings.saturate:
            result = clamp_to(asked, job.dtype)
        elif job.dtype.name == "F8_E4M3" and bool((result.abs() >= job.dtype.overflow).any()):
            # torch casts what this type cannot hold to its largest value, without a word.
            self._examine(job, tiles, result, start)
        written, view = self._rounded(job, result, start)
        sums = (0.0, 0.0, 0.0)
        if self.settings.checks:
            sums = self._sums(job, tiles, asked, donor, written, start)
        return view, sums

    def _operands(self, job: Job, start: int, n: int) -> list[Tensor]:
        """Every operand's tile in the order of the method's roles; the donor is read first."""
        wide = _wide_dtype(job)
        own = self.load(f"in{job.donor}", job.operands[job.donor], start, n, wide, None)
        return [
            own if i == job.donor else self.load(f"in{i}", operand, start, n, wide, own)
            for i, operand in enumerate(job.operands)
        ]

    def _result(self, job: Job, tiles: list[Tensor]) -> Tensor:
        if job.method is None:
            return tiles[job.donor]
        if self.settings.reference:
            return _reference_extrapolation(*tiles, **job.parameters)
        return find_method(job.method).apply(*tiles, **job.parameters)

    def _rounded(self, job: Job, result: Tensor, start: int) -> tuple[Tensor, memoryview]:
        """The result in the output's type: on the device, and as bytes on the host."""
        n, dtype = len(result), torch_dtype(job.dtype)
        host, view = self.raw("written", job.dtype.n_bytes(n), dtype)
        out = host if self.settings.device.type == "cpu" else self.scratch("rounded", n, dtype)
        if self.settings.rounding == "stochastic" and result.element_size() * 8 > job.dtype.bits:
            key = noise_key(self.settings.seed, "rounding", job.noise_name)
            round_stochastic(result, out, job.dtype, key, start)
            if self.settings.allow_non_finite:
                out.masked_fill_(torch.isnan(result), float("nan"))
        else:
            round_nearest(result, out)
        if out is not host:
            host.copy_(out)
        return out, view

    # --- checks and sums ----------------------------------------------------------------------------------------------

    def _sums(self, job: Job, tiles: list[Tensor], result: Tensor, donor: Tensor, written: Tensor, start: int):
        """(exact . written, exact . exact, written . written) of the changes; raises on what must not pass.

        A NaN or an infinity anywhere shows in these, so that the exact look at each element is rarely taken.
        """
        n = len(result)
        changes = self.scratch("changes", 2 * n, result.dtype).view(2, n)  # exact, written
        exact, moved = changes
        torch.sub(result, donor, out=exact)
        moved.copy_(written).sub_(donor)
        sums = _products(changes)
        if all(map(math.isfinite, sums)):
            return sums
        self._examine(job, tiles, result, start)
        # Nothing is wrong: the squares overflowed, or infinities are allowed.
        kept = torch.isfinite(exact) & torch.isfinite(moved)
        return _products(torch.where(kept, changes, 0.0).to(torch.float64))

    def _examine(self, job: Job, tiles: list[Tensor], result: Tensor, start: int) -> None:
        """Look at each element; raises NonFinite or Overflow for the first bad one."""
        if not self.settings.allow_non_finite:
            self._refuse(job, {operand.role: tile for operand, tile in zip(job.operands, tiles, strict=True)}, start)
        finite = torch.stack([torch.isfinite(tile) for tile in tiles]).all(0)
        result = torch.where(finite, result, 0.0)
        at = first_bad(result, job.dtype, saturate=self.settings.saturate)
        if at is not None:
            raise Overflow(job.name, start + at, float(result[at]), job.dtype.name, job.dtype.largest)

    def _refuse(self, job: Job, tiles: dict[str, Tensor], start: int) -> None:
        """Raise NonFinite for the lowest element that is not finite in one of the inputs."""
        found = []
        for role, tile in tiles.items():
            bad = (~torch.isfinite(tile)).nonzero()
            if len(bad):
                found.append((int(bad[0]), role, float(tile[bad[0]])))
        if found:
            at, role, value = min(found)
            raise NonFinite(job.name, start + at, value, f"{role} ({self.plan.inputs[role].source.label})")


def _wide_dtype(job: Job) -> torch.dtype:
    return torch.float32 if wide_bytes(job) == 4 else torch.float64


def _products(changes: Tensor) -> tuple[float, float, float]:
    """exact . written, exact . exact and written . written of rows (2, n), from fixed blocks; never for bytes."""
    blocks = changes.split(_BLOCK, dim=1) if changes.shape[1] > _BLOCK else (changes,)
    grams = [torch.mm(block, block.T).tolist() for block in blocks]
    return tuple(math.fsum(gram[i][j] for gram in grams) for i, j in ((0, 1), (0, 0), (1, 1)))


def _reference_extrapolation(base: Tensor, aligned: Tensor, *, alpha: float) -> Tensor:
    """What the ExPO authors' script computes: inputs cast to bfloat16, then three bfloat16 roundings."""

    def rounded(x: Tensor) -> Tensor:
        # To float32 between the operations: bfloat16 arithmetic itself changes bits with the tile size.
        return x.to(torch.bfloat16).to(torch.float32)

    base, aligned = rounded(base), rounded(aligned)
    return rounded(aligned + rounded(rounded(aligned - base) * alpha))
