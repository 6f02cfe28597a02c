"""Write an adapter as PEFT reads it: adapter_model.safetensors, its config, a card and a manifest; whole or not at all.

A killed run continues: each finished piece stands in the folder's journal, and is read and hashed again.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from expo.dtypes import BY_TORCH_NAME, DTYPES, DType
from expo.errors import BadSetting, DataError, Overflow
from expo.ops import elements_of, n_segments, torch_dtype
from expo.output.folder import FolderSink
from expo.output.header import order_in_shard, shard_header
from expo.output.journal import Finished
from expo.output.manifest import NAME, as_text, manifest
from expo.planning.jobs import OutputShard
from expo.version import __version__

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_FACTOR_TYPES = ("float32", "float16", "bfloat16", "float64")


class Place:
    """One tensor of the file; what the sink wants to know of it."""

    def __init__(self, name: str, dtype: DType, shape: tuple[int, ...], at: int, n_bytes: int):
        self.name, self.dtype, self.shape, self.at, self.n_bytes = name, dtype, shape, at, n_bytes
        self.file = WEIGHTS


class AdapterFile:
    """The adapter that is being written. Tensors are named as in the model: PEFT's prefix is put before them here."""

    def __init__(self, output: str | Path, tensors: Sequence[tuple[str, DType, tuple[int, ...]]], *, overwrite: bool):
        self.sink = FolderSink(output, overwrite=overwrite)
        rows = [(_PREFIX + name, dtype, shape, dtype.n_bytes(_count(shape))) for name, dtype, shape in tensors]
        rows = order_in_shard(rows)
        header, starts = shard_header(rows, {"format": "pt"})
        self.places = {name: Place(name, dtype, shape, starts[name], n) for name, dtype, shape, n in rows}
        self.shard = OutputShard(WEIGHTS, header, len(header) + sum(row[3] for row in rows))

    def open(self, inputs: Mapping[str, Path], identity: Mapping[str, Any], description: str) -> bool:
        """Take the output's place; True if it was complete already. identity: all that decides the bytes.

        inputs: what each input is called, and its folder. Raises OutputError or DiskFull.
        """
        content = {"expo": __version__, "header": xxhash.xxh3_128_hexdigest(self.shard.header), **identity}
        fingerprint = xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())
        self.sink.check(inputs, self.shard.n_bytes, fingerprint)
        return self.sink.open(fingerprint, description, [self.shard])

    def kept(self, piece: int, names: Sequence[str]) -> tuple[float, ...] | None:
        """The figures of a piece that an earlier run finished, if what is on the disk is still what it wrote."""
        recorded = self.sink.finished.get((piece, 0))
        return recorded.sums if recorded and self._digest(names) == recorded.digest else None

    def put(self, name: str, tensor: Tensor) -> None:
        """Write one whole tensor, rounded once to its type. Raises Overflow or a DataError for what it cannot hold."""
        place = self.places[_PREFIX + name]
        narrow = tensor.to(torch_dtype(place.dtype)).contiguous()
        bad = (~torch.isfinite(narrow)).reshape(-1).nonzero()
        if len(bad):
            value = float(tensor.reshape(-1)[bad[0]])
            if value != value or abs(value) == float("inf"):
                raise DataError(f"{name} would hold {value}: the decomposition failed. Nothing is published.")
            raise Overflow(name, int(bad[0]), value, place.dtype.name, place.dtype.largest)
        self.put_bytes(name, 0, memoryview(narrow.reshape(-1).view(torch.uint8).numpy()))

    def put_bytes(self, name: str, at: int, view: memoryview) -> None:
        """Write bytes [at, at + len(view)) of one tensor."""
        self.sink.write(self.places[_PREFIX + name], at, view)

    def done(self, piece: int, names: Sequence[str], *figures: float) -> None:
        """Note a piece, the tensors of these names, as finished."""
        self.sink.record(piece, 0, Finished(self._digest(names), figures))

    def publish(
        self, config: Mapping[str, Any], card: str, record: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> None:
        """Add config, card and manifest, and make the folder appear under its name."""
        text = json.dumps(dict(sorted(config.items())), indent=2, ensure_ascii=False) + "\n"
        self.sink.sync()
        hashes = {place.name: self._hash(place) for place in self.places.values()}
        files = {WEIGHTS: {"n_bytes": self.shard.n_bytes, "header": xxhash.xxh3_128_hexdigest(self.shard.header)}}
        side_files = {CONFIG: xxhash.xxh3_128_hexdigest(text.encode())}
        content = manifest(record, inputs, files, side_files, hashes, {}, ())
        for name, said in ((CONFIG, text), ("README.md", card), (NAME, as_text(content))):
            self.sink.add_file(name, said)
        self.sink.publish()

    def _digest(self, names: Sequence[str]) -> str:
        return xxhash.xxh3_128_hexdigest("".join(self._hash(self.places[_PREFIX + name]) for name in names).encode())

    def _hash(self, place: Place) -> str:
        """A tensor's hash as every manifest has it: xxh3-128 over the hex digests of its segments."""
        digests = []
        n_elements = _count(place.shape)
        for segment in range(n_segments(n_elements)):
            first, last = (place.dtype.n_bytes(at) for at in elements_of(segment, n_elements))
            held = memoryview(bytearray(last - first))
            self.sink.read_into(place, first, held)
            digests.append(xxhash.xxh3_128_hexdigest(held))
        return xxhash.xxh3_128_hexdigest("".join(digests).encode())


def factor_dtype(name: str) -> DType:
    """The element type of that name, if factors can be stored in it; raises BadSetting."""
    dtype = BY_TORCH_NAME.get(name) or DTYPES.get(name.upper())
    if dtype is None or dtype.torch_name not in _FACTOR_TYPES:
        raise BadSetting("dtype", name, _FACTOR_TYPES)
    return dtype


def peft_config(base: str | None, ranks: Mapping[str, int], settings: Mapping[str, Any]) -> dict[str, Any]:
    """adapter_config.json for modules of these ranks, whose factors hold their scale already."""
    common = max(set(ranks.values()), key=list(ranks.values()).count, default=8)
    others = {module: rank for module, rank in ranks.items() if rank != common}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        **settings,
        "base_model_name_or_path": base,
        "r": common,
        "lora_alpha": common,
        "rank_pattern": others,
        "alpha_pattern": others,
        "use_rslora": False,
        "use_dora": False,
        "target_modules": sorted(ranks),
    }


def _count(shape: Sequence[int]) -> int:
    n = 1
    for side in shape:
        n *= side
    return n
