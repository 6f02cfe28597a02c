"""What a repository holds at one commit, and whether local files are the same. Reads names, sizes and hashes only."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One file of a repository."""

    n_bytes: int
    oid: str  # SHA-256 of a large file, git's name of a small one
    is_large: bool

    def is_file(self, path: Path) -> bool:
        """Whether a local file has the same bytes; reads it only if its size agrees."""
        if not path.is_file() or path.stat().st_size != self.n_bytes:
            return False
        return self.oid == (sha256_of(path) if self.is_large else git_name(path))


@dataclass(frozen=True)
class Content:
    """A repository at one commit."""

    commit: str | None = None  # None: there is no repository yet
    files: Mapping[str, Entry] = field(default_factory=dict)
    private: bool = False

    @property
    def own(self) -> dict[str, Entry]:
        """Its files, but for git's own settings, which every repository has from the start."""
        return {name: entry for name, entry in self.files.items() if not name.startswith(".git")}

    def oid(self, name: str) -> str | None:
        """The hash of a file, None where there is none of that name."""
        return self.files[name].oid if name in self.files else None


def content_of(found: Any) -> Content:
    """The content that huggingface_hub's ModelInfo, asked for with details of files, describes."""
    files = {}
    for row in found.siblings or []:
        large = row.lfs is not None
        files[row.rfilename] = Entry(row.size or 0, (row.lfs.sha256 if large else row.blob_id) or "", large)
    return Content(found.sha, files, bool(found.private))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_name(path: Path) -> str:
    """git's name of a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
