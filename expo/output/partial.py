"""The sibling folder in which an output is built, and the one step that publishes it.

    OUT.partial/run.json   whose run this is: its fingerprint
    OUT.partial/lock       flock-ed by the process that works on it; holds its number
    OUT.partial/journal-N  finished segments
    OUT.partial/files/     what becomes OUT
    OUT.partial/done       the hash of files/expo.json: files/ is complete and on the disk
    OUT.partial/old        the OUT that is being replaced, where the file system cannot exchange two folders

Every state that a kill can leave is told apart by what exists, and the same command goes on from it.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
from pathlib import Path

import xxhash

from expo.errors import OutputError

_OURS = {"run.json", "run.json.new", "lock", "files", "done", "done.new", "old"}
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class Partial:
    """The folder OUT.partial of one run."""

    def __init__(self, output: Path):
        self.output = output
        self.folder = output.with_name(output.name + ".partial")
        self.files = self.folder / "files"
        self.old = self.folder / "old"
        self._lock: int | None = None

    def check(self, fingerprint: str) -> None:
        """Raise OutputError if the folder is another run's, in use, or no run's at all; changes nothing."""
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise OutputError(f"{self.folder} is in the way: expo builds its output there. Move it away.")
        self._refuse_strangers()
        if (self.folder / "lock").exists():
            self._take_lock()
            self.release()
        if self.fingerprint() not in (None, fingerprint) and not self.old.exists():
            raise self._not_ours()

    def open(self, fingerprint: str, description: str) -> None:
        """Make the folder, or go on in it; it is locked from here on. Raises OutputError for another run's."""
        with _as_output_error(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._refuse_strangers()
            self._take_lock()
        self._restore_old(fingerprint)
        found = self.fingerprint()
        stale = found == fingerprint and self.state() == "open" and (self.folder / "done").exists()
        if found is None or stale:  # stale: it was published, and what it published is gone
            self._start(fingerprint, description)
        elif found != fingerprint:
            self.release()
            raise self._not_ours()

    def _not_ours(self) -> OutputError:
        return OutputError(
            f"{self.folder} belongs to another run: other inputs, recipe or version of expo.\n"
            f"To go on with that one, repeat its command. To drop it: rm -r '{self.folder}'"
        )

    def _refuse_strangers(self) -> None:
        names = {path.name for path in self.folder.iterdir() if not path.name.startswith("journal-")}
        if names - _OURS:
            raise OutputError(
                f"{self.folder} is in the way: it is no unfinished run of expo ({min(names - _OURS)} is in it). "
                "Move it away, or choose another output."
            )

    def fingerprint(self) -> str | None:
        """The fingerprint of the run that the folder belongs to; None for a folder that holds no run."""
        try:
            return json.loads((self.folder / "run.json").read_text())["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _start(self, fingerprint: str, description: str) -> None:
        for path in self.folder.iterdir():
            if path.name != "lock":
                _remove(path)
        self.files.mkdir()
        run = json.dumps({"fingerprint": fingerprint, "run": description}, indent=2) + "\n"
        _write_durably(self.folder / "run.json", run.encode())

    def _take_lock(self) -> None:
        fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise OutputError(f"{self.folder} is in use by process {holder}. Wait for it, or stop it.") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock = fd

    def release(self) -> None:
        """Let another process go on here."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def drop(self) -> None:
        """Remove the folder, the record of whose it is last."""
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name in ("run.json", "lock")):
            _remove(path)
        self.release()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    # --- publishing ---------------------------------------------------------------------------------------------------

    def mark_done(self) -> None:
        """State that files/ is complete; call after its bytes are on the disk."""
        _write_durably(self.folder / "done", _manifest_hash(self.files).encode())

    def state(self) -> str:
        """'open', or 'built' (complete, not yet in place), or 'published' (in place, not yet tidied)."""
        try:
            done = (self.folder / "done").read_text()
        except OSError:
            return "open"
        if done == _manifest_hash(self.files):
            return "built"
        return "published" if done == _manifest_hash(self.output) else "open"

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
            _fsync_folder(self.output.parent)
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
    _fsync_folder(path.parent)


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def _as_output_error(path: Path):
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}.") from error
