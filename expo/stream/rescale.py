"""Results written as float8 with fresh scales: the largest magnitude of each block first, then quotients.

A scale is its block's largest magnitude over the type's largest number, rounded up in the scale's own type: no
quotient is beyond the range. Maxima of magnitudes do not depend on cuts or on who takes them.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expo.dtypes import DType
from expo.ops import elements_of, n_segments, torch_dtype
from expo.planning.jobs import Job, Plan, Requantised
from expo.stream.lane import Lane, Settings
from expo.stream.pieces import Piece, Pieces, tiles_of
from expo.stream.tile import ComputedTile
from expo.stream.workers import carry_out


def fresh_scales(
    plan: Plan, settings: Settings, workers: int, surveyed: dict[str, Any], *, jobs: set[int] | None = None, **options
) -> dict[str, np.ndarray]:
    """Name of each tensor of scales -> its scales, as float64 that the type of the scales holds exactly.

    jobs: indices of the jobs that will be computed, where that is not all.
    """
    wanted = {plan.jobs[i].scales_of or plan.jobs[i].name for i in jobs} if jobs is not None else None
    asked = [
        i
        for i, job in enumerate(plan.jobs)
        if job.requantised and not job.scales_of and (wanted is None or job.name in wanted)
    ]
    if not asked:
        return {}
    work = MaximaPass(plan, settings, pieces_of(plan, asked), surveyed=surveyed, **options)
    if phase := getattr(options.get("progress"), "phase", None):
        phase("scales", sum(plan.jobs[i].n_bytes for i in asked))
    carry_out(work, workers)
    found = work.maxima()
    return {plan.jobs[i].requantised.scales: scales_for(found[i], plan.jobs[i]) for i in asked}


def pieces_of(plan: Plan, asked: list[int]) -> list[Piece]:
    """All segments of some jobs; of a tensor that is computed at once, one."""
    return [
        (i, segment)
        for i in asked
        for segment in range(1 if plan.jobs[i].reads == "tensor" else n_segments(plan.jobs[i].n_elements))
    ]


def scales_for(maxima: np.ndarray, job: Job) -> np.ndarray:
    """For each block its scale; 1 where all is zero."""
    found = job.requantised
    exact = np.where(maxima > 0, maxima, job.dtype.largest) / job.dtype.largest
    return rounded_up(exact, found.scale_dtype, powers=found.powers)


def rounded_up(values: np.ndarray, dtype: DType, *, powers: bool) -> np.ndarray:
    """Positive numbers rounded up to what a type holds, or to powers of two that it holds."""
    if powers or dtype.name == "F8_E8M0":
        fraction, exponent = np.frexp(values)  # of a power of two the fraction is a half
        low = -127 if dtype.name == "F8_E8M0" else dtype.min_exponent - dtype.mantissa
        return np.ldexp(1.0, np.maximum(np.where(fraction == 0.5, exponent - 1, exponent), low))
    narrow = torch.from_numpy(values).to(torch_dtype(dtype))
    bits = narrow.view(torch.int32 if dtype.bits == 32 else torch.int16)
    below = narrow.to(torch.float64) < torch.from_numpy(values)
    bits += below.to(bits.dtype)  # of positive floats, the next larger one has the next larger bits
    return narrow.to(torch.float64).numpy()


def as_stored(scales: np.ndarray, dtype: DType) -> np.ndarray:
    """The bytes of scales in their type."""
    if dtype.name == "F8_E8M0":
        return (np.frexp(scales)[1] - 1 + 127).astype(np.uint8)
    return torch.from_numpy(scales).to(torch_dtype(dtype)).view(torch.uint8).numpy()


class MaximaPass(Pieces):
    """The largest magnitude of each block of the results, before they are rounded."""

    def __init__(self, plan: Plan, settings: Settings, pieces: Any, **options: Any):
        super().__init__(plan, settings, pieces, **options)
        self.local: dict[int, dict[int, np.ndarray]] = {}  # by lane, so that threads do not share
        self.parts: list[dict[int, np.ndarray]] = []

    def part(self, pieces: list[list[Piece]], **options: Any) -> "MaximaPass":
        """The same pass over some of its pieces, for a process of its own."""
        flat = [piece for batch in pieces for piece in batch]
        return MaximaPass(self.plan, self.settings, flat, surveyed=self.surveyed, readers=self.readers, **options)

    def result(self) -> list[dict[int, np.ndarray]]:
        """All that was found here."""
        return list(self.local.values())

    def join(self, results: list[Any]) -> None:
        """Take what the processes found."""
        self.parts = [part for found in results for part in found]

    def maxima(self) -> dict[int, np.ndarray]:
        """Job -> the largest magnitude of each of its blocks, from all workers."""
        found: dict[int, np.ndarray] = {}
        for part in self.parts or self.result():
            for index, own in part.items():
                found[index] = np.maximum(found[index], own) if index in found else own
        return found

    def segment(self, lane: Lane, index: int, segment: int) -> None:
        """Add one segment's results to the maxima of their blocks."""
        job = self.plan.jobs[index]
        held = self.local.setdefault(id(lane), {})
        own = held.setdefault(index, np.zeros(job.requantised.n_scales))
        self.read_ahead(lane, job, segment + self.ahead)
        for start, n in tiles_of(job, segment, self.settings.tile):
            tile = lane.tile(job, n)
            result = tile.asked(start)
            add_maxima(own, result, start, job.requantised)
            if not np.isfinite(own).all():
                tile.examine(start)
                own[~np.isfinite(own)] = 0.0  # let through: it decides no scale
        first, last = elements_of(segment, job.n_elements)
        self.progress(job.dtype.n_bytes(last - first))


