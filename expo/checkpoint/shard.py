"""Read bytes of tensors from weight files: one descriptor a file, positioned reads, any number of threads."""

import os
import threading
from typing import Self

from expo.checkpoint.files import open_regular
from expo.checkpoint.neighbours import Neighbours
from expo.checkpoint.read_ahead import READ_AHEAD, ReadAhead, Track
from expo.checkpoint.spec import Checkpoint, TensorSpec, WeightFile
from expo.checkpoint.views.nested import touched
from expo.errors import ChangedFile, TruncatedShard, UnreadableFile


class Shard:
    """One open weight file, the same that its header was read from."""

    def __init__(self, file: WeightFile):
        self.file = file
        self.fd = open_regular(file.path)
        try:
            self.check_unchanged()
        except ChangedFile:
            self.close()
            raise

    def read_into(self, out: memoryview, spec: TensorSpec, start: int = 0) -> None:
        """Fill `out` with bytes [start, start + len(out)) of one tensor.

        Raises TruncatedShard where the file ends early, UnreadableFile where the system fails.
        """
        out = memoryview(out).cast("B")
        assert start >= 0 and start + len(out) <= spec.n_bytes, f"{spec.name}: bytes beyond the tensor"
        # Linux reads at most 2 GiB - 4 KiB a call, and an embedding can be larger.
        done = 0
        while done < len(out):
            at = spec.offset + start + done
            try:
                n_bytes = os.preadv(self.fd, [out[done:]], at)
            except OSError as error:
                where = f"{self.file.path}: byte {at}, tensor {spec.name!r}"
                raise UnreadableFile(f"{where}: {error.strerror}.", "Check the disk or the network.") from error
            if n_bytes == 0:
                raise TruncatedShard(self.file.path, spec.name, at)
            done += n_bytes

    def advise(self, spec: TensorSpec, start: int, n_bytes: int) -> None:
        """Ask the kernel to read bytes of one tensor ahead; a hint that never fails."""
        n_bytes = min(n_bytes, spec.n_bytes - start)
        # A length of 0 would mean "to the end of the file"; macOS has no such call.
        if n_bytes > 0 and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fd, spec.offset + start, n_bytes, os.POSIX_FADV_WILLNEED)

    def check_unchanged(self) -> None:
        """ChangedFile unless size and time of change are still those of the plan."""
        now = os.fstat(self.fd)
        if (now.st_size, now.st_mtime_ns) != (self.file.n_bytes, self.file.mtime_ns):
            what = f"{self.file.n_bytes} bytes, now {now.st_size}" if now.st_size != self.file.n_bytes else "new time"
            raise ChangedFile(f"{self.file.path}: changed after its header was read ({what}).")

    def close(self) -> None:
        os.close(self.fd)


class RemoteShard:
    """One weight file on the Hub, the same that its header was read from."""

    def __init__(self, file: WeightFile, track: Track | None, ahead: ReadAhead = READ_AHEAD):
        """track: of the checkpoint's files, read ahead; None: each read is a request of its own."""
        self.file, self.track, self.ahead = file, track, ahead

    def read_into(self, out: memoryview, spec: TensorSpec, start: int = 0) -> None:
        """Fill `out` with bytes [start, start + len(out)) of one tensor. Raises a HubError, or ChangedFile."""
        out = memoryview(out).cast("B")
        assert start >= 0 and start + len(out) <= spec.n_bytes, f"{spec.name}: bytes beyond the tensor"
        if self.track is None:
            self.file.remote.read_into(out, spec.offset + start)
        else:
            self.ahead.read_into(self.track, self.file.remote, out, spec.offset + start)

    def lend(self, at: int, n_bytes: int) -> tuple[int, int] | bytes:
        """Where a fork finds byte `at` (see ReadAhead.lend), or n_bytes from there themselves."""
        place = self.ahead.lend(self.track, self.file.remote, at, n_bytes)
        if place is None:
            found = bytearray(n_bytes)
            self.ahead.read_alone(self.track, self.file.remote, memoryview(found), at)
        return bytes(found) if place is None else place

    def advise(self, spec: TensorSpec, start: int, n_bytes: int) -> None:
        """Nothing: what follows is on its way already."""

    def check_unchanged(self) -> None:
        """Nothing: each answer was compared with what was listed."""

    def close(self) -> None:
        """The track is the checkpoint's, and closed with it."""


