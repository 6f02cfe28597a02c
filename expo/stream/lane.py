"""One worker's buffers, and the work on a tile that is copied as it is. Buffers are reused from job to job."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expo.errors import CopyMismatch
from expo.ops import torch_dtype
from expo.planning.budget import TILE
from expo.planning.jobs import Job, Plan
from expo.stream.checks import refuse_non_finite
from expo.stream.device import host_buffer, own_queue, within
from expo.stream.tile import ComputedTile, wide_dtype

_WIDEST = 8  # bytes an element


@dataclass(frozen=True, slots=True)
class Settings:
    """How tiles are computed; from the recipe and the run's own options."""

    tile: int  # elements
    device: torch.device
    rounding: str
    reference: bool
    seed: int
    saturate: bool
    allow_non_finite: bool
    checks: bool = True  # finiteness and the report's sums


class Lane:
    """Reused buffers, host and device, for one thread."""

    def __init__(
        self, plan: Plan, readers: dict[str, Any], settings: Settings, surveyed: Mapping[str, Any] | None = None
    ):
        self.plan = plan
        self.surveyed = surveyed or {}  # job's name -> what its method's survey found
        self.readers = readers
        self.settings = settings
        self.host: dict[str, Tensor] = {}
        self.device: dict[str, Tensor] = {}
        self.job: Job | None = None
        self.tiles: dict[int, ComputedTile] = {}  # of this job, by their number of elements
        self.whole: tuple[Job, tuple] | None = None  # the result of a tensor that is computed at once
        self.queue = own_queue(settings.device)

    def working(self) -> AbstractContextManager:
        """What this lane's thread computes within; on a GPU its own queue."""
        return within(self.queue)

    def raw(self, slot: str, n_bytes: int, dtype: torch.dtype = torch.uint8) -> tuple[Tensor, memoryview]:
        """A host buffer as a tensor of `dtype`, and as the bytes that preadv fills."""
        buffer = self._buffer(self.host, slot, n_bytes)
        return buffer.view(dtype), memoryview(buffer.numpy())

    def scratch(self, slot: str, n: int, dtype: torch.dtype) -> Tensor:
        """A device buffer of n elements."""
        return self._buffer(self.device, slot, n * dtype.itemsize).view(dtype)

    def stored(self, n_bytes: int, dtype: torch.dtype) -> tuple[memoryview, Callable[[Tensor], Tensor]]:
        """Room for what is read of one operand, and what copies it into a tile on the device."""
        narrow, view = self.raw("stored", n_bytes, dtype)
        if self.queue is None:
            return view, lambda into: into.copy_(narrow)
        held = self.scratch("stored", len(narrow), dtype)  # widened there: half the bytes go over the bus
        return view, lambda into: into.copy_(held.copy_(narrow))

    def _buffer(self, held: dict[str, Tensor], slot: str, n_bytes: int) -> Tensor:
        if slot not in held or len(held[slot]) < n_bytes:
            # Room for a whole tile of the widest type at once: pages that are never touched cost nothing.
            room = max(n_bytes, min(self.settings.tile, TILE) * _WIDEST)
            if held is self.host:
                held[slot] = host_buffer(room, self.queue)
            else:
                held[slot] = torch.empty(room, dtype=torch.uint8, device=self.settings.device)
        return held[slot][:n_bytes]

    def compute(self, job: Job, start: int, n: int) -> tuple[memoryview, tuple[float, float, float]]:
        """The bytes of elements [start, start + n) of a computed tensor, and its part of the report's sums."""
        tile = self.tile(job, n)
        if job.reads != "tensor":
            return tile.compute(start)
        if self.whole is None or self.whole[0] is not job:
            self.whole = (job, tile.compute(start))
        return self.whole[1]

    def tile(self, job: Job, n: int) -> ComputedTile:
        """What computes n elements of a job at a time."""
        if job is not self.job:
            self.job, self.tiles = job, {}
        if n not in self.tiles:
            self.tiles[n] = self._kind(job)(self, job, n)
        return self.tiles[n]

    def _kind(self, job: Job) -> Any:
        """What computes a job's tiles: the plain one in the pass that looks for scales."""
        from expo.stream.rescale import RequantisedTile, ScalesTile

        if job.scales_of:
            return ScalesTile
        scaled = job.requantised and job.requantised.scales in self.surveyed
        return RequantisedTile if scaled else ComputedTile

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
            wide = self.raw("widened", len(narrow) * wide_dtype(job).itemsize, wide_dtype(job))[0].copy_(narrow)
            if not math.isfinite(float(torch.dot(wide, wide))):
                refuse_non_finite(self.plan, job, [(donor, wide)], at * 8 // job.dtype.bits)
        return view