def runs_of_rows(start: int, n: int, how: Requantised) -> Iterator[tuple[int, int, int, int, int]]:
    """(first element, its column, rows, elements of each, first scale) of the pieces that share a row of blocks."""
    (n_rows, width), rows = how.matrix, how.block[0]
    done = 0
    while done < n:
        row, column = divmod(start + done, width)
        matrix, inside = divmod(row, n_rows)
        if column or n - done < width:
            together, each = 1, min(width - column, n - done)
        else:
            together, each = min(rows - inside % rows, n_rows - inside, (n - done) // width), width
        yield done, column, together, each, how.block_of(matrix, inside)
        done += together * each


def add_maxima(maxima: np.ndarray, values: Tensor, start: int, how: Requantised) -> None:
    """Raise `maxima` to the magnitudes of elements [start, start + len(values))."""
    wide = how.block[1]
    for done, column, rows, each, at in runs_of_rows(start, len(values), how):
        columns = values[done : done + rows * each].view(rows, each).abs().amax(0)
        first = column // wide
        last = (column + each - 1) // wide
        room = torch.zeros((last - first + 1) * wide, dtype=columns.dtype)
        room[column - first * wide : column - first * wide + each] = columns.cpu()
        found = room.view(-1, wide).amax(1).double().numpy()
        own = maxima[at + first : at + last + 1]
        np.maximum(own, found, out=own)


def expanded(scales: Tensor, start: int, n: int, how: Requantised, out: Tensor) -> Tensor:
    """The scale of each of elements [start, start + n)."""
    wide = how.block[1]
    for done, column, rows, each, at in runs_of_rows(start, n, how):
        first, last = column // wide, (column + each - 1) // wide
        row = scales[at + first : at + last + 1]
        row = row.expand(each) if last == first else row.repeat_interleave(wide)[column - first * wide :][:each]
        out[done : done + rows * each].view(rows, each).copy_(row)
    return out


class RequantisedTile(ComputedTile):
    """A tile whose results are written as quotients by their blocks' scales."""

    def __init__(self, lane: Any, job: Job, n: int):
        super().__init__(lane, job, n)
        scales = lane.surveyed[job.requantised.scales]
        self.scales = torch.from_numpy(scales).to(self.donor.dtype).to(lane.settings.device)
        self.factors = lane.scratch("factors", n, self.donor.dtype)

    def quotient(self, result: Tensor, start: int) -> Tensor:
        """The result over the scale of each element."""
        return result / expanded(self.scales, start, self.n, self.job.requantised, self.factors)

    def product(self, written: Tensor) -> Tensor:
        """What was written, as the numbers that it stands for; in place."""
        return written.mul_(self.factors)


class ScalesTile:
    """A tile of the scales themselves."""

    def __init__(self, lane: Any, job: Job, n: int):
        self.bytes = as_stored(lane.surveyed[job.name], job.dtype)
        self.job, self.n = job, n

    def compute(self, start: int) -> tuple[memoryview, tuple[float, float, float]]:
        """The bytes of scales [start, start + n)."""
        first, last = (self.job.dtype.n_bytes(at) for at in (start, start + self.n))
        return memoryview(self.bytes)[first:last], (0.0, 0.0, 0.0)

    def change_of(self, other: Tensor, first: int) -> tuple[float, float, float]:
        """Scales are no part of the report's sums."""
        return 0.0, 0.0, 0.0
