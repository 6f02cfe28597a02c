"""What a header says: where each tensor lies and what it is. Plain records; no tensor data, no torch."""

import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from expo.dtypes import DType

if TYPE_CHECKING:
    from expo.checkpoint.remote import RemoteFile
    from expo.checkpoint.views.quantised import Quantised


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: its name, type, shape, and the bytes of one file that hold it, or the view that computes it."""

    name: str
    dtype: DType  # of the bytes that are read; of a view: the type it is computed in, so that nothing is rounded yet
    shape: tuple[int, ...]
    file: str  # path inside the checkpoint; of a view: the base tensor's, which decides the output's shard
    offset: int  # of the first byte, counted from the start of the file; of a view: 0, and nothing lies there
    n_bytes: int  # that a reader fills: of a view, those of all its elements in `dtype`
    view: "View | None" = None  # None: the tensor is stored as it is
    base_dtype: DType | None = None  # of a view: the type of the base's tensor

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def stored_dtype(self) -> DType:
        """The type that an output takes unless another is asked for: the tensor's own; of a view, its base's."""
        return self.base_dtype or self.dtype

    @property
    def parts(self) -> "tuple[TensorSpec, ...]":
        """The stored tensors that are read for it: itself, or those that its view is computed from."""
        return self.view.parts if self.view else (self,)

    @property
    def n_bytes_stored(self) -> int:
        """The bytes of all that is read for it once."""
        own = getattr(self.view, "n_bytes_stored", None)
        return sum(part.n_bytes for part in self.parts) if own is None else own


def folder_of(file: str) -> str:
    """The folder that a file of a checkpoint lies in; "" for the model's own."""
    return file.rpartition("/")[0]


def split_name(name: str, folders: Collection[str]) -> tuple[str, str]:
    """(folder, own name) of a tensor of a model that is made of folders; ("", name) outside of them."""
    first, slash, rest = name.partition("/")
    return (first, rest) if slash and first in folders else ("", name)


class View(Protocol):
    """A tensor that no file holds: computed block by block from stored ones, with bits that no reader's cuts change."""

    parts: tuple[TensorSpec, ...]  # the stored tensors that it reads

    @property
    def scratch_bytes(self) -> int:
        """Memory that one thread needs beside the caller's buffer."""

    def read_into(
        self, out: memoryview, start: int, read: Callable[[memoryview, TensorSpec, int], None], held: dict[str, Any]
    ) -> None:
        """Fill `out` with bytes [start, start + len(out)).

        read(buffer, part, at) fills a buffer with a part's stored bytes; held: the calling thread's own, where the
        view keeps its buffers and its last block until another view takes their place.
        """


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file of tensors, and what identifies its content without reading it whole."""

    name: str  # path inside the checkpoint
    path: Path  # where it can be opened; of a file that stays on the Hub: what errors call it
    n_bytes: int
    mtime_ns: int  # 0 on the Hub, where the commit is pinned
    header_hash: str  # xxh3-128 of the header's bytes (of the table of tensors for a .bin)
    metadata: dict[str, str] = field(default_factory=dict)  # the header's __metadata__
    remote: "RemoteFile | None" = field(default=None, compare=False)  # where it is read, if it stays on the Hub


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
    adapters: "tuple[Source, ...]" = ()  # applied to it, in this order
    remote: "Mapping[str, RemoteFile]" = field(default_factory=dict)  # the weight files that stay on the Hub
    notes: tuple[str, ...] = ()  # what there is to say about how it is read
    folders: "tuple[Source, ...]" = ()  # sub-folders with weights of their own, of a model that is made of several

    @property
    def label(self) -> str:
        """What records and cards call it: org/name@commit, or the last part of a local path; adapters behind a +."""
        return "+".join([self.own_label, *(adapter.label for adapter in self.adapters)])

    @property
    def own_label(self) -> str:
        """The same without its adapters."""
        if self.repo_id:
            return f"{self.repo_id}@{self.revision}"
        # A folder's name is bytes, and records are UTF-8.
        return os.fsencode(self.folder.name).decode(errors="replace")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's table of contents, tensors in the order they are stored."""

    source: Source
    files: dict[str, WeightFile]
    tensors: dict[str, TensorSpec]
    config: dict = field(default_factory=dict)  # config.json, {} where there is none
    extra_files: dict[str, WeightFile] = field(default_factory=dict)  # that only views read, and what decides them
    warnings: tuple[str, ...] = ()  # found while it was opened; the plan passes them on
    quantised: "Quantised | None" = None  # how its numbers are stored, where that is not as themselves
    configs: Mapping[str, dict] = field(default_factory=dict)  # sub-folder -> its own config.json

    @property
    def every_file(self) -> tuple[WeightFile, ...]:
        """All files that decide its tensors' values: what identifies it."""
        return (*self.files.values(), *self.extra_files.values())

    def config_of(self, spec: TensorSpec) -> dict:
        """The config.json that describes one of its tensors: that of its folder, in a model made of several."""
        return self.configs.get(folder_of(spec.file), self.config)

    def part(self, folder: str, tensors: Mapping[str, TensorSpec]) -> "Checkpoint":
        """Some of its tensors with the source and the config of one folder; with its own where that is none of its."""
        own = next((own for own in self.source.folders if own.folder.name == folder), self.source)
        return replace(self, source=own, tensors=dict(tensors), config=self.configs.get(folder, self.config))

    @property
    def n_parameters(self) -> int:
        return sum(spec.n_elements for spec in self.tensors.values())

    @property
    def n_bytes(self) -> int:
        return sum(spec.n_bytes_stored for spec in self.tensors.values())
