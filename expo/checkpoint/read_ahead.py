"""Blocks of files on the Hub, loaded by a few threads before they are asked for.

A checkpoint's files are one track, one behind the other. Where a track is read front to back, its next blocks are on
their way; a lone read elsewhere is one request of its own length. Each block is loaded once, into one of a bounded
number of buffers, and passes through its file's hash as long as no block before it is missing.
"""

import bisect
import itertools
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from expo.checkpoint.remote import RemoteFile
from expo.errors import Interrupted

BLOCK = 8 * 2**20  # bytes of one request
CONNECTIONS = 8  # requests in flight at a time, in all, unless another number is asked for
ROOM = 16  # blocks held at a time; more where many checkpoints are read at once
_EACH = 3  # blocks at least for each checkpoint: two that are read, one on its way
_LAG = 4  # blocks that are kept behind the front for threads that are still there
_ENDS = 16  # where the last lone reads ended


def room_for(tracks: int) -> int:
    """How many blocks are held while so many checkpoints are read; times BLOCK it is the memory that takes."""
    return max(ROOM, _EACH * tracks) if tracks else 0


@dataclass(eq=False)
class Block:
    """One block's buffer."""

    track: "Track"
    number: int
    buffer: bytearray
    n_bytes: int
    is_ready: bool = False
    readers: int = 0
    error: BaseException | None = None


@dataclass(eq=False)
class Track:
    """The files of one checkpoint as one row of blocks."""

    files: tuple[RemoteFile, ...]
    users: int = 0
    front: int = -1  # the block that reading front to back has come to
    places: dict[int, int] = field(default_factory=dict)  # thread -> the block that it read last
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


