"""Blocks of files on the Hub, loaded by a few threads before they are asked for.

A checkpoint's files are one track, one behind the other. Where a track is read front to back, its next blocks are on
their way; a lone read elsewhere is one request of its own length. Each block is loaded once, into one of a bounded
number of buffers, and passes through its file's hash as long as no block before it is missing. A connection waits for
no hash: each track has a thread for that.
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

    def __init__(self, connections: int = CONNECTIONS) -> None:
        """connections: requests in flight at a time."""
        if not 1 <= connections <= MOST:
            raise RecipeError(f"connections must be from 1 to {MOST}, not {connections}.")
        self.connections = connections
        self.turn = threading.Condition()
        self.tracks: list[Track] = []
        self.wanted: deque[tuple[Track, int]] = deque()  # blocks that a reader waits for
        self.held = Buffers()
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
                track.hashing = threading.Thread(target=self._hash, args=(track,), daemon=True)
                track.hashing.start()
            track.users += 1
            track.places.clear()
            for file in track.files:
                file.given_up.clear()
            while len(self.threads) < self.connections:
                self.threads.append(threading.Thread(target=self._work, daemon=True))
                self.threads[-1].start()
            return track

    def reserve(self, n_tracks: int) -> None:
        """Make the buffers of so many tracks, none of which is open yet, for the forks that are to share them."""
        assert not self.tracks, "a track is open"
        self.held.reserve(blocks.room_for(n_tracks))

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
            threads = [track.hashing, *([] if self.tracks else self.threads)]
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
        return any(not block.is_ready for block in self.held.of(track)) or self.held.next_to_hash(track) is not None

    def read_into(self, track: Track, file: RemoteFile, out: memoryview, at: int) -> None:
        """Fill `out` with bytes [at, at + len(out)) of a file. Raises what RemoteFile.read_into raises."""
        done = 0
        while done < len(out):
            block = self._taken(track, file, at + done, len(out) - done)
            if block is None:
                self.read_alone(track, file, out[done:], at + done)
                return
            found = block.bytes[at + done - track.span(block.number)[1] :][: len(out) - done]
            out[done : done + len(found)] = found
            self._give_back(block)
            done += len(found)

    def lend(self, track: Track, file: RemoteFile, at: int, n_bytes: int) -> tuple[int, int] | None:
        """The buffer where a fork finds a byte's block, and that buffer's use; None for a lone read of n_bytes.

        Nothing keeps the block there: what was copied counts only if the buffer's use is still the same.
        """
        block = self._taken(track, file, at, n_bytes)
        if block is None:
            return None
        place = block.buffer.number, block.buffer.uses
        self._give_back(block)
        return place

    def read_alone(self, track: Track, file: RemoteFile, out: memoryview, at: int) -> None:
        """Fill `out` by a request of its own; where it ends, reading front to back may begin."""
        file.read_into(out, at)
        with self.turn:
            track.ends.append((id(file), at + len(out)))

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

    def _taken(self, track: Track, file: RemoteFile, at: int, n_bytes: int) -> Block | None:
        """The block of a byte, ready, and marked as being read; None where n_bytes from there are a lone read."""
        number = track.number(file, at)
        if not self._goes_on(track, number, at, n_bytes):
            return None
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

    def _give_back(self, block: Block) -> None:
        with self.turn:
            block.readers -= 1
            if self.held.is_full and not block.readers:
                self.held.is_full = False
                self.turn.notify_all()

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
                block.track.files[k].read_into(block.bytes, first)
            except BaseException as error:
                block.error = error
            with self.turn:
                block.is_ready = True
                self.turn.notify_all()

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

    def _hash(self, track: Track) -> None:
        """One thread: pass on to each file's hash what is loaded and comes next in it, until the track is closed."""
        while True:
            with self.turn:
                while (block := self.held.next_to_hash(track)) is None:
                    if not track.users and not self._is_busy(track):
                        return
                    self.turn.wait()
                block.readers += 1
            file = track.files[track.span(block.number)[0]]
            file.digest.update(block.bytes)
            with self.turn:
                file.n_digested += block.n_bytes
                block.readers -= 1
                self.turn.notify_all()


READ_AHEAD = ReadAhead()  # of all readers that are not given one of their own
