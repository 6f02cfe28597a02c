"""Blocks of files on the Hub: where they lie in a checkpoint's files, and the bounded number of buffers that hold them.

A checkpoint's files are one track, one behind the other. Starts no thread and no request: who calls holds a lock.
"""

import bisect
import itertools
import mmap
import threading
from collections import deque
from dataclasses import dataclass, field

from expo.checkpoint.remote import RemoteFile

BLOCK = 8 * 2**20  # bytes of one request
ROOM = 16  # blocks held at a time; more where many checkpoints are read at once
_EACH = 3  # blocks at least for each checkpoint: two that are read, one on its way
_LAG = 4  # blocks that are kept behind the front for threads that are still there
_ENDS = 16  # where the last lone reads ended


def room_for(tracks: int) -> int:
    """How many blocks are held while so many checkpoints are read; times BLOCK it is the memory that takes."""
    return max(ROOM, _EACH * tracks) if tracks else 0


def depth_for(tracks: int) -> int:
    """How many blocks ahead of each front are loaded."""
    n = max(1, tracks)
    return max(1, room_for(n) // n - 2)


class Buffer:
    """Memory for one block at a time, which forks made later share."""

    def __init__(self, number: int):
        self.number = number
        memory = memoryview(mmap.mmap(-1, BLOCK + 8))
        self.bytes, self._uses = memory[:BLOCK], memory[BLOCK:].cast("q")

    @property
    def uses(self) -> int:
        """How many blocks it has held: what a fork copied is its block's if this is the same before and after."""
        return self._uses[0]

    def reuse(self) -> None:
        """Tell the forks that another block comes here."""
        self._uses[0] += 1


@dataclass(eq=False)
class Block:
    """One block, and where it is."""

    track: "Track"
    number: int
    buffer: Buffer
    n_bytes: int
    is_ready: bool = False
    readers: int = 0
    error: BaseException | None = None

    @property
    def bytes(self) -> memoryview:
        """Its bytes."""
        return self.buffer.bytes[: self.n_bytes]


@dataclass(eq=False)
class Track:
    """The files of one checkpoint as one row of blocks."""

    files: tuple[RemoteFile, ...]
    users: int = 0
    front: int = -1  # the block that reading front to back has come to
    places: dict[int, int] = field(default_factory=dict)  # thread -> the block that it read last
    hashing: threading.Thread | None = None
    ends: deque = field(default_factory=lambda: deque(maxlen=_ENDS))

    def __post_init__(self) -> None:
        counts = [-(-file.n_bytes // BLOCK) for file in self.files]
        self.starts = [0, *itertools.accumulate(counts)]  # the number of each file's first block
        self.place = {id(file): k for k, file in enumerate(self.files)}

    def number(self, file: RemoteFile, at: int) -> int:
        """The block that holds a byte of a file."""
        return self.starts[self.place[id(file)]] + at // BLOCK

    @property
    def tail(self) -> int:
        """The first block that is still read."""
        return min([self.front - 1, *(place for place in self.places.values() if place >= self.front - _LAG)])

    def span(self, number: int) -> tuple[int, int, int]:
        """Which file a block belongs to, and the bytes [first, last) of it."""
        k = bisect.bisect_right(self.starts, number) - 1
        first = (number - self.starts[k]) * BLOCK
        return k, first, min(first + BLOCK, self.files[k].n_bytes)


class Buffers:
    """The blocks that are held, of all tracks, and the buffers that wait for the next."""

    def __init__(self) -> None:
        self.blocks: dict[tuple[int, int], Block] = {}  # (identity of the track, number)
        self.all: list[Buffer] = []
        self.free: list[Buffer] = []
        self.is_full = False  # a thread found no buffer

    def get(self, track: Track, number: int) -> Block | None:
        """A block of a track, if it is held."""
        return self.blocks.get((id(track), number))

    def of(self, track: Track) -> list[Block]:
        """The blocks of a track that are held."""
        return [block for block in self.blocks.values() if block.track is track]

    def reserve(self, n: int) -> None:
        """Make so many buffers now, before the forks that are to share them. Memory is taken when they are filled."""
        self.all = [Buffer(number) for number in range(n)]
        self.free = self.all[::-1]

    def begin(self, track: Track, number: int, buffer: Buffer) -> Block:
        """A block that is to be loaded into a buffer."""
        buffer.reuse()
        _, first, last = track.span(number)
        block = self.blocks[id(track), number] = Block(track, number, buffer, last - first)
        return block

    def drop(self, block: Block) -> None:
        """Hold a block no longer; its buffer is free."""
        if self.blocks.pop((id(block.track), block.number), None) is not None:
            self.free.append(block.buffer)

    def take(self, tracks: int, *, needed: bool) -> Buffer | None:
        """A buffer that is free or behind its front; needed: else one that would be read latest. None: all are used."""
        if self.free:
            return self.free.pop()
        if len(self.all) < room_for(tracks):
            self.all.append(Buffer(len(self.all)))
            return self.all[-1]
        idle = [block for block in self.blocks.values() if block.is_ready and not block.readers]
        idle = [block for block in idle if not self._awaits_hash(block)]
        depth = depth_for(tracks)
        spent = [b for b in idle if not b.track.tail <= b.number <= b.track.front + depth]
        if not spent and needed:
            spent = sorted(idle, key=lambda block: block.track.front - block.number)[:1]
        if not spent:
            self.is_full = True
            return None
        self.drop(spent[0])
        return self.free.pop()

    def clear(self) -> None:
        """Give the memory back."""
        self.all, self.free = [], []

    def next_to_hash(self, track: Track) -> Block | None:
        """A block that comes next in the hash of any file of a track."""
        found = (self._to_hash(track, k) for k in range(len(track.files)))
        return next((block for block in found if block), None)

    def _to_hash(self, track: Track, k: int) -> Block | None:
        """The block that comes next in one file's hash, if it is there."""
        file = track.files[k]
        if file.digest is None or file.n_digested == file.n_bytes:
            return None
        block = self.get(track, track.starts[k] + file.n_digested // BLOCK)
        return block if block and block.is_ready and not block.error else None

    def _awaits_hash(self, block: Block) -> bool:
        """Whether a block's turn in its file's hash is coming."""
        k, first, _ = block.track.span(block.number)
        return first >= block.track.files[k].n_digested and self._to_hash(block.track, k) is not None