class ReadAhead:
    """The blocks of all checkpoints that are read from the Hub at a time; its threads end when none is left."""

    def __init__(self) -> None:
        self.turn = threading.Condition()
        self.connections = CONNECTIONS  # of what is opened from now on
        self.tracks: list[Track] = []
        self.blocks: dict[tuple[int, int], Block] = {}  # (identity of the track, number)
        self.wanted: deque[tuple[Track, int]] = deque()  # blocks that a reader waits for
        self.free: list[bytearray] = []
        self.made = 0  # buffers
        self.hashing: set[int] = set()  # identities of files that a thread is hashing
        self.is_full = False  # a thread found no buffer
        self.threads: list[threading.Thread] = []

    # --- what readers call ------------------------------------------------------------------------------------------

    def open(self, files: Sequence[RemoteFile]) -> Track:
        """The track of a checkpoint's files: the one that is open already, where there is one."""
        with self.turn:
            same = (track for track in self.tracks if [*map(id, track.files)] == [*map(id, files)])
            track = next(same, None)
            if track is None:
                track = Track(tuple(files))
                self.tracks.append(track)
            track.users += 1
            track.places.clear()
            for file in track.files:
                file.given_up.clear()
            while len(self.threads) < self.connections:
                self.threads.append(threading.Thread(target=self._work, daemon=True))
                self.threads[-1].start()
            return track

    def close(self, track: Track) -> None:
        """Let go of a track; its last user waits until what is on its way has come and is hashed."""
        with self.turn:
            track.users -= 1
            if track.users:
                return
            self.tracks.remove(track)
            self.turn.notify_all()
            while self._is_busy(track):
                self.turn.wait()
            for block in self._of(track):
                self._drop(block)
            threads = [] if self.tracks else list(self.threads)
        for thread in threads:
            thread.join()
        with self.turn:
            if not self.tracks:
                self.free, self.made = [], 0

    def read_through(self, files: Sequence[RemoteFile]) -> None:
        """Read what no hash has seen yet of each file, to its end. Raises what RemoteFile.read_into raises."""
        track, byte = self.open(files), memoryview(bytearray(1))
        try:
            for file in files:
                start = file.n_digested
                with self.turn:
                    track.front = track.number(file, start) - 1
                for at in range(start, file.n_bytes, BLOCK):
                    self.read_into(track, file, byte, at)  # a byte of each block brings the block
        finally:
            self.close(track)

    def give_up(self, track: Track) -> None:
        """End the waiting of all who read a track: what they read fails."""
        for file in track.files:
            file.given_up.set()
        with self.turn:
            self.turn.notify_all()

    def _is_busy(self, track: Track) -> bool:
        """Whether a block is being loaded, or waits for its hash."""
        if any(not block.is_ready for block in self._of(track)):
            return True
        return any(id(file) in self.hashing or self._to_hash(track, k) for k, file in enumerate(track.files))

    def read_into(self, track: Track, file: RemoteFile, out: memoryview, at: int) -> None:
        """Fill `out` with bytes [at, at + len(out)) of a file. Raises what RemoteFile.read_into raises."""
        done = 0
        while done < len(out):
            number = track.number(file, at + done)
            if not self._goes_on(track, number, at + done, len(out) - done):
                file.read_into(out[done:], at + done)
                with self.turn:
                    track.ends.append((id(file), at + len(out)))
                return
            _, first, last = track.span(number)
            begin = at + done - first
            n_bytes = min(len(out) - done, last - first - begin)
            block = self._taken(track, number)
            try:
                out[done : done + n_bytes] = memoryview(block.buffer)[begin : begin + n_bytes]
            finally:
                with self.turn:
                    block.readers -= 1
                    if self.is_full and not block.readers:
                        self.is_full = False
                        self.turn.notify_all()
            done += n_bytes

    def _goes_on(self, track: Track, number: int, at: int, n_bytes: int) -> bool:
        """Whether a read is part of reading front to back, which then has come to this block."""
        me = threading.get_ident()
        with self.turn:
            k, first, _ = track.span(number)
            # A thread that the others have left behind: it goes forwards, where a new pass begins anew.
            late = track.places.get(me, number + 1) <= number < track.front
            near = late or -1 <= number - track.front <= 2
            known = (id(track.files[k]), at) in track.ends or self._block(track, number)
            if not (near or known or first == 0 or n_bytes >= BLOCK):
                return False
            track.places[me] = number
            if not late and number != track.front and (number > track.front or not near):
                track.front = number
                self.turn.notify_all()
            return True

    def _taken(self, track: Track, number: int) -> Block:
        """A block that is ready, marked as being read."""
        file = track.files[track.span(number)[0]]
        with self.turn:
            while True:
                block = self._block(track, number)
                if file.given_up.is_set():
                    raise Interrupted("interrupted")
                if block is None:
                    if (track, number) not in self.wanted:
                        self.wanted.append((track, number))
                        self.turn.notify_all()
                elif block.error:
                    self._drop(block)
                    raise block.error
                elif block.is_ready:
                    block.readers += 1
                    return block
                self.turn.wait()

    # --- what the threads do ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        """One thread: load the block that is wanted most, until no track is open."""
        while True:
            with self.turn:
                while (block := self._next()) is None:
                    if not self.tracks:
                        self.threads.remove(threading.current_thread())
                        return
                    self.turn.wait()
            k, first, _ = block.track.span(block.number)
            try:
                block.track.files[k].read_into(memoryview(block.buffer)[: block.n_bytes], first)
            except BaseException as error:
                block.error = error
            with self.turn:
                block.is_ready = True
                self.turn.notify_all()
            self._hash(block.track, k)

    def _next(self) -> Block | None:
        """The block to load next, with a buffer: one that a reader waits for, else the nearest ahead of any front."""
        while self.wanted:
            track, number = self.wanted[0]
            if track.users and self._block(track, number) is None:
                buffer = self._buffer(needed=True)
                if buffer is None:
                    return None
                self.wanted.popleft()
                return self._begun(track, number, buffer)
            self.wanted.popleft()
        for distance in range(1, self._depth() + 1):
            for track in self.tracks:
                number = track.front + distance
                if track.front >= 0 and number < track.starts[-1] and self._block(track, number) is None:
                    buffer = self._buffer(needed=False)
                    return self._begun(track, number, buffer) if buffer is not None else None
        return None

    def _begun(self, track: Track, number: int, buffer: bytearray) -> Block:
        _, first, last = track.span(number)
        block = self.blocks[id(track), number] = Block(track, number, buffer, last - first)
        return block

    def _depth(self) -> int:
        """How many blocks ahead of a front are loaded."""
        n = max(1, len(self.tracks))
        return max(1, room_for(n) // n - 2)

    def _buffer(self, *, needed: bool) -> bytearray | None:
        """A buffer that is free or behind its front; needed: else one that would be read latest."""
        if self.free:
            return self.free.pop()
        if self.made < room_for(len(self.tracks)):
            self.made += 1
            return bytearray(BLOCK)
        idle = [block for block in self.blocks.values() if block.is_ready and not block.readers]
        depth = self._depth()
        idle = [block for block in idle if not self._awaits_hash(block)]
        spent = [b for b in idle if not b.track.tail <= b.number <= b.track.front + depth]
        if not spent and needed:
            spent = sorted(idle, key=lambda block: block.track.front - block.number)[:1]
        if not spent:
            self.is_full = True
            return None
        self._drop(spent[0])
        return self.free.pop()

    def _drop(self, block: Block) -> None:
        if self.blocks.pop((id(block.track), block.number), None) is not None:
            self.free.append(block.buffer)

    def _hash(self, track: Track, k: int) -> None:
        """Pass on to the file's hash what is loaded and comes next in it."""
        file = track.files[k]
        while True:
            with self.turn:
                block = None if id(file) in self.hashing else self._to_hash(track, k)
                if block is None:
                    return  # another thread that hashes looks again before it ends
                self.hashing.add(id(file))
                block.readers += 1
            file.digest.update(memoryview(block.buffer)[: block.n_bytes])
            with self.turn:
                file.n_digested += block.n_bytes
                block.readers -= 1
                self.hashing.discard(id(file))
                self.turn.notify_all()

    def _to_hash(self, track: Track, k: int) -> Block | None:
        """The block that comes next in a file's hash, if it is there."""
        file = track.files[k]
        if file.digest is None or file.n_digested == file.n_bytes:
            return None
        block = self._block(track, track.starts[k] + file.n_digested // BLOCK)
        return block if block and block.is_ready and not block.error else None

    def _awaits_hash(self, block: Block) -> bool:
        """Whether a block's turn in its file's hash is coming."""
        k, first, _ = block.track.span(block.number)
        return first >= block.track.files[k].n_digested and self._to_hash(block.track, k) is not None

    def _block(self, track: Track, number: int) -> Block | None:
        return self.blocks.get((id(track), number))

    def _of(self, track: Track) -> list[Block]:
        return [block for block in self.blocks.values() if block.track is track]


READ_AHEAD = ReadAhead()
