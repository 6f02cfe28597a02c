"""Blocks of files on the Hub that one process loads and its forks read, in memory that all of them share.

So each byte comes once and passes its hash in one place, while the forks compute. A fork asks for a block by a pipe,
copies what it wants of it, and then looks whether another block has taken its place meanwhile; nothing is locked.
"""

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Self

from expo.checkpoint import blocks
from expo.checkpoint.blocks import Buffer
from expo.checkpoint.read_ahead import ReadAhead
from expo.checkpoint.shard import RemoteShard, Shard, Shards
from expo.checkpoint.spec import Checkpoint, TensorSpec, WeightFile
from expo.errors import ExpoError, again

_KEPT = 4  # blocks of a file that a fork remembers


class Lender:
    """In the process that loads: a thread for each fork answers what it asks for.

    Made before the forks; `with` begins after them, and ends after their ends.
    """

    def __init__(self, inputs: Mapping[str, Checkpoint], n_forks: int, ahead: ReadAhead):
        self.ahead = ahead
        ahead.reserve(sum(any(file.remote for file in c.every_file) for c in inputs.values()))
        self.inputs = inputs
        self.readers = {role: Shards(checkpoint, ahead=ahead) for role, checkpoint in inputs.items()}
        self.pipes = [Pipe() for _ in range(n_forks)]
        self.open = ExitStack()
        self.threads: list[threading.Thread] = []

    def borrowed(self, k: int) -> dict[str, "Borrowed"]:
        """In fork k, which has one thread that reads: the inputs, by role."""
        mine = self.pipes[k][1]
        for ours, theirs in self.pipes:
            ours.close()
            if theirs is not mine:
                theirs.close()
        buffers = self.ahead.held.all
        return {role: Borrowed(checkpoint, role, mine, buffers) for role, checkpoint in self.inputs.items()}

    def give_up(self) -> None:
        """End the waiting of all forks for bytes from the Hub; what they read fails."""
        for reader in self.readers.values():
            reader.give_up()

    def __enter__(self) -> Self:
        for reader in self.readers.values():
            self.open.enter_context(reader)
        for ours, theirs in self.pipes:
            theirs.close()
            self.threads.append(threading.Thread(target=self._serve, args=(ours,), daemon=True))
            self.threads[-1].start()
        return self

    def __exit__(self, *failure: Any) -> None:
        for thread in self.threads:
            thread.join()
        self.open.__exit__(*failure)

    def _serve(self, pipe: Connection) -> None:
        """One thread: answer one fork until it has ended."""
        with pipe:
            while True:
                try:
                    role, name, at, n_bytes = pipe.recv()
                except (EOFError, OSError):
                    return
                try:
                    answer = self.readers[role].lend(name, at, n_bytes)
                except BaseException as error:
                    answer = Failed(type(error).__name__ if isinstance(error, ExpoError) else "", str(error))
                pipe.send(answer)


class Failed:
    """An error, as it goes through a pipe."""

    def __init__(self, kind: str, text: str):
        self.kind, self.text = kind, text


class Borrowed(Shards):
    """In a fork: the same reads as Shards, with the blocks that the process before the fork loads."""

    def __init__(self, checkpoint: Checkpoint, role: str, pipe: Connection, buffers: list[Buffer]):
        super().__init__(checkpoint, scattered=True)
        self.role, self.pipe, self.buffers = role, pipe, buffers

    def _opened(self, file: WeightFile) -> Shard | RemoteShard:
        return Shard(file) if file.remote is None else BorrowedShard(file, self)

    def _fetch(self, out: memoryview, name: str, at: int) -> None:
        """By the process before the fork, whose connections are not shared."""
        self._shard(name).fill(out, at)


class BorrowedShard(RemoteShard):
    """One weight file on the Hub, read in a fork."""

    def __init__(self, file: WeightFile, owner: Borrowed):
        self.file, self.owner = file, owner
        self.places: dict[int, tuple[int, int]] = {}  # block -> its buffer, and that buffer's use

    def read_into(self, out: memoryview, spec: TensorSpec, start: int = 0) -> None:
        """Fill `out` with bytes [start, start + len(out)) of one tensor. Raises a HubError, or ChangedFile."""
        out = memoryview(out).cast("B")
        assert start >= 0 and start + len(out) <= spec.n_bytes, f"{spec.name}: bytes beyond the tensor"
        self.fill(out, spec.offset + start)

    def fill(self, out: memoryview, at: int) -> None:
        """Fill `out` with the file's bytes from `at` on."""
        done = 0
        while done < len(out):
            done += self._copy(out[done:], at + done)

    def _copy(self, out: memoryview, at: int) -> int:
        """Fill the first bytes of `out`: as many as lie in one block, or all by a lone read; 0 where to try again."""
        block, begin = divmod(at, blocks.BLOCK)
        place = self.places.get(block) or self._ask(out, at)
        if isinstance(place, bytes):
            out[:] = place
            return len(out)
        number, use = place
        buffer = self.owner.buffers[number]
        n_bytes = min(len(out), blocks.BLOCK - begin)
        out[:n_bytes] = buffer.bytes[begin : begin + n_bytes]
        if buffer.uses != use:  # another block has come there
            self.places.pop(block, None)
            return 0
        self.places[block] = place
        if len(self.places) > _KEPT:
            del self.places[next(iter(self.places))]
        return n_bytes

    def _ask(self, out: memoryview, at: int) -> tuple[int, int] | bytes:
        """What the loading process answers. Raises what it failed by."""
        pipe = self.owner.pipe
        pipe.send((self.owner.role, self.file.name, at, len(out)))
        answer = pipe.recv()
        if isinstance(answer, Failed):
            raise again(answer.kind, answer.text) if answer.kind else RuntimeError(answer.text)
        return answer
