"""The record of large files that arrived on the Hub and wait for their commit, so that none is sent twice.

A line holds huggingface_hub's own operation as its upload left it: a later process, where the file itself may be gone,
commits that. Knows no protocol.
"""

import base64
import binascii
import io
import json
import os
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from expo.output.lock import take_lock
from expo.output.partial import clear_errors
from expo.output.state import state_folder


@dataclass(frozen=True)
class Arrived:
    """One file that the Hub has."""

    path: str  # in the repository
    n_bytes: int
    sha256: str
    stamp: str  # of the local file that was sent
    identity: str  # of the result that it belongs to: the same result has the same bytes
    held: str | None  # what the target held under this name when the file was sent
    operation: bytes  # pickled


class ArrivedFiles:
    """The files of one push that arrived; its folder is locked until `close`."""

    def __init__(self, key: str, description: Mapping[str, Any]):
        self.folder = state_folder("push", key)
        with clear_errors(self.folder):
            self._lock: int | None = take_lock(self.folder)
            (self.folder / "target.json").write_text(json.dumps(dict(description), indent=1) + "\n")
            self._file = open(self.folder / "arrived", "ab+")  # noqa: SIM115  (closed by `close`)
            self.files = self._read()

    def _read(self) -> dict[str, Arrived]:
        self._file.seek(0)
        lines = self._file.read().split(b"\n")
        if lines[-1]:
            self._file.write(b"\n")  # a line that was cut off must not swallow the next one
        return {found.path: found for line in lines if (found := _parsed(line))}

    def add(self, arrived: Arrived) -> None:
        """Remember a file, durably: sending it again would cost more."""
        body = json.dumps({**vars(arrived), "operation": base64.b64encode(arrived.operation).decode()}).encode()
        with clear_errors(self.folder):
            self._file.write(body + b" " + xxhash.xxh3_64_hexdigest(body).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self.files[arrived.path] = arrived

    def drop(self, path: str) -> None:
        """Count a file as one that did not arrive."""
        if self.files.pop(path, None):
            kept, self.files = list(self.files.values()), {}
            self._file.truncate(0)
            for arrived in kept:
                self.add(arrived)

    def close(self, *, forget: bool = False) -> None:
        """Let another process go on; forget: nothing is left to go on with."""
        if self._lock is None:
            return
        self._file.close()
        if forget:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)
        self._lock = None


def _parsed(line: bytes) -> Arrived | None:
    """What an intact line says."""
    body, _, check = line.rpartition(b" ")
    if check.decode("ascii", "replace") != xxhash.xxh3_64_hexdigest(body):
        return None
    try:
        found = json.loads(body)
        return Arrived(**{**found, "operation": base64.b64decode(found["operation"])})
    except (ValueError, TypeError, KeyError, binascii.Error):
        return None


def stamp_of(path: Path) -> str:
    """What tells a file from every other, and from itself once it was changed; moving its folder keeps it."""
    found = path.stat()
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


# --- operations -------------------------------------------------------------------------------------------------------


def packed(operation: Any) -> bytes:
    """An operation and the version of huggingface_hub that it belongs to."""
    import huggingface_hub

    return huggingface_hub.__version__.encode() + b"\n" + pickle.dumps(operation, protocol=5)


def unpacked(content: bytes) -> Any | None:
    """The operation; None for one of another version. Nothing but an operation is ever built."""
    import huggingface_hub

    version, _, rest = content.partition(b"\n")
    if version.decode("ascii", "replace") != huggingface_hub.__version__:
        return None
    try:
        return _Operations(io.BytesIO(rest)).load()
    except (pickle.UnpicklingError, AttributeError, EOFError, IndexError, ValueError):
        return None


class _Operations(pickle.Unpickler):
    """Reads pickles of operations: the file could be another's."""

    def find_class(self, module: str, name: str) -> Any:
        from huggingface_hub import CommitOperationAdd

        made = CommitOperationAdd(path_in_repo="x", path_or_fileobj=b"")
        for known in (type(made), type(made.upload_info)):
            if (module, name) == (known.__module__, known.__qualname__):
                return known
        raise pickle.UnpicklingError(f"{module}.{name} is no part of an operation")
