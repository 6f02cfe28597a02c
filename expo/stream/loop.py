"""Stream: each segment is read, computed, written. With the surveys, the only code that touches tensor data."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import xxhash

from expo.checkpoint.names import module_group
from expo.checkpoint.read_ahead import READ_AHEAD, ReadAhead
from expo.errors import ExpoError, RecipeError
from expo.ops import elements_of
from expo.output.journal import Finished
from expo.planning.jobs import Job, Plan
from expo.stream.device import pick_device, tile_on
from expo.stream.done import Done
from expo.stream.lane import Lane, Settings
from expo.stream.pieces import Piece, Pieces, byte_range, cut, tiles_of
from expo.stream.report import Fidelity, Report, peak_rss, total


class Stream(Pieces):
    """One pass over a plan's jobs into a sink.

    pieces: (job, segment) pairs to do instead of all of them.
    """

    def __init__(
        self,
        plan: Plan,
        sink: Any,
        settings: Settings,
        *,
        journal: bool = True,
        pieces: Iterable[Piece] | None = None,
        finished: Done | None = None,
        **options: Any,
    ):
        super().__init__(plan, settings, pieces, **options)
        self.sink = sink
        self.journal = journal
        self.finished = finished or Done(plan.jobs)
        self.resumed = 0

    @property
    def needs_threads(self) -> bool:
        """Whether all must be done in this process: also where the sink sends what is finished."""
        return super().needs_threads or getattr(self.sink, "in_threads", False)

    def part(self, pieces: list[list[Piece]], **options: Any) -> "Stream":
        """The same pass over some of its pieces, for a process of its own."""
        flat = [piece for batch in pieces for piece in batch]
        held = {"surveyed": self.surveyed, "readers": self.readers, "finished": self.finished}
        return Stream(self.plan, self.sink, self.settings, pieces=flat, **held, **options)

    def result(self) -> tuple[int, Done | None]:
        """How many segments were kept, and what is finished where nobody else sees it."""
        return self.resumed, None if self.finished.is_lent else self.finished

    def let_go(self) -> None:
        """The lock on the folder stays the parent's."""
        self.sink.let_go()

    def join(self, results: list[Any]) -> None:
        """Take what the processes finished."""
        self.resumed = sum(resumed for resumed, _ in results)
        for _, finished in results:
            if finished:
                self.finished.update(finished)
        if lost := self.finished.n_missing:
            raise ExpoError(f"{lost} segments were not done. The same command continues with them.")

    def segment(self, lane: Lane, index: int, segment: int) -> None:
        """Keep what an earlier run finished, or compute and write it."""
        job = self.plan.jobs[index]
        finished = self._kept(lane, job, index, segment)
        if finished is None:
            self.read_ahead(lane, job, segment + self.ahead)
            finished = self._done(lane, job, segment)
            if self.journal:
                self.sink.record(index, segment, finished)
        self.finished[index, segment] = finished
        if tell := getattr(self.sink, "segment_done", None):
            tell(index, segment)
        first, last = byte_range(job, segment)
        self.progress(last - first)

    def _kept(self, lane: Lane, job: Job, index: int, segment: int) -> Finished | None:
        """A segment of an earlier run, if what is on the disk still has the bytes that were recorded."""
        recorded = self.sink.finished.get((index, segment))
        if recorded is None:
            return None
        if job.file in getattr(self.sink, "away", ()):  # it arrived where it was sent
            self.resumed += 1
            return recorded
        state = xxhash.xxh3_128()
        for at, n_bytes in cut(*byte_range(job, segment), self.settings.tile):
            _, view = lane.raw("kept", n_bytes)
            if not self.sink.read_into(job, at, view):
                return None
            state.update(view)
        if state.hexdigest() != recorded.digest:
            return None
        self.resumed += 1
        return recorded

    def _done(self, lane: Lane, job: Job, segment: int) -> Finished:
        """Compute and write one segment."""
        state = xxhash.xxh3_128()
        sums = []
        if job.is_raw_copy:
            for at, n_bytes in cut(*byte_range(job, segment), self.settings.tile * 4):
                view = lane.copy(job, at, n_bytes)
                self._write(job, at, view, state)
        else:
            first, last = elements_of(segment, job.n_elements)
            for start, n in tiles_of(job, segment, self.settings.tile):
                view, part = lane.compute(job, start, n)
                sums.append(part if segment == 0 or n < job.n_elements else (0.0, 0.0, 0.0))  # a whole tensor's: once
                low, high = max(start, first), min(start + n, last)
                at = job.dtype.n_bytes(low - start)
                self._write(job, job.dtype.n_bytes(low), view[at : at + job.dtype.n_bytes(high - low)], state)
        columns = zip(*sums, strict=True) if sums else ((), (), ())
        return Finished(state.hexdigest(), tuple(map(total, columns)))

    def _write(self, job: Job, at: int, view: memoryview, state) -> None:
        if self.settings.checks:
            state.update(view)
        self.sink.write(job, at, view)


def settings_for(
    plan: Plan,
    device: str = "cpu",
    *,
    workers: int = 1,
    gpu_memory: int | None = None,
    tile: int | None = None,
    checks: bool = True,
    ahead: ReadAhead = READ_AHEAD,
) -> Settings:
    """The recipe's settings for tiles, on one device that workers share; a tile's size follows from its memory.

    ahead: what reads inputs that stay on the Hub.
    Raises ExpoError for a device that is not here, GpuMemory for one that has too little room.
    """
    recipe, where = plan.recipe, pick_device(device)
    if gpu_memory is not None and device == "cpu":
        raise RecipeError("--gpu-memory bounds what a GPU gives, and this run computes on the CPU: add --device cuda.")
    return Settings(
        tile=tile or tile_on(where, plan, workers, gpu_memory),
        device=where,
        rounding="nearest" if recipe.arithmetic == "reference" else recipe.rounding,
        reference=recipe.arithmetic == "reference",
        seed=recipe.seed,
        saturate=recipe.saturate,
        allow_non_finite=recipe.allow_non_finite,
        checks=checks,
        ahead=ahead,
    )


def report_of(stream: Stream, output: str | None) -> Report:
    """Sum the segments up, in their order, so that no thread count shows."""
    plan = stream.plan
    by_group: dict[str, list[np.ndarray]] = {}
    hashes = {}
    for index, job in enumerate(plan.jobs):
        hashes[job.name] = xxhash.xxh3_128_hexdigest(stream.finished.digest_of(index).encode())
        by_group.setdefault(module_group(job.name), []).append(stream.finished.sums_of(index))
    return Report(
        output=output,
        tensors=len(plan.jobs),
        n_bytes_read=plan.n_bytes_read,
        n_bytes_written=plan.n_bytes_written,
        segments_resumed=stream.resumed,
        alpha=plan.recipe.asked_alpha,
        fidelity=Fidelity.of(stream.finished.sums),
        groups={name: Fidelity.of(np.concatenate(sums)) for name, sums in by_group.items()},
        hashes=hashes,
        peak_rss=peak_rss(),
    )
