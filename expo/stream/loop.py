"""The only loop that touches tensor data. Segments go to threads; each is read, computed, written."""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
import xxhash

from expo.checkpoint import Shards
from expo.checkpoint.names import module_group
from expo.errors import ExpoError, Interrupted
from expo.ops import SEGMENT, elements_of, n_segments, one_thread
from expo.output.journal import Finished
from expo.planning.budget import TILE
from expo.planning.jobs import Job, Plan
from expo.stream.lane import Lane, Settings
from expo.stream.report import Fidelity, Report, peak_rss, total

Progress = Callable[[int], None]  # called with bytes of output finished since the last call


class Stream:
    """One pass over a plan's jobs into a sink, shared by its threads.

    pieces: (job, segment) pairs to do instead of all of them. stop: an event that others may set.
    ahead: how many segments further a worker's next one lies, so that the disk can begin with it.
    """

    def __init__(
        self,
        plan: Plan,
        sink,
        settings: Settings,
        *,
        journal: bool = True,
        progress: Progress | None = None,
        pieces: Iterable[tuple[int, int]] | None = None,
        stop: Any = None,
        ahead: int = 1,
    ):
        self.plan = plan
        self.sink = sink
        self.settings = settings
        self.journal = journal
        self.progress = progress or (lambda n_bytes: None)
        self.pieces = iter(all_pieces(plan.jobs) if pieces is None else pieces)
        self.lock = threading.Lock()
        self.stop = stop or threading.Event()
        self.ahead = ahead
        self.ended = threading.Semaphore(0)  # released by each thread at its end
        self.failures: list[tuple[int, int, BaseException]] = []
        self.finished: dict[tuple[int, int], Finished] = {}
        self.resumed = 0

    def run(self, threads: int) -> None:
        """Do every segment; raises the failure that comes first in the output's order."""
        with one_thread(), ExitStack() as stack:
            readers = {role: stack.enter_context(Shards(c)) for role, c in self.plan.inputs.items()}
            workers = [
                threading.Thread(target=self._work, args=(Lane(self.plan, readers, self.settings),), daemon=True)
                for _ in range(threads)
            ]
            for worker in workers:
                worker.start()
            self._join(workers)
        if self.failures:
            raise min(self.failures, key=lambda failure: failure[:2])[2]

    def _join(self, workers: list[threading.Thread]) -> None:
        try:
            # Not join(): once interrupted, it takes a thread that runs for one that has ended (Python before 3.13).
            for _ in workers:
                self.ended.acquire()
            for worker in workers:
                worker.join()
        except KeyboardInterrupt:
            self.stop.set()
            for worker in workers:
                worker.join()
            raise Interrupted("interrupted") from None

    def _work(self, lane: Lane) -> None:
        """One thread: segments in the output's order until none is left or one has failed."""
        try:
            self._segments(lane)
        finally:
            self.ended.release()

    def _segments(self, lane: Lane) -> None:
        while not self.stop.is_set():
            with self.lock:
                piece = next(self.pieces, None)
            if piece is None:
                return
            index, segment = piece
            try:
                with torch.inference_mode():
                    self._segment(lane, index, segment)
            except BaseException as error:
                self.failures.append((index, segment, error))
                self.stop.set()

    def _segment(self, lane: Lane, index: int, segment: int) -> None:
        job = self.plan.jobs[index]
        finished = self._kept(lane, job, index, segment)
        if finished is None:
            self._read_ahead(lane, job, segment + self.ahead)
            finished = self._done(lane, job, segment)
            if self.journal:
                self.sink.record(index, segment, finished)
        self.finished[index, segment] = finished
        first, last = _byte_range(job, segment)
        self.progress(last - first)

    def _read_ahead(self, lane: Lane, job: Job, segment: int) -> None:
        """Have the disk begin with a later segment of the same tensor."""
        for operand in job.operands:
            first = operand.spec.dtype.n_bytes(segment * SEGMENT)
            lane.readers[operand.role].advise(operand.spec, first, operand.spec.dtype.n_bytes(SEGMENT))

    def _kept(self, lane: Lane, job: Job, index: int, segment: int) -> Finished | None:
        """A segment of an earlier run, if what is on the disk still has the bytes that were recorded."""
        recorded = self.sink.finished.get((index, segment))
        if recorded is None:
            return None
        state = xxhash.xxh3_128()
        for at, n_bytes in _pieces(*_byte_range(job, segment), self.settings.tile):
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
            for at, n_bytes in _pieces(*_byte_range(job, segment), self.settings.tile * 4):
                view = lane.copy(job, at, n_bytes)
                self._write(job, at, view, state)
        else:
            first, last = elements_of(segment, job.n_elements)
            for start, n in _pieces(first, last, self.settings.tile):
                view, part = lane.compute(job, start, n)
                sums.append(part)
                self._write(job, job.dtype.n_bytes(start), view, state)
        columns = zip(*sums, strict=True) if sums else ((), (), ())
        return Finished(state.hexdigest(), tuple(map(total, columns)))

    def _write(self, job: Job, at: int, view: memoryview, state) -> None:
        if self.settings.checks:
            state.update(view)
        self.sink.write(job, at, view)


