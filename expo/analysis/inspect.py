"""inspect_checkpoint(checkpoint): what its headers and config say, in plain records. Reads no tensor data, no torch."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from expo.checkpoint.names import layer_of, module_group
from expo.checkpoint.spec import Checkpoint, TensorSpec
from expo.checkpoint.views.quantised import find, stated_quantisation
from expo.planning.tied import EMBEDDINGS, ends_with, says_tied, tied_heads


@dataclass(frozen=True)
class Totals:
    """Some tensors taken together."""

    name: str
    n_tensors: int
    n_parameters: int
    n_bytes: int
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]  # the different ones, as first met

    @classmethod
    def of(cls, name: str, specs: Iterable[TensorSpec]) -> "Totals":
        specs = list(specs)
        return cls(
            name,
            len(specs),
            sum(spec.n_elements for spec in specs),
            sum(spec.n_bytes_stored for spec in specs),
            tuple(sorted({spec.stored_dtype.name for spec in specs})),
            tuple(dict.fromkeys(spec.shape for spec in specs)),
        )

    def record(self) -> dict[str, Any]:
        """The totals as plain data."""
        return {
            "name": self.name,
            "n_tensors": self.n_tensors,
            "n_parameters": self.n_parameters,
            "n_bytes": self.n_bytes,
            "dtypes": list(self.dtypes),
            "shapes": [list(shape) for shape in self.shapes],
        }


@dataclass(frozen=True)
class Inspection:
    """One checkpoint's contents, grouped in the ways that a person asks about."""

    checkpoint: Checkpoint
    whole: Totals
    groups: tuple[Totals, ...]  # by module group, in the stored order
    dtypes: tuple[Totals, ...]
    files: tuple[Totals, ...]
    layers: dict[str, tuple[int, ...]]  # stack, such as "model.layers" -> numbers found
    says_tied: bool | None  # the config's word
    tied: tuple[tuple[str, str], ...]  # (head, embedding) of the same shape, both stored
    embeddings: tuple[str, ...]
    shared: tuple[tuple[str, ...], ...]  # names that lie on the very same bytes
    quantised: str | None  # the method, or how it shows

    def record(self) -> dict[str, Any]:
        """The inspection as one JSON object, tensors included."""
        source = self.checkpoint.source
        return {
            "source": source.text,
            "repo_id": source.repo_id,
            "revision": source.revision,
            "architectures": self.checkpoint.config.get("architectures"),
            "n_tensors": self.whole.n_tensors,
            "n_parameters": self.whole.n_parameters,
            "n_bytes": self.whole.n_bytes,
            "dtypes": [totals.record() | {"shapes": None} for totals in self.dtypes],
            "groups": [totals.record() for totals in self.groups],
            "layers": {stack: list(numbers) for stack, numbers in self.layers.items()},
            "tie_word_embeddings": self.says_tied,
            "tied": [{"head": head, "embedding": embedding} for head, embedding in self.tied],
            "shared": [list(names) for names in self.shared],
            "quantised": self.quantised,
            "index": source.index,
            "files": [self._file(totals) for totals in self.files],
            "side_files": list(source.side_files),
            "tensors": [_tensor(spec) for spec in self.checkpoint.tensors.values()],
        }

    def _file(self, totals: Totals) -> dict[str, Any]:
        file = self.checkpoint.files[totals.name]
        return {
            "name": file.name,
            "n_bytes": file.n_bytes,
            "n_tensors": totals.n_tensors,
            "header": file.header_hash,
            "metadata": file.metadata,
        }

    def tied_in_words(self) -> str:
        """What the config ties, and what is stored of it."""
        said = {True: "the config ties head and embedding", False: "the config ties nothing"}.get(
            self.says_tied, "the config says nothing"
        )
        if self.tied:
            pairs = ", ".join(f"{head} beside {embedding}" for head, embedding in self.tied)
            return f"{said}; both are stored: {pairs}"
        if self.says_tied and self.embeddings:
            return f"{said}; stored once, as {', '.join(self.embeddings)}"
        return said


def inspect_checkpoint(checkpoint: Checkpoint) -> Inspection:
    """Totals, layers, tied names and quantisation of an opened checkpoint, from its headers and config alone."""
    specs = list(checkpoint.tensors.values())
    return Inspection(
        checkpoint,
        Totals.of("all", specs),
        _totals(specs, lambda spec: module_group(spec.name)),
        _totals(specs, lambda spec: spec.stored_dtype.name),
        tuple(
            Totals.of(name, found)
            for name, found in _grouped(specs, lambda spec: spec.file, list(checkpoint.files)).items()
        ),
        _layers(specs),
        says_tied(checkpoint),
        tuple(tied_heads(checkpoint.tensors, checkpoint.configs).items()),
        tuple(name for name in checkpoint.tensors if ends_with(name, EMBEDDINGS)),
        _shared(specs),
        _quantised(checkpoint),
    )


def _totals(specs: list[TensorSpec], key) -> tuple[Totals, ...]:
    return tuple(Totals.of(name, found) for name, found in _grouped(specs, key).items())


def _grouped(specs: list[TensorSpec], key, names: Iterable[str] = ()) -> dict[str, list[TensorSpec]]:
    groups: dict[str, list[TensorSpec]] = {name: [] for name in names}
    for spec in specs:
        groups.setdefault(key(spec), []).append(spec)
    return groups


def _layers(specs: list[TensorSpec]) -> dict[str, tuple[int, ...]]:
    stacks: dict[str, set[int]] = {}
    for spec in specs:
        if place := layer_of(spec.name):
            stacks.setdefault(place[0], set()).add(place[1])
    return {stack: tuple(sorted(numbers)) for stack, numbers in stacks.items()}


def _shared(specs: list[TensorSpec]) -> tuple[tuple[str, ...], ...]:
    """Names of one storage; a .bin may hold a tied tensor under two names."""
    by_place: dict[tuple[str, int], list[str]] = {}
    for spec in specs:
        if spec.n_bytes and spec.view is None:
            by_place.setdefault((spec.file, spec.offset), []).append(spec.name)
    return tuple(tuple(names) for names in by_place.values() if len(names) > 1)


def _quantised(checkpoint: Checkpoint) -> str | None:
    """The quantisation method of the config, what the tensors show where it names none, or None."""
    found = checkpoint.quantised or find(checkpoint)
    stated = stated_quantisation(checkpoint)
    return str(stated["quant_method"]) if stated and "quant_method" in stated else found and found.kind


def number_ranges(numbers: Iterable[int]) -> str:
    """Sorted numbers for a person: 0-15, 17."""
    ranges = []
    for _, run in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        found = [number for _, number in run]
        ranges.append(str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}")
    return ", ".join(ranges)


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "dtype": spec.stored_dtype.name,
        "shape": list(spec.shape),
        "n_elements": spec.n_elements,
        "n_bytes": spec.n_bytes_stored,
        "file": spec.file,
        "offset": spec.offset,
    }
