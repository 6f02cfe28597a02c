"""JSONL files, and JSON arrays of objects: their rows by id, checked, read where they lie; and how to write them.

Knows places and keys of rows, and keeps nothing else in memory. What a row means is the business of `parse`.
"""

import contextlib
import errno
import json
import mmap
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

from expo.errors import DiskFull, OutputError
from expo.rows import replace_file
from expo.weak_to_strong.errors import DuplicateId, IdMismatch, RowError

T = TypeVar("T")
_STRING_OR_BRACE = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}]', re.DOTALL)


class Place(NamedTuple):
    """Where a row lies in its file."""

    start: int  # bytes
    stop: int
    line: int


class Keyed(Generic[T]):
    """The rows of one file, in its order and by key; every row is parsed once on opening, so that errors come early.

    parse: turns an object into a row, and raises ValueError with the reason where it cannot.
    key: what must be different in every row; None where rows may repeat.
    Raises RowError with file and line. Memory: a place and a key for each row.
    """

    def __init__(
        self, path: str | Path, parse: Callable[[dict], T], key: Callable[[T], Any] | None = lambda row: row.id
    ):
        self.path = Path(path)
        self.parse = parse
        self.bytes = _mapped(self.path)
        self.places = list(_array(self.bytes, self.path) if _is_array(self.bytes) else _lines(self.bytes))
        if not self.places:
            raise RowError(self.path, "there are no rows in it.")
        self.numbers: dict[Any, int] = {}  # key -> position in the file
        for number, place in enumerate(self.places):
            row = self._read(place)
            if key is None:
                continue
            before = self.numbers.setdefault(key(row), number)
            if before != number:
                problem = f"id {key(row)!r} is also in line {self.places[before].line}."
                raise DuplicateId(self.at(number), problem, "Every question has one row; remove the others.")

    def _read(self, place: Place) -> T:
        try:
            found = json.loads(self.bytes[place.start : place.stop])
            if not isinstance(found, dict):
                raise ValueError(f"an object is expected, not {_short(found)}")
            return self.parse(found)
        except (ValueError, RecursionError) as error:
            end = "" if str(error).endswith("?") else "."
            raise RowError(f"{self.path}:{place.line}", f"{error}{end}") from error

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[T]:
        return map(self._read, self.places)

    def __getitem__(self, key: Any) -> T:
        return self._read(self.places[self.numbers[key]])

    def __contains__(self, key: Any) -> bool:
        return key in self.numbers

    def at(self, number: int) -> str:
        """Where the row of that position is, for a message."""
        return f"{self.path}:{self.places[number].line}"

    def where(self, key: Any) -> str:
        """Where the row of that key is, for a message."""
        return self.at(self.numbers[key])


def same_ids(first: Keyed, second: Keyed) -> None:
    """Raise IdMismatch unless both files hold the same keys, in any order."""
    for one, other in ((first, second), (second, first)):
        missing = [key for key in one.numbers if key not in other.numbers]
        if missing:
            many = f" and {len(missing) - 1} more ids" if len(missing) > 1 else ""
            raise IdMismatch(
                one.where(missing[0]),
                f"id {missing[0]!r}{many} {'are' if many else 'is'} not in {other.path}.",
                "Both files must answer the same questions: generate the missing answers, or remove the others.",
            )


def read_json(path: str | Path, pick: Callable[[dict], T] = lambda row: row) -> Keyed[T]:
    """All objects of a file, without any rule about their keys."""
    return Keyed(path, pick, key=None)


class RowWriter:
    """Writes rows to `path`, which appears whole at the end or not at all; `.json` makes an array, else JSONL.

    An array is indented by 4 and has no newline at its end, as LLaMA-Factory's data sets are.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.count = 0
        self.is_array = self.path.suffix == ".json"

    def __enter__(self) -> Self:
        self.partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        with _refusals(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.partial, "w", encoding="utf-8")
        return self

    def write(self, row: dict) -> None:
        """Append one row."""
        if self.is_array:
            # JSON escapes newlines inside strings, so each real one begins a line to be indented.
            text = json.dumps(row, indent=4).replace("\n", "\n    ")
            text = f"{',' if self.count else '['}\n    {text}"
        else:
            text = json.dumps(row) + "\n"
        with _refusals(self.path):
            self.file.write(text)
        self.count += 1

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with _refusals(self.path):
                with self.file:
                    if error is None:
                        self.file.write(("\n]" if self.count else "[]") if self.is_array else "")
                        self.file.flush()
                        os.fsync(self.file.fileno())
                if error is None:
                    os.replace(self.partial, self.path)
        finally:
            with contextlib.suppress(OSError):
                self.partial.unlink(missing_ok=True)


def write_rows(path: str | Path, rows: Iterable[dict]) -> int:
    """Write all rows, whole or not at all; how many there were."""
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)
    return writer.count


def write_text(path: str | Path, text: str) -> None:
    """Replace a small file in one step."""
    replace_file(path, text.encode())


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What the file system refuses, as an error that says where and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{path}: the disk is full. Free some space and run the same command again.") from error
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}.") from error


# --- Where rows lie --------------------------------------------------------------------------------------------------


def _mapped(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return b""
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise RowError(path, f"cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _is_array(text: Any) -> bool:
    return text[:64].lstrip().startswith(b"[")


def _lines(text: Any) -> Iterator[Place]:
    start, line = 0, 1
    while start < len(text):
        stop = text.find(b"\n", start)
        stop = len(text) if stop < 0 else stop
        if text[start:stop].strip():
            yield Place(start, stop, line)
        start, line = stop + 1, line + 1


def _array(text: Any, path: Path) -> Iterator[Place]:
    """The objects of a JSON array, found by their outer braces."""
    depth = start = line = 0
    end = text.find(b"[") + 1
    line = text[:end].count(b"\n") + 1
    expected = b""
    for token in _STRING_OR_BRACE.finditer(text, end):
        if token[0] == b"{":
            depth += 1
            if depth == 1:
                start = token.start()
                if text[end:start].strip() != expected:
                    raise RowError(f"{path}:{line}", "the array holds something between its objects.")
                line += text[end:start].count(b"\n")
        elif token[0] == b"}":
            depth -= 1
            if depth == 0:
                yield Place(start, token.end(), line)
                line += text[start : token.end()].count(b"\n")
                end, expected = token.end(), b","
            elif depth < 0:
                break
    if depth or text[end:].strip() != b"]":
        raise RowError(f"{path}:{line}", "the array does not end here as it should; the file may be cut off.")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
