"""What a header says: where each tensor lies and what it is. Plain records; no tensor data, no torch."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from expo.dtypes import DType


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One stored tensor: its name, type, shape, and the bytes of one file that hold it."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    file: str  # path inside the checkpoint
    offset: int  # of the first byte, counted from the start of the file
    n_bytes: int

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file of tensors, and what identifies its content without reading it whole."""

    name: str  # path inside the checkpoint
    path: Path  # where it can be opened
    n_bytes: int
    mtime_ns: int
    header_hash: str  # xxh3-128 of the header's bytes (of the table of tensors for a .bin)
    metadata: dict[str, str] = field(default_factory=dict)  # the header's __metadata__


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is, pinned: a local folder, or a Hub repository at one commit."""

    text: str  # what the user wrote
    folder: Path  # where its files can be opened
    weights: tuple[str, ...]  # the weight files, in order, as paths inside the folder
    index: str | None  # the weight index, as a path inside the folder
    side_files: tuple[str, ...]  # every other file that belongs to the model, sorted
    repo_id: str | None = None
    revision: str | None = None  # 40 hex digits, for a repository

    @property
    def label(self) -> str:
        """What records and cards call it: org/name@commit, or the last part of a local path."""
        return f"{self.repo_id}@{self.revision}" if self.repo_id else self.folder.name


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's table of contents, tensors in the order they are stored."""

    source: Source
    files: dict[str, WeightFile]
    tensors: dict[str, TensorSpec]
    config: dict = field(default_factory=dict)  # config.json, {} where there is none

    @property
    def n_parameters(self) -> int:
        return sum(spec.n_elements for spec in self.tensors.values())

    @property
    def n_bytes(self) -> int:
        return sum(spec.n_bytes for spec in self.tensors.values())
