"""Segments of a plan's jobs, shared by threads: who does which, and what happens when one fails."""

import bisect
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from expo.checkpoint import Shards
from expo.errors import Interrupted
from expo.ops import SEGMENT, elements_of, n_segments, one_thread
from expo.planning.jobs import Job, Plan
from expo.stream.device import out_of_memory, settle
from expo.stream.lane import Lane, Settings

_LARGEST_KEPT = 31 * 2**20  # bytes; glibc itself ends at 32 MiB. Never touched, so it takes no memory

Progress = Callable[[int], None]  # called with bytes of output finished since the last call
Piece = tuple[int, int]  # (job, segment)


class Pieces:
    """One pass over a plan's segments; what is done with each is a subclass's `segment`.

    pieces: (job, segment) pairs in the order of the output; None: all of them. stop: an event that others may set.
    ahead: how many segments further a worker's next one lies, so that the disk can begin with it.
    readers: by role, where to read the inputs instead of their files.
    """

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        pieces: Iterable[Piece] | None,
        *,
        surveyed: dict[str, Any] | None = None,
        progress: Progress | None = None,
        stop: Any = None,
        ahead: int = 1,
        readers: Mapping[str, Shards] | None = None,
    ):
        self.plan = plan
        self.settings = settings
        self.batches = Batches(plan.jobs) if pieces is None else batches(plan, pieces)
        self.pieces = iter(self.batches)
        self.surveyed = surveyed or {}
        self.progress = progress or (lambda n_bytes: None)
        self.lock = threading.Lock()
        self.stop = stop or threading.Event()
        self.ahead = ahead
        self.readers = readers
        self.ended = threading.Semaphore(0)  # released by each thread at its end
        self.failures: list[tuple[int, int, BaseException]] = []

    @property
    def needs_threads(self) -> bool:
        """Whether all must be done in this process: where readers of its own read from the Hub."""
        return self.plan.n_streamed > 0 and self.readers is not None

    def segment(self, lane: Lane, index: int, segment: int) -> None:
        """Do one segment."""
        raise NotImplementedError

    def part(self, pieces: list[list[Piece]], **options: Any) -> "Pieces":
        """The same pass over some of its pieces, for a process of its own."""
        raise NotImplementedError

    def result(self) -> Any:
        """What a process sends to its parent when it is done."""
        return None

    def let_go(self) -> None:
        """In a process of its own: drop what belongs to the parent."""

    def join(self, results: list[Any]) -> None:
        """Take what the processes sent."""

    def run(self, threads: int) -> None:
        """Do every segment; raises the failure that comes first in the output's order."""
        with one_thread(), ExitStack() as stack:
            _keep_freed_memory()
            ahead = self.settings.ahead
            readers = self.readers or {role: Shards(c, ahead=ahead) for role, c in self.plan.inputs.items()}
            for reader in readers.values():
                stack.enter_context(reader)
            lanes = [Lane(self.plan, readers, self.settings, self.surveyed) for _ in range(threads)]
            workers = [threading.Thread(target=self._work, args=(lane,), daemon=True) for lane in lanes]
            settle(self.settings.device)
            for worker in workers:
                worker.start()
            self._wait(workers, list(readers.values()))
            settle(self.settings.device)
        if self.failures:
            raise min(self.failures, key=lambda failure: failure[:2])[2]

    def _wait(self, workers: list[threading.Thread], readers: list[Shards]) -> None:
        try:
            # Not join(): once interrupted, it takes a thread that runs for one that has ended (Python before 3.13).
            for _ in workers:
                self.ended.acquire()
            for worker in workers:
                worker.join()
        except KeyboardInterrupt:
            self.stop.set()
            for reader in readers:
                reader.give_up()
            for worker in workers:
                worker.join()
            raise Interrupted("interrupted") from None

    def _work(self, lane: Lane) -> None:
        """One thread: segments in the output's order until none is left or one has failed."""
        try:
            while not self.stop.is_set():
                with self.lock:
                    batch = next(self.pieces, None)
                if batch is None:
                    return
                self._batch(lane, batch)
        finally:
            self.ended.release()

    def _batch(self, lane: Lane, batch: list[Piece]) -> None:
        for index, segment in batch:
            if self.stop.is_set():
                return
            try:
                with torch.inference_mode(), lane.working():
                    self.segment(lane, index, segment)
            except BaseException as error:
                full = isinstance(error, torch.OutOfMemoryError)
                self.failures.append((index, segment, out_of_memory(self.plan.jobs[index].name) if full else error))
                self.stop.set()

    def read_ahead(self, lane: Lane, job: Job, segment: int) -> None:
        """Have the disk begin with a later segment of the same tensor."""
        for operand in job.operands:
            first = operand.spec.dtype.n_bytes(segment * SEGMENT)
            lane.readers[operand.role].advise(operand.spec, first, operand.spec.dtype.n_bytes(SEGMENT))


def _keep_freed_memory() -> None:
    """Have glibc keep what methods free, for their next tile: it keeps blocks smaller than the largest it saw freed.

    Otherwise it returns temporaries of a tile to the system, whose page faults cost more than the arithmetic.
    """
    torch.empty(_LARGEST_KEPT, dtype=torch.uint8)


def all_pieces(jobs: tuple[Job, ...]) -> Iterator[Piece]:
    """(job index, segment) in the order of the output's bytes; an empty tensor has one empty segment."""
    for index, job in enumerate(jobs):
        yield from ((index, segment) for segment in range(n_segments(job.n_elements)))


def batches(plan: Plan, pieces: Iterable[Piece]) -> list[list[Piece]]:
    """Pieces one by one, but the segments of a tensor that is computed whole together, for one worker."""
    found = []
    for index, group in itertools.groupby(pieces, key=lambda piece: piece[0]):
        if plan.jobs[index].reads == "tensor":
            found.append(list(group))
        else:
            found += [[piece] for piece in group]
    return found


class Batches(Sequence[list[Piece]]):
    """The batches of all pieces, worked out when they are asked for: a large model has a hundred thousand."""

    def __init__(self, jobs: Sequence[Job]):
        self.jobs = jobs
        self.first = [0, *itertools.accumulate(1 if j.reads == "tensor" else n_segments(j.n_elements) for j in jobs)]

    def __len__(self) -> int:
        return self.first[-1]

    def __getitem__(self, number: int) -> list[Piece]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        index = bisect.bisect_right(self.first, number) - 1
        if self.jobs[index].reads == "tensor":
            return [(index, segment) for segment in range(n_segments(self.jobs[index].n_elements))]
        return [(index, number - self.first[index])]


def byte_range(job: Job, segment: int) -> tuple[int, int]:
    """The bytes of one segment in its tensor."""
    first, last = elements_of(segment, job.n_elements)
    return job.dtype.n_bytes(first), job.dtype.n_bytes(last)


def cut(first: int, last: int, step: int) -> Iterator[tuple[int, int]]:
    """(start, length) of consecutive pieces of [first, last)."""
    return ((start, min(step, last - start)) for start in range(first, last, step))


def tiles_of(job: Job, segment: int, tile: int) -> Iterator[tuple[int, int]]:
    """(start, length) of the tiles that cover one segment: whole rows, or the whole tensor, where the method needs it.

    Rows that lie across the border of two segments are computed for both.
    """
    first, last = elements_of(segment, job.n_elements)
    if first == last:
        return iter(())
    if job.reads == "tensor":
        return iter([(0, job.n_elements)])
    if job.reads == "row":
        width = job.width
        return cut(first // width * width, -(-last // width) * width, max(1, tile // width) * width)
    return cut(first, last, tile)
