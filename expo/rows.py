"""Rows of JSON: read with file and line in every complaint, appended so that a kill loses no finished row.

A row is one JSON object; a file holds one a line (JSONL), or one list of them (JSON). Knows nothing of what rows mean.
"""

import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from expo.errors import DiskFull, ExpoError, OutputError

SHOWN = 8  # problems named in one message; the others are counted
_FSYNC_EVERY = 5.0  # seconds


class RowsError(ExpoError):
    """Rows that are not what a command needs; names file and line of each, and what to do."""

    def __init__(self, problems: Sequence[str] | str, remedy: str = ""):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        more = [f"... and {len(self.problems) - SHOWN:,} more"] if len(self.problems) > SHOWN else []
        super().__init__("\n".join([*self.problems[:SHOWN], *more, *filter(None, [remedy])]))


class Row(NamedTuple):
    """One JSON object, and where it stands, such as `test.jsonl:12`."""

    where: str
    values: dict[str, Any]


def read_rows(path: str | Path) -> list[Row]:
    """Every row of a JSONL file, or of a JSON file that holds one list of objects; blank lines are passed over.

    Raises RowsError with file and line where the file is missing, is no UTF-8, or a line is no JSON object.
    """
    raw = _read(path)
    if raw.lstrip()[:1] == b"[":
        return _rows_of_list(path, raw)
    rows, problems = [], []
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(Row(f"{path}:{number}", _object(line)))
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}.")
    if problems:
        raise RowsError(problems, "A row is one JSON object on one line.")
    return rows


def as_rows(source: str | Path | Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows of a file, or of dictionaries that are in memory already."""
    if isinstance(source, str | Path):
        return read_rows(source)
    return [Row(f"row {number}", dict(values)) for number, values in enumerate(source, start=1)]


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A JSONL file of these rows, whole or not at all. Raises OutputError."""
    replace_file(path, "".join(line_of(row) for row in rows).encode())


def line_of(row: Mapping[str, Any]) -> str:
    """A row as its line: characters as they are, no NaN."""
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8").decode() + "\n"
    except UnicodeEncodeError:  # half a surrogate pair, which some tokenizers emit
        return json.dumps(row, allow_nan=False) + "\n"


def replace_file(path: str | Path, data: bytes) -> None:
    """Write a file beside `path` and rename it into place, so that no reader sees half of it. Raises OutputError."""
    path = Path(path)
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise _refused(path, error) from error


def check_inputs(output: str | Path, inputs: Iterable[str | Path | None]) -> None:
    """Raise OutputError where writing `output` would change an input: the same file, or one folder inside the other.

    Links are followed. An input that does not exist is left to whoever reads it.
    """
    place = Path(output).resolve()
    for path in inputs:
        if path is None or not os.path.exists(path):
            continue
        source = Path(path).resolve()
        if place.exists() and place.samefile(source):
            what = "is an input"
        elif place.is_relative_to(source):
            what = f"lies in {path}, an input"
        elif source.is_relative_to(place):
            what = f"holds {path}, an input"
        else:
            continue
        raise OutputError(f"{output} {what}, which is read-only. Choose another output.")


class Appender:
    """An open JSONL file that only grows, held by one process; what an earlier run left is in `found`."""

    def __init__(self, path: str | Path, *, check: Callable[[list[Row]], None] = lambda rows: None):
        self.path = Path(path)
        self.lock = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise _refused(self.path, error) from error
        try:
            self._hold()
            _mend_end(self.path, self.fd)
            self.found = read_rows(self.path)
            check(self.found)
        except BaseException:
            os.close(self.fd)
            raise
        self.synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.fsync(self.fd)
        os.close(self.fd)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row; once this returns, only a loss of power can lose it, and that within seconds."""
        data = line_of(row).encode()
        try:
            if os.write(self.fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if time.monotonic() - self.synced > _FSYNC_EVERY:
                os.fsync(self.fd)
                self.synced = time.monotonic()
        except OSError as error:
            raise _refused(self.path, error) from error

    def _hold(self) -> None:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(f"{self.path}: another process is writing it. Wait for it, or write elsewhere.") from None


def _mend_end(path: Path, fd: int) -> None:
    """Cut a half-written last line off; give a whole one its line break."""
    raw = path.read_bytes()
    if not raw or raw.endswith(b"\n"):
        return
    start = raw.rfind(b"\n") + 1
    try:
        _object(raw[start:])
    except ValueError:
        os.ftruncate(fd, start)
    else:
        os.write(fd, b"\n")


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise RowsError(f"{path}: no such file.") from None
    except OSError as error:
        raise RowsError(f"{path}: cannot be read: {error.strerror}.") from error


def _rows_of_list(path: str | Path, raw: bytes) -> list[Row]:
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RowsError(f"{path}: begins like a JSON list, but is none: {error}.") from None
    problems = [f"{path}: item {i} is no object." for i, value in enumerate(values, 1) if not isinstance(value, dict)]
    if problems:
        raise RowsError(problems)
    return [Row(f"{path}: item {number}", value) for number, value in enumerate(values, start=1)]


def _object(line: bytes) -> dict[str, Any]:
    """The JSON object on one line; ValueError says what else it is."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start} of the line") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON that can be read: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _refused(path: Path, error: OSError) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{path}: the disk is full. Free some space and run the same command: it continues.")
    return OutputError(f"{path}: cannot be written: {error.strerror or error}.")
