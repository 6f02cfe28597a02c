"""Blocks of files on the Hub, loaded by a few threads before they are asked for.

A checkpoint's files are one track, one behind the other. Where a track is read front to back, its next blocks are on
their way; a lone read elsewhere is one request of its own length. Each block is loaded once, into one of a bounded
number of buffers, and passes through its file's hash as long as no block before it is missing.
"""

import threading
from collections import deque
from collections.abc import Sequence

from expo.checkpoint import blocks
from expo.checkpoint.blocks import Block, Buffers, Track, depth_for
from expo.checkpoint.remote import RemoteFile
from expo.errors import Interrupted, RecipeError

CONNECTIONS = 8  # requests in flight at a time, in all, unless another number is asked for

MOST = 16  # the Hub limits the rate of requests


class ReadAhead:
    """The blocks of all checkpoints that are read from the Hub at a time; its threads end when none is left."""

    def __init__(self) -> None:
        self.turn = threading.Condition()
        self._connections = CONNECTIONS
        self.tracks: list[Track] = []
        self.wanted: deque[tuple[Track, int]] = deque()  # blocks that a reader waits for
        self.held = Buffers()
        self.hashing: set[int] = set()  # identities of files that a thread is hashing
        self.threads: list[threading.Thread] = []

    @property
    def connections(self) -> int:
        """Requests in flight at a time, of what is opened from now on: one number for the whole process."""
        return self._connections

    @connections.setter
    def connections(self, n: int) -> None:
        if not 1 <= n <= MOST:
            raise RecipeError(f"connections must be from 1 to {MOST}, not {n}.")
        self._connections = n

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
            for block in self.held.of(track):
                self.held.drop(block)
            threads = [] if self.tracks else list(self.threads)
        for thread in threads:
            thread.join()
        with self.turn:
            if not self.tracks:
                self.held.clear()

    def read_through(self, files: Sequence[RemoteFile]) -> None:
        """Read what no hash has seen yet of each file, to its end. Raises what RemoteFile.read_into raises."""
        track, byte = self.open(files), memoryview(bytearray(1))
        try:
            for file in files:
                start = file.n_digested
                with self.turn:
                    track.front = track.number(file, start) - 1
                for at in range(start, file.n_bytes, blocks.BLOCK):
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
        if any(not block.is_ready for block in self.held.of(track)):
            return True
        return any(id(file) in self.hashing or self.held.to_hash(track, k) for k, file in enumerate(track.files))

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
                    if self.held.is_full and not block.readers:
                        self.held.is_full = False
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
            known = (id(track.files[k]), at) in track.ends or self.held.get(track, number)
            if not (near or known or first == 0 or n_bytes >= blocks.BLOCK):
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
                block = self.held.get(track, number)
                if file.given_up.is_set():
                    raise Interrupted("interrupted")
                if block is None:
                    if (track, number) not in self.wanted:
                        self.wanted.append((track, number))
                        self.turn.notify_all()
                elif block.error:
                    self.held.drop(block)
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
            if track.users and self.held.get(track, number) is None:
                buffer = self.held.take(len(self.tracks), needed=True)
                if buffer is None:
                    return None
                self.wanted.popleft()
                return self.held.begin(track, number, buffer)
            self.wanted.popleft()
        for distance in range(1, depth_for(len(self.tracks)) + 1):
            for track in self.tracks:
                number = track.front + distance
                if track.front >= 0 and number < track.starts[-1] and self.held.get(track, number) is None:
                    buffer = self.held.take(len(self.tracks), needed=False)
                    return self.held.begin(track, number, buffer) if buffer is not None else None
        return None

    def _hash(self, track: Track, k: int) -> None:
        """Pass on to the file's hash what is loaded and comes next in it."""
        file = track.files[k]
        while True:
            with self.turn:
                block = None if id(file) in self.hashing else self.held.to_hash(track, k)
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


READ_AHEAD = ReadAhead()
