"""Work that a fork does for this process: what it loads and holds goes with it."""

import ctypes
import gc
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from expo.errors import ExpoError, again

_PR_SET_PDEATHSIG = 1
_most = 0  # bytes that this process and a fork that answered it held together, at most


class NoAnswer(Exception):
    """No fork can be made here, or the fork did not come to an end: the work is still to be done."""


def is_safe() -> bool:
    """True where a fork's end can be awaited, and while no other thread may hold a lock that it needs.

    A fork takes the lock along, but not the thread. A thread that tqdm leaves behind after a download holds tqdm's own
    locks alone, and no fork draws a bar. A parent may have left this process deaf to the ends of its children.
    """
    if sys.platform != "linux" or signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        return False
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    return all(type(thread).__module__.startswith("tqdm.") for thread in others)


def end_with(parent: int) -> None:
    """In a fork: leave Ctrl-C to the parent, and die when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def status_bytes(field: str, process: int | str = "self") -> int | None:
    """What /proc/PROCESS/status says of a process's memory, such as VmHWM; None where the system has no such file."""
    try:
        with open(f"/proc/{process}/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{field}:"))
    except (OSError, StopIteration):
        return None


def private_bytes() -> int:
    """Bytes of memory that this process shares with no other; 0 where the kernel does not tell."""
    return _rollup("Private_Clean") + _rollup("Private_Dirty")


def _added_bytes(shared: int) -> int:
    """Bytes that a fork holds beside its parent's; `shared`: of files, when it began.

    What is private is not enough: pages of a library that strangers have loaded too are no less in memory.
    """
    return max(0, _rollup("Rss") - _rollup("Shared_Dirty") - shared)


def _rollup(field: str) -> int:
    try:
        with open("/proc/self/smaps_rollup") as file:
            return sum(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{field}:"))
    except OSError:
        return 0


def most_bytes() -> int:
    """Bytes that this process and one that answered it have held together, at most; 0 before the first answer."""
    return _most


def answer(function: Callable[[], Any], known: Iterable[Any]) -> Any:
    """What `function()` returns, worked out in a fork.

    known: objects of this process that the answer may hold; they come back as themselves, all others as copies.
    Raises the ExpoError that it raises, and NoAnswer.
    """
    global _most
    if not is_safe():
        raise NoAnswer
    known, parent = list(known), os.getpid()
    try:
        file = os.memfd_create("expo")
    except OSError as error:
        raise NoAnswer from error
    try:
        pid = _fork()
        if not pid:
            _answer(function, known, parent, file)
        try:
            _, status = os.waitpid(pid, 0)
        except BaseException:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        if status:
            raise NoAnswer
        os.lseek(file, 0, os.SEEK_SET)
        with os.fdopen(os.dup(file), "rb") as stream:
            kind, found, n_bytes = _Unpickler(stream, known).load()
    finally:
        os.close(file)
    _most = max(_most, n_bytes)
    if kind:
        raise again(kind, found)
    return found


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which tqdm's is
        try:
            return os.fork()
        except OSError as error:  # as many processes as there may be
            raise NoAnswer from error


def _answer(function: Callable[[], Any], known: list[Any], parent: int, file: int) -> None:
    """In the fork: leave (an error's class or nothing, the answer, bytes of memory) in the file, and end."""
    status = 1
    try:
        held, shared = status_bytes("VmRSS", parent) or 0, _rollup("Shared_Clean")
        end_with(parent)
        gc.freeze()  # the parent's objects stay in pages that both share
        try:
            said = "", function()
        except ExpoError as error:
            said = type(error).__name__, str(error)
        with os.fdopen(os.dup(file), "wb") as stream:
            _Pickler(stream, known).dump((*said, held + _added_bytes(shared)))
        status = 0
    finally:
        # Nothing of the parent's is to be tidied up here: no atexit, no buffers, no threads.
        os._exit(status)


class _Pickler(pickle.Pickler):
    def __init__(self, stream: Any, known: list[Any]):
        super().__init__(stream, protocol=5)
        self.numbers = {id(each): number for number, each in enumerate(known)}

    def persistent_id(self, each: Any) -> int | None:
        return self.numbers.get(id(each))


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: Any, known: list[Any]):
        super().__init__(stream)
        self.known = known

    def persistent_load(self, number: int) -> Any:
        return self.known[number]