def all_pieces(jobs: tuple[Job, ...]) -> Iterator[tuple[int, int]]:
    """(job index, segment) in the order of the output's bytes; an empty tensor has one empty segment."""
    for index, job in enumerate(jobs):
        yield from ((index, segment) for segment in range(n_segments(job.n_elements)))


def _byte_range(job: Job, segment: int) -> tuple[int, int]:
    first, last = elements_of(segment, job.n_elements)
    return job.dtype.n_bytes(first), job.dtype.n_bytes(last)


def _pieces(first: int, last: int, step: int):
    """(start, length) of consecutive pieces of [first, last)."""
    return ((start, min(step, last - start)) for start in range(first, last, step))


def settings_for(plan: Plan, device: str = "cpu", *, tile: int = TILE, checks: bool = True) -> Settings:
    """The recipe's settings for tiles, on one device."""
    recipe = plan.recipe
    return Settings(
        tile=tile,
        device=pick_device(device),
        rounding="nearest" if recipe.arithmetic == "reference" else recipe.rounding,
        reference=recipe.arithmetic == "reference",
        seed=recipe.seed,
        saturate=recipe.saturate,
        allow_non_finite=recipe.allow_non_finite,
        checks=checks,
    )


def pick_device(device: str) -> torch.device:
    """'cpu', 'cuda', 'cuda:1', or 'auto': the GPU where arithmetic is the limit, which for now is nowhere."""
    if device == "auto":
        return torch.device("cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ExpoError(f"--device {device!r} is not a device; use cpu, cuda, cuda:1 or auto.") from None
    if found.type not in ("cpu", "cuda"):
        raise ExpoError(f"--device {device!r} is not one that expo runs on; use cpu, cuda, cuda:1 or auto.")
    if found.type == "cuda" and (not torch.cuda.is_available() or (found.index or 0) >= torch.cuda.device_count()):
        raise ExpoError(f"--device {device}: torch {torch.__version__} finds no such GPU here. Use --device cpu.")
    return found


def report_of(stream: Stream, output: str | None) -> Report:
    """Sum the segments up, in their order, so that no thread count shows."""
    plan = stream.plan
    by_group: dict[str, list[tuple[float, ...]]] = {}
    hashes = {}
    for index, job in enumerate(plan.jobs):
        parts = [stream.finished[index, segment] for segment in range(n_segments(job.n_elements))]
        hashes[job.name] = xxhash.xxh3_128_hexdigest("".join(part.digest for part in parts).encode())
        by_group.setdefault(module_group(job.name), []).extend(part.sums for part in parts)
    return Report(
        output=output,
        tensors=len(plan.jobs),
        n_bytes_read=plan.n_bytes_read,
        n_bytes_written=plan.n_bytes_written,
        segments_resumed=stream.resumed,
        alpha=plan.recipe.parameters.get("alpha"),
        fidelity=Fidelity.of(itertools.chain.from_iterable(by_group.values())),
        groups={name: Fidelity.of(sums) for name, sums in by_group.items()},
        hashes=hashes,
        peak_rss=peak_rss(),
    )
