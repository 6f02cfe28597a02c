"""The sibling folder in which an output is built, and the one step that publishes it.

    OUT.partial/run.json   whose run this is: its fingerprint; later, which folder files/ was when it was complete
    OUT.partial/lock       flock-ed by the process that works on it; holds its number
    OUT.partial/journal-N  finished segments
    OUT.partial/files/     what becomes OUT
    OUT.partial/training/  a trainer's own checkpoints, to resume from
    OUT.partial/old        the OUT that is being replaced, where the file system cannot exchange two folders

Every state that a kill can leave is told apart by what exists, and the same command goes on from it.
"""

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
from pathlib import Path

import xxhash

from expo.errors import AnotherRun, DiskFull, OutputError
from expo.output.lock import take_lock

_OURS = re.compile(r"run\.json(\.new)?|lock|files|old|training|journal-\d+")
_BEFORE_A_RUN = {"lock", "run.json.new", "files"}  # what a kill can leave without a run.json
_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class Partial:
    """The folder OUT.partial of one run."""

    def __init__(self, output: Path):
        self.output = output
        if not output.name:
            raise OutputError(f"{output} cannot be written as a folder. Choose another output.")
        self.folder = output.with_name(output.name + ".partial")
        self.files = self.folder / "files"
        self.old = self.folder / "old"
        self.made: list[Path] = []  # folders above that were made for the output, deepest first
        self._lock: int | None = None

    def check(self, fingerprint: str) -> None:
        """Raise OutputError if the folder is another run's, in use, or no run's at all; changes nothing."""
        with clear_errors(self.folder):
            if not self.folder.exists():
                return
        if not self.folder.is_dir():
            raise OutputError(f"{self.folder} is in the way: expo builds its output there. Move it away.")
        with clear_errors(self.folder):
            self._refuse_strangers()
            if (self.folder / "lock").exists():
                self._take_lock()
                self.release()
        if self.fingerprint() not in (None, fingerprint) and not self.old.exists():
            raise self._not_ours()

    def open(self, fingerprint: str, description: str) -> None:
        """Make the folder, or go on in it; it is locked from here on. Raises OutputError for another run's."""
        self.made = [parent for parent in self.folder.parents if not parent.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._refuse_strangers()
        self._take_lock()
        self._restore_old(fingerprint)
        found = self.fingerprint()
        stale = found == fingerprint and self.state() == "open" and "inode" in self._run()
        if found is None or stale:  # stale: it was published, and what it published is gone
            self._start(fingerprint, description)
        elif found != fingerprint:
            self.release()
            raise self._not_ours()

    def _not_ours(self) -> AnotherRun:
        return AnotherRun(
            f"{self.folder} belongs to another run: other inputs, recipe or version of expo.\n"
            f"To go on with that one, repeat its command. To drop it: rm -r '{self.folder}'"
        )

    def _refuse_strangers(self) -> None:
        names = {path.name for path in self.folder.iterdir()}
        strangers = {name for name in names if not _OURS.fullmatch(name)}
        if self.fingerprint() is None:  # its record goes last, so that nothing of a run is left without it
            strangers |= names - _BEFORE_A_RUN
            if self.files.is_dir() and any(self.files.iterdir()):
                strangers.add("files")
            if "lock" in names and not re.fullmatch(rb"(\d+\n)?", (self.folder / "lock").read_bytes()):
                strangers.add("lock")
        if strangers:
            raise OutputError(
                f"{self.folder} is in the way: it is no unfinished run of expo ({min(strangers)} is in it). "
                "Move it away, or choose another output."
            )

    def fingerprint(self) -> str | None:
        """The fingerprint of the run that the folder belongs to; None for a folder that holds no run."""
        return self._run().get("fingerprint")

    def _run(self) -> dict:
        try:
            run = json.loads((self.folder / "run.json").read_text())
        except (OSError, ValueError):
            return {}
        return run if isinstance(run, dict) else {}

    def _start(self, fingerprint: str, description: str) -> None:
        self._clear(but="lock")
        self.files.mkdir()
        self._record({"fingerprint": fingerprint, "run": description})

    def _record(self, run: dict) -> None:
        _write_durably(self.folder / "run.json", (json.dumps(run, indent=2) + "\n").encode())

    def _clear(self, but: str = "") -> None:
        """Remove what is in the folder; the record of whose it is last, then the lock."""
        for path in sorted(self.folder.iterdir(), key=lambda path: (path.name == "lock", path.name == "run.json")):
            if path.name != but:
                _remove(path)

    def _take_lock(self) -> None:
        self._lock = take_lock(self.folder)

    def release(self) -> None:
        """Let another process go on here."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def drop(self) -> None:
        """Remove the folder."""
        self._clear()
        self.release()
        for folder in (self.folder, *self.made):
            with contextlib.suppress(OSError):  # not empty: the output is in it
                folder.rmdir()

    # --- publishing ---------------------------------------------------------------------------------------------------

    def mark_done(self) -> None:
        """State that files/ is complete; call after its bytes are on the disk."""
        self._record({**self._run(), "manifest": _manifest_hash(self.files), "inode": self.files.stat().st_ino})

    def state(self) -> str:
        """'open', or 'built' (complete, not yet in place), or 'published' (in place, not yet tidied)."""
        run = self._run()
        if self._is_complete(self.files, run):
            return "built"
        return "published" if self._is_complete(self.output, run) else "open"

    def _is_complete(self, folder: Path, run: dict) -> bool:
        # The number of the folder itself: an OUT of the same recipe has the same manifest.
        if "inode" not in run or not folder.is_dir():
            return False
        return folder.stat().st_ino == run["inode"] and _manifest_hash(folder) == run["manifest"]

    def publish(self, *, overwrite: bool) -> None:
        """files/ becomes OUT in one step; an OUT that is there is exchanged for it. Then the folder goes."""
        if self.state() == "built":
            if not self.output.exists():
                os.rename(self.files, self.output)
            elif not overwrite:
                raise OutputError(f"{self.output} exists: it appeared during the run. To replace it: --overwrite.")
            elif not _exchange(self.files, self.output):
                os.rename(self.output, self.old)
                os.rename(self.files, self.output)
            fsync_path(self.output.parent)
        self.drop()

    def _restore_old(self, fingerprint: str) -> None:
        """After a kill between the two renames: this run goes on to publish; for another one OUT comes back first."""
        if not self.old.exists() or self.output.exists():
            return
        if self.fingerprint() == fingerprint and self.state() == "built":
            return
        os.rename(self.old, self.output)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where the kernel or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    if ctypes.get_errno() in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(other))


def _manifest_hash(folder: Path) -> str | None:
    try:
        return xxhash.xxh3_128_hexdigest((folder / "expo.json").read_bytes())
    except OSError:
        return None


def _write_durably(path: Path, content: bytes) -> None:
    """All of the content or nothing, also after a loss of power."""
    new = path.with_name(path.name + ".new")
    with open(new, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, path)
    fsync_path(path.parent)


def fsync_path(path: Path) -> None:
    """Put a file's bytes, or a folder's names, on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def clear_errors(folder: Path):
    """Turn what the file system refuses into one clear error."""
    try:
        yield
    except OSError as error:
        raise refused(folder, error) from error


def refused(folder: Path, error: OSError) -> OutputError:
    """The error to raise for what the file system refused."""
    if error.errno in _FULL:
        return DiskFull(
            f"no room for more bytes in {folder} ({error.strerror}). What is written stays: "
            "free some room and repeat the command to continue."
        )
    return OutputError(f"cannot write {folder}: {error.strerror}.")
