"""The record of finished segments: one append-only file a writer, so that a killed run continues.

A line is not trusted: the segment that it names is read and hashed again before it counts.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import xxhash


@dataclass(frozen=True, slots=True)
class Finished:
    """One segment that was written: the hash of its bytes, and its part of the report's sums."""

    digest: str  # xxh3-128 of the segment's bytes, hex
    sums: tuple[float, ...]


class Journal:
    """Appends finished segments to one file; reads back what all writers of an earlier run left."""

    def __init__(self, folder: Path, writer: int = 0):
        self.fd = os.open(folder / f"journal-{writer}", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        size = os.fstat(self.fd).st_size
        if size and os.pread(self.fd, 1, size - 1) != b"\n":
            os.write(self.fd, b"\n")  # a line cut off by a full disk must not swallow the next one

    def add(self, job: int, segment: int, finished: Finished) -> None:
        """Record one segment; a single write, so that threads need no lock."""
        line = _line(job, segment, finished)
        if os.write(self.fd, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # what a disk that fills up does to a line

    def close(self) -> None:
        os.close(self.fd)


def read_journals(folder: Path) -> dict[tuple[int, int], Finished]:
    """(job, segment) -> what was recorded, from every intact line of every writer."""
    found = {}
    for path in sorted(folder.glob("journal-*")):
        for line in path.read_bytes().splitlines():
            if parsed := _parsed(line):
                found[parsed[0]] = parsed[1]
    return found


class Following:
    """What any writer adds to the journals of a run, as it comes."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.read: dict[Path, int] = {}

    def new(self) -> list[tuple[int, int]]:
        """(job, segment) of every intact line since the last call."""
        found = []
        for path in sorted(self.folder.glob("journal-*")):
            with open(path, "rb") as file:
                file.seek(self.read.get(path, 0))
                whole, end, _ = file.read().rpartition(b"\n")
            self.read[path] = self.read.get(path, 0) + len(whole + end)
            found += [parsed[0] for line in whole.splitlines() if (parsed := _parsed(line))]
        return found


def _line(job: int, segment: int, finished: Finished) -> bytes:
    body = " ".join([str(job), str(segment), finished.digest, *(x.hex() for x in finished.sums)])
    return f"{body} {xxhash.xxh3_64_hexdigest(body.encode())}\n".encode()


def _parsed(line: bytes) -> tuple[tuple[int, int], Finished] | None:
    body, _, check = line.rpartition(b" ")
    if check.decode("ascii", "replace") != xxhash.xxh3_64_hexdigest(body):
        return None
    job, segment, digest, *sums = body.decode().split(" ")
    return (int(job), int(segment)), Finished(digest, tuple(float.fromhex(x) for x in sums))
