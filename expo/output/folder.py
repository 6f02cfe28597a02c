"""A folder as the sink of a run: bytes at known offsets in files of known size, published whole or not at all."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from expo.errors import DiskFull, OutputError, RankError
from expo.output.journal import Finished, Journal, read_journals
from expo.output.partial import Partial, clear_errors, fsync_path, refused


class FolderSink:
    """Fills OUT.partial/files and publishes it as OUT. Threads and forks share its descriptors and its journal."""

    def __init__(self, output: str | Path, *, overwrite: bool = False):
        if not str(output) or str(output) == ".":
            raise OutputError("the output has no name. Name a folder that is to be written.")
        if os.path.islink(output) and not os.path.exists(output):
            raise OutputError(
                f"{output} is a link to a place that does not exist. Make the folder, or remove the link."
            )
        # A link is followed, so that the output lies on the disk that was meant.
        self.output = Path(os.path.realpath(output))
        self.overwrite = overwrite
        self.partial = Partial(self.output)
        self.fds: dict[str, int] = {}
        self.journal: Journal | None = None
        self.finished: dict[tuple[int, int], Finished] = {}
        self.leads = True  # False for a process that joined another's folder

    def check(self, inputs: Mapping[str, Path], n_bytes: int, fingerprint: str) -> None:
        """Everything that can be known to fail, before anything is written.

        inputs: what each input is called, and the folder or file it is. n_bytes: size of the output.
        fingerprint: of the run that an unfinished folder must belong to.
        """
        for role, path in inputs.items():
            path = Path(os.path.realpath(path))
            if self.output == path or path in self.output.parents:
                raise OutputError(
                    f"{self.output} lies inside {role} ({path}), which is read-only. Choose another output."
                )
            if self.output in path.parents:
                raise OutputError(f"{role} ({path}) lies inside {self.output}. Choose another output.")
        is_open = self.partial.state() == "open"
        if is_open and os.path.lexists(self.output):
            if not self.output.is_dir():
                raise OutputError(f"{self.output} is a file. Choose another output.")
            if os.path.ismount(self.output):
                raise OutputError(
                    f"{self.output} is a mount point, which cannot be replaced. Choose a folder inside it."
                )
            if not self.overwrite:
                raise OutputError(f"{self.output} exists. To replace it when the new one is complete: --overwrite.")
            here = Path(os.path.realpath(os.getcwd()))
            if self.output == here or self.output in here.parents:
                raise OutputError(
                    f"{self.output} is where this command runs, and is not replaced. Choose another output."
                )
            if not _is_replaceable(self.output):
                raise OutputError(
                    f"{self.output} holds no checkpoint, so --overwrite does not replace it. Choose another output, or "
                    "empty it yourself."
                )
        self.partial.check(fingerprint)
        if is_open:
            self._check_room(n_bytes)

    def _check_room(self, n_bytes: int) -> None:
        parent = self.output.parent
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise OutputError(f"{parent} cannot be written to. Choose another output, or change its permissions.")
        there = 0
        if self.partial.files.is_dir():
            there = sum(path.stat().st_blocks * 512 for path in self.partial.files.rglob("*") if path.is_file())
        free = shutil.disk_usage(parent).free
        if n_bytes - there > free:
            raise DiskFull(
                f"{parent} has {free / 1e9:.2f} GB free, and the output needs {(n_bytes - there) / 1e9:.2f} GB. "
                f"{'What is written stays' if there else 'Nothing was written'}. "
                "Free some room, or choose another output."
            )

    def open(self, fingerprint: str, description: str, shards: Sequence) -> bool:
        """Take the partial folder and size its files; True if the result is complete already.

        shards: each with a name, its header's bytes, and its size n_bytes.
        """
        with clear_errors(self.partial.folder):
            self.partial.open(fingerprint, description)
            if self.partial.state() != "open":
                return True
            self.finished = read_journals(self.partial.folder)
            self.partial.files.mkdir(exist_ok=True)
            self._clear_all_but({shard.name for shard in shards})
            for shard in shards:
                self._open_shard(shard)
            self.journal = Journal(self.partial.folder)
        return False

    def mark(self) -> tuple[int, bytes]:
        """What tells the opened partial folder from every other: its lock's number, and who holds it."""
        lock = self.partial.folder / "lock"
        return lock.stat().st_ino, lock.read_bytes()

    def join(self, mark: tuple[int, bytes], shards: Sequence, writer: int) -> None:
        """Work in the partial folder that another process opened; raises RankError where this one sees another.

        writer: the number of this process's journal.
        """
        self.leads = False
        try:
            seen = self.mark()
        except OSError:
            seen = None
        if seen != mark:
            raise RankError(
                f"{os.uname().nodename} does not see the folder {self.partial.folder} that another process of this run "
                "has opened. All of them need the same shared folder, under the same path."
            )
        with clear_errors(self.partial.folder):
            self.finished = read_journals(self.partial.folder)
            for shard in shards:
                self.fds[shard.name] = os.open(self.partial.files / shard.name, os.O_RDWR)
            self.journal = Journal(self.partial.folder, writer)

    def _clear_all_but(self, shards: set[str]) -> None:
        """Small files of an earlier try are written anew."""
        for path in sorted(self.partial.files.rglob("*"), reverse=True):
            if path.is_dir():
                with contextlib.suppress(OSError):  # not empty
                    path.rmdir()
            elif str(path.relative_to(self.partial.files)) not in shards:
                path.unlink()

    def _open_shard(self, shard) -> None:
        path = self.partial.files / shard.name
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = self.fds[shard.name] = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if os.fstat(fd).st_size != shard.n_bytes:
            os.ftruncate(fd, shard.n_bytes)
        if os.pread(fd, len(shard.header), 0) != shard.header:  # a file that is whole stays untouched
            _pwrite(fd, memoryview(shard.header), 0)

    def write(self, job, start: int, data: memoryview) -> None:
        """Write bytes [start, start + len(data)) of one output tensor."""
        try:
            _pwrite(self.fds[job.file], data, job.at + start)
        except OSError as error:
            raise refused(self.partial.folder, error) from error

    def read_into(self, job, start: int, data: memoryview) -> bool:
        """Read back bytes of one output tensor; False if they are not all there."""
        return os.preadv(self.fds[job.file], [data], job.at + start) == len(data)

    def record(self, job_index: int, segment: int, finished: Finished) -> None:
        """Note a finished segment, so that a later run need not repeat it."""
        with self.full_disk_is_clear():
            self.journal.add(job_index, segment, finished)

    def recorded(self) -> dict[tuple[int, int], Finished]:
        """Every segment that this run or an earlier one recorded."""
        return read_journals(self.partial.folder)

    def let_go(self) -> None:
        """In a fork: leave the folder's lock to the process that took it."""
        self.partial.release()

    def sync(self) -> float:
        """Put every byte written so far on the disk; returns the seconds it took."""
        began = time.perf_counter()
        with self.full_disk_is_clear():
            for fd in self.fds.values():
                os.fsync(fd)
        return time.perf_counter() - began

    def add_file(self, name: str, content: str) -> None:
        """Add a small text file."""
        with self.full_disk_is_clear():
            path = self.partial.files / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")

    def add_index(self, name: str, weight_map: Mapping[str, str], n_bytes: int) -> None:
        """Add the index of a sharded checkpoint."""
        index = {"metadata": {"total_size": n_bytes}, "weight_map": dict(weight_map)}
        self.add_file(name, json.dumps(index, indent=2, ensure_ascii=False) + "\n")

    def seal(self) -> None:
        """Note that all is written: what is left is to appear."""
        self._close()
        with self.full_disk_is_clear():
            if self.partial.state() == "open":
                for path in self.partial.files.rglob("*"):
                    fsync_path(path)
                fsync_path(self.partial.files)
                self.partial.mark_done()

    def publish(self) -> None:
        """Make the output appear, whole, under its name."""
        self.seal()
        with self.full_disk_is_clear():
            self.partial.publish(overwrite=self.overwrite)

    @property
    def sealed(self) -> dict[str, Path]:
        """The files of an output that is complete: path inside it -> where it lies now."""
        root = self.partial.files if self.partial.state() == "built" else self.output
        found = (path for path in sorted(root.rglob("*")) if path.is_file())
        return {path.relative_to(root).as_posix(): path for path in found}

    def abandon(self, *, drop: bool) -> None:
        """Let go after a failure; `drop` removes what was written, otherwise the same command continues."""
        self._close()
        if drop and self.leads:
            self.partial.drop()
        self.partial.release()

    def _close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)
        self.fds = {}
        if self.journal:
            self.journal.close()
            self.journal = None

    def full_disk_is_clear(self):
        """Turn what the file system refuses into one clear error."""
        return clear_errors(self.partial.folder)


def _is_replaceable(folder: Path) -> bool:
    """An empty folder, or one that looks like a checkpoint: nothing else is deleted for a new output."""
    names = [path.name for path in folder.iterdir()]
    known = ("expo.json", "model_index.json", "modules.json")
    return not names or any(name in known or name.endswith((".safetensors", ".bin")) for name in names)


def _pwrite(fd: int, data: memoryview, at: int) -> None:
    # Linux writes at most 2 GiB - 4 KiB a call, and a full disk may take a part.
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], at + done)
