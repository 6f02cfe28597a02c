"""Repositories with commits: each commit a table of paths and blobs, each blob a file on disk named by its SHA-256."""

import hashlib
import os
import shutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

LARGE = (".safetensors", ".bin", ".gguf", ".pt", ".msgpack")
LARGE_FROM = 10_000_000  # bytes: any file of this size is stored as a large one


@dataclass(frozen=True)
class Blob:
    """The content of one file."""

    sha256: str
    n_bytes: int
    path: Path  # on disk
    is_large: bool  # stored by LFS, behind a redirect

    @property
    def oid(self) -> str:
        """git's name: of the pointer for a large file, of the content else."""
        if self.is_large:
            content = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.n_bytes}\n"
            return git_oid(content.encode())
        return git_oid(self.path.read_bytes())

    @property
    def etag(self) -> str:
        """What the Hub calls the content: SHA-256 for a large file, git's name else."""
        return self.sha256 if self.is_large else self.oid


@dataclass(frozen=True)
class Commit:
    """One state of a repository."""

    sha: str  # 40 hex digits
    parent: str | None
    message: str
    files: Mapping[str, Blob]


@dataclass
class Repository:
    """One repository, in memory; its blobs are on disk."""

    id: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # "main", "v1", "refs/pr/1" -> commit
    lock: threading.RLock = field(default_factory=threading.RLock)

    def at(self, revision: str) -> Commit | None:
        """The commit that a branch, tag or hash names."""
        return self.commits.get(self.refs.get(revision, revision))

    @property
    def head(self) -> Commit:
        """The latest commit of main."""
        return self.commits[self.refs["main"]]

    def commit(
        self,
        files: Mapping[str, Blob],
        *,
        deleted: Iterable[str] = (),
        message: str = "commit",
        branch: str = "main",
    ) -> Commit:
        """Add a commit on a branch: these files beside those that are there, less the deleted ones."""
        with self.lock:
            parent = self.at(branch)
            gone = set(deleted)
            kept = {} if parent is None else {n: b for n, b in parent.files.items() if n not in gone}
            table = dict(sorted({**kept, **files}.items()))
            content = [self.id, parent and parent.sha, message, len(self.commits)]
            content += [(name, blob.sha256) for name, blob in table.items()]
            made = Commit(hashlib.sha1(repr(content).encode()).hexdigest(), parent and parent.sha, message, table)
            self.commits[made.sha] = made
            self.refs[branch] = made.sha
            return made

    def swap(self, name: str, blob: Blob, revision: str = "main") -> None:
        """Put another content under a name of a commit that is there already: what no Hub should do."""
        commit = self.at(revision)
        self.commits[commit.sha] = Commit(commit.sha, commit.parent, commit.message, {**commit.files, name: blob})


class Objects:
    """Blobs on disk."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where a blob lies, whether or not it is there."""
        return self.folder / sha256

    def add_bytes(self, content: bytes, *, is_large: bool = False) -> Blob:
        """Keep some bytes."""
        sha256 = hashlib.sha256(content).hexdigest()
        if not self.path(sha256).exists():
            new = self.folder / f"{sha256}.{threading.get_ident()}"
            new.write_bytes(content)
            os.replace(new, self.path(sha256))
        return Blob(sha256, len(content), self.path(sha256), is_large)

    def add_file(self, path: Path, *, is_large: bool | None = None) -> Blob:
        """Keep a file: a link to it where it lies on the same disk."""
        n_bytes = path.stat().st_size
        large = is_large if is_large is not None else path.name.endswith(LARGE) or n_bytes >= LARGE_FROM
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if not self.path(sha256).exists():
            try:
                os.link(path.resolve(), self.path(sha256))
            except OSError:
                shutil.copyfile(path, self.path(sha256))
        return Blob(sha256, n_bytes, self.path(sha256), large)

    def add_folder(self, folder: Path) -> dict[str, Blob]:
        """Keep every file below a folder: path inside it -> blob."""
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): self.add_file(path) for path in files}


def git_oid(content: bytes) -> str:
    """git's name of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