class Shards:
    """The open weight files of one checkpoint: each opened once, at its first read."""

    def __init__(self, checkpoint: Checkpoint, *, scattered: bool = False, ahead: ReadAhead = READ_AHEAD):
        """scattered: a few reads here and there, so that nothing is read ahead from the Hub.

        ahead: what reads files that stay on the Hub; those who share one share its connections and buffers.
        """
        self.scattered, self.ahead = scattered, ahead
        self.files = {**checkpoint.files, **checkpoint.extra_files}
        self.track: Track | None = None  # of the files that stay on the Hub
        self._open: dict[str, Shard | RemoteShard] = {}
        self._lock = threading.Lock()
        self._local = threading.local()  # what views hold for each thread
        scaled = checkpoint.quantised.scaled if checkpoint.quantised else {}
        self._scales = Neighbours(self.files, (spec.view.scale for spec in scaled.values()), self._fetch)

    def read_into(self, out: memoryview, spec: TensorSpec, start: int = 0) -> None:
        """Fill `out` with bytes [start, start + len(out)) of one tensor; safe from any thread."""
        if spec.view is None:
            self._read_stored(out, spec, start)
        else:
            out = memoryview(out).cast("B")
            assert start >= 0 and start + len(out) <= spec.n_bytes, f"{spec.name}: bytes beyond the tensor"
            spec.view.read_into(out, start, self._read_stored, self._local.__dict__)

    def _read_stored(self, out: memoryview, spec: TensorSpec, start: int) -> None:
        if spec in self._scales:
            self._scales.read_into(out, spec, start)
        else:
            self._shard(spec.file).read_into(out, spec, start)

    def _fetch(self, out: memoryview, name: str, at: int) -> None:
        """Fill `out` from byte `at` of a file on the Hub, out of the order in which it is read ahead."""
        self.files[name].remote.read_into(out, at)

    def lend(self, name: str, at: int, n_bytes: int) -> tuple[int, int] | bytes:
        """For a fork: where it finds byte `at` of a file that stays on the Hub, or n_bytes from there themselves."""
        return self._shard(name).lend(at, n_bytes)

    def advise(self, spec: TensorSpec, start: int, n_bytes: int) -> None:
        """Ask the kernel to read bytes of one tensor ahead; for a view, what they are computed from."""
        for part, first, n in touched(spec, start, n_bytes):
            self._shard(part.file).advise(part, first, n)

    def check_unchanged(self) -> None:
        """ChangedFile if a file that was read has been written to since."""
        for shard in list(self._open.values()):
            shard.check_unchanged()

    def close(self) -> None:
        """Close every file; the next read would open it again."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()
            if self.track:
                self.ahead.close(self.track)
                self.track = None

    def give_up(self) -> None:
        """End the waiting of all threads for bytes from the Hub; what they read fails."""
        if self.track:
            self.ahead.give_up(self.track)

    def __enter__(self) -> Self:
        self._open_track()  # of all who share the buffers before the first reads, so that it has no more than its part
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                self.check_unchanged()
            else:
                self.give_up()
        finally:
            self.close()
        if kind is None:
            self.refuse_unsound()  # once all that came has passed its hash

    def refuse_unsound(self) -> None:
        """ChangedFile if a file that stays on the Hub has another hash than it should."""
        for file in self.files.values():
            if file.remote:
                file.remote.refuse_unsound()

    def _shard(self, name: str) -> Shard | RemoteShard:
        shard = self._open.get(name)
        if shard is None:
            with self._lock:
                if name not in self._open:
                    self._open[name] = self._opened(self.files[name])
                shard = self._open[name]
        return shard

    def _opened(self, file: WeightFile) -> Shard | RemoteShard:
        if file.remote is None:
            return Shard(file)
        self._open_track()
        return RemoteShard(file, self.track, self.ahead)

    def _open_track(self) -> None:
        remote = [file.remote for file in self.files.values() if file.remote]
        if remote and self.track is None and not self.scattered:
            self.track = self.ahead.open(remote)
