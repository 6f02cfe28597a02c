"""Several processes over one pass's segments.

Threads of one process wait for each other at the interpreter's lock: measured, two processes take two thirds of the
time of two threads. Each worker is a fork that runs a one-thread pass on the segments that it takes, in shared file
descriptors; what it found comes through a file in memory. What is read from the Hub is loaded by the process that
forked them, which computes nothing. Under a launcher each rank is a process already.
"""

import fcntl
import mmap
import os
import pickle
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from expo.checkpoint.lent import Lender
from expo.errors import ExpoError, Interrupted, again
from expo.forks import end_with, is_safe, private_bytes
from expo.stream.pieces import Piece, Pieces
from expo.stream.ranks import World, world

FORK_ABOVE = 64 * 2**20  # bytes of output; less is done before a second process has started
_POLL, _SHORT = 0.02, 0.001  # seconds
_LEAD = 8  # segments: where workers share blocks from the Hub, those of the slowest must not be gone
_MESSAGE = 8_000  # characters of an error: at most 4 bytes each, and a pipe holds 64 KiB unread
_STOP, _DONE, _PRIVATE, _TAKEN, _AT = range(5)  # rows of the board


def can_fork(work: Pieces, workers: int) -> bool:
    """Whether processes are safe and worth it: on the CPU, and while no other thread may hold a lock."""
    return (
        workers > 1
        and work.settings.device.type == "cpu"
        and not work.needs_threads
        and work.plan.n_bytes_written >= FORK_ABOVE
        and is_safe()
    )


class Board:
    """Numbers in memory that all workers share: one column each; anyone may set the stop."""

    def __init__(self, workers: int):
        self.workers = workers
        self.numbers = memoryview(mmap.mmap(-1, 8 * 5 * workers)).cast("B").cast("q", (5, workers))
        self.lock = os.memfd_create("expo")

    def share_of(self, batches: Sequence[list[Piece]], worker: int, lead: int) -> Iterator[list[Piece]]:
        """Batches that no other worker has taken, in order; lead: how many a worker may be ahead of the slowest."""
        while not self.is_set():
            fcntl.lockf(self.lock, fcntl.LOCK_EX)  # the kernel ends it with its process
            number = self.numbers[_TAKEN, 0]
            self.numbers[_TAKEN, 0] = number + 1
            fcntl.lockf(self.lock, fcntl.LOCK_UN)
            self.numbers[_AT, worker] = number
            if number >= len(batches):
                return
            while number - min(self.numbers[_AT, k] for k in range(self.workers)) > lead and not self.is_set():
                time.sleep(_SHORT)
            yield batches[number]

    def is_set(self) -> bool:
        """True when every worker is to stop after its segment; the interface of threading.Event."""
        return self.numbers[_STOP, 0] != 0

    def set(self) -> None:
        """Ask every worker to stop."""
        self.numbers[_STOP, 0] = 1

    def add(self, row: int, worker: int, n: int) -> None:
        """Count in a worker's own column."""
        self.numbers[row, worker] += n

    def total(self, row: int) -> int:
        """The sum over the workers."""
        return sum(self.numbers[row, worker] for worker in range(self.workers))


def carry_out(work: Pieces, workers: int) -> int:
    """Do every segment: the ranks of a launcher share them; else in processes where that is safe and worth it.

    Returns the bytes of memory that processes had for themselves. Raises what `run_forked` and `Pieces.run` raise.
    """
    ranks = world()
    if ranks.here.size > 1:
        work.join(ranks.together(lambda: _my_part(work, ranks, workers)))
        return 0
    if can_fork(work, workers):
        return run_forked(work, workers)
    work.run(workers)
    return 0


def _my_part(work: Pieces, ranks: World, workers: int) -> Any:
    """This rank's segments, in threads; what was found. The bar of the first moves as if all were as far."""
    mine, n = ranks.share(work.plan, list(work.batches)), ranks.here.size
    part = work.part(mine, progress=lambda n_bytes: work.progress(n_bytes * n), stop=ranks.stop(), ahead=workers)
    part.run(workers)
    return part.result()


