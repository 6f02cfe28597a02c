"""One process at a time in a folder: a flock-ed file that holds its owner's number."""

import fcntl
import os
from pathlib import Path

from expo.errors import OutputError


def take_lock(folder: Path) -> int:
    """The descriptor of FOLDER/lock, held until it is closed; raises OutputError that says who holds it."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise OutputError(f"{folder} is in use by process {holder}. Wait for it, or stop it.") from None
    if not _is_still(fd, folder / "lock"):  # the run that held it tidied up; another may hold a new one
        os.close(fd)
        return take_lock(folder)
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _is_still(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