def run_forked(work: Pieces, workers: int) -> int:
    """Do every segment in processes; returns the bytes of memory that they had for themselves.

    Raises the failure that comes first in the output's order, or Interrupted.
    """
    board = Board(workers)
    results = [os.memfd_create("expo") for _ in range(workers)]
    lender = Lender(work.plan.inputs, workers, work.settings.ahead) if work.plan.n_streamed else None
    try:
        children = [_fork(work, board, lender, k, results[k]) for k in range(workers)]
        with ExitStack() as stack:
            if lender:
                stack.enter_context(lender)
            stack.callback(board.set)  # whatever ends this: the lender waits for the workers' ends
            failures = _await(work, board, lender, [pid for pid, _ in children], [pipe for _, pipe in children])
            if failures:
                raise min(failures, key=lambda failure: failure[:2])[2]
        work.join([_received(file) for file in results])
    finally:
        for file in (*results, board.lock):
            os.close(file)
    return board.total(_PRIVATE)


def _received(file: int) -> Any:
    """What a worker left in its file."""
    os.lseek(file, 0, os.SEEK_SET)
    with os.fdopen(os.dup(file), "rb") as stream:
        return pickle.load(stream)


def _fork(work: Pieces, board: Board, lender: Lender | None, k: int, result: int) -> tuple[int, int]:
    """Start worker k; returns its process number and the pipe that its failure comes through."""
    parent = os.getpid()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    status = 1
    try:
        os.close(reader)
        if lender:
            work.readers = lender.borrowed(k)
        failure = _work(work, board, k, parent, result)
        if failure:
            os.write(writer, pickle.dumps(failure))
        status = 0
    finally:
        # Nothing of the parent's is to be tidied up here: no atexit, no buffers, no threads.
        os._exit(status)


def _work(work: Pieces, board: Board, k: int, parent: int, result: int):
    """In a worker: the segments that it takes; returns (job, segment, kind, message) of a failure."""
    part = work.part([], progress=lambda n_bytes: board.add(_DONE, k, n_bytes), stop=board, ahead=board.workers)
    lead = max(_LEAD, board.workers) if work.plan.n_streamed else len(work.batches)
    part.pieces = board.share_of(work.batches, k, lead)
    try:
        end_with(parent)
        work.let_go()
        part.run(1)
        with os.fdopen(os.dup(result), "wb") as file:
            pickle.dump(part.result(), file, protocol=5)
    except BaseException as error:
        index, segment, error = min(part.failures, key=lambda f: f[:2], default=(sys.maxsize, 0, error))
        board.set()
        known = isinstance(error, ExpoError)
        text = str(error)[:_MESSAGE] if known else "".join(traceback.format_exception(error))[-_MESSAGE:]
        return index, segment, type(error).__name__ if known else "", text
    finally:
        board.add(_PRIVATE, k, private_bytes())
    return None


def _await(
    work: Pieces, board: Board, lender: Lender | None, pids: list[int], pipes: list[int]
) -> list[tuple[int, int, BaseException]]:
    """Wait for every worker, passing progress on; an interrupt stops them after their segments."""
    failures: list[tuple[int, int, BaseException]] = []
    running = dict(zip(pids, pipes, strict=True))
    told = 0
    while running:
        try:
            time.sleep(_POLL)
            done = board.total(_DONE)
            if done > told:
                work.progress(done - told)
                told = done
        except KeyboardInterrupt:
            board.set()
            if lender:
                lender.give_up()
            failures.append((-1, 0, Interrupted("interrupted")))
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                failures += _failure(status, running.pop(pid))
                if status:
                    board.set()
    return failures


def _failure(status: int, pipe: int) -> list[tuple[int, int, BaseException]]:
    """What a worker that has ended says of its failure; nothing where it had none."""
    with os.fdopen(pipe, "rb") as file:
        said = file.read()
    if said:
        index, segment, kind, text = pickle.loads(said)
        return [(index, segment, _error(kind, text))]
    if status:
        code = os.waitstatus_to_exitcode(status)
        text = f"a worker process ended by signal {-code}" if code < 0 else f"a worker process ended with status {code}"
        return [(sys.maxsize, 0, ExpoError(f"{text}. What is written stays: the same command continues."))]
    return []


def _error(kind: str, text: str) -> BaseException:
    """A worker's error as the parent raises it: the same class, the same words."""
    if not kind:
        return RuntimeError(f"a worker process failed:\n{text}")
    return again(kind, text)
