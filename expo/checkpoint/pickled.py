"""The table of tensors of a .bin file, as if it had a header. The only file of this folder that loads torch.

A .bin is a zip archive of plain records: one pickle that describes the tensors, and one record for each storage.
torch reads the pickle with fake tensors (no data, no code), and the records say where the bytes lie.
"""

import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from expo.checkpoint.files import DEFAULT_MAX_HEADER, open_regular
from expo.checkpoint.spec import TensorSpec, WeightFile
from expo.checkpoint.strict_json import check_text, shown
from expo.dtypes import BY_TORCH_NAME
from expo.errors import (
    BadName,
    HeaderTooLarge,
    LegacyPickle,
    LfsPointer,
    NonContiguousTensor,
    NotAStateDict,
    PartlySharedTensor,
    TruncatedFile,
    UnknownDType,
    UnreadableFile,
    UnsafePickle,
)


def read_pickled(path: Path, name: str, *, max_header: int = DEFAULT_MAX_HEADER) -> tuple[WeightFile, list[TensorSpec]]:
    """What one .bin file holds, tensors in the order of their bytes; tied names share theirs.

    Raises a PickleError that names the tensor, or another HeaderError; UnreadableFile where the system refuses.
    """
    path = Path(path)
    with os.fdopen(open_regular(path), "rb") as file:
        stat = os.fstat(file.fileno())
        try:
            records = _records(path, file, stat.st_size, max_header)
        except OSError as error:
            raise UnreadableFile(f"{path}: cannot be read: {error.strerror}.") from error
        state = _state_dict(path, _load_fake(path, file))
    specs = [_spec(path, name, key, value, records) for key, value in state.items()]
    specs.sort(key=lambda spec: (spec.offset, spec.n_bytes))
    _check_sharing(path, specs)
    table = [[spec.name, spec.dtype.name, spec.shape, spec.offset] for spec in specs]
    digest = xxhash.xxh3_128_hexdigest(json.dumps(table).encode())
    return WeightFile(name, path, stat.st_size, stat.st_mtime_ns, digest), specs


def _records(path: Path, file: BinaryIO, n_file: int, max_header: int) -> dict[int, int]:
    """Where each storage's bytes start in the file -> how many there are."""
    prefix = file.read(8)
    if prefix == b"version ":
        raise LfsPointer(path, "a git-lfs pointer, not the weights themselves.")
    if not prefix.startswith(b"PK\x03\x04"):
        raise LegacyPickle(path, "not a zip archive: a pickle from torch before 1.6, or no torch file.")
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error):
        raise TruncatedFile(path, "a zip archive whose table of records at its end cannot be read.") from None
    found = {}
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise UnsafePickle(path, f"the record {shown(info.filename)} is compressed; torch writes them plain.")
        if info.filename.endswith("/data.pkl") and info.file_size > max_header:
            remedy = f"If you trust the file, pass `--max-header {info.file_size}`."
            raise HeaderTooLarge(path, f"its pickle has {info.file_size} bytes; expo reads {max_header}.", remedy)
        if not 0 <= info.header_offset <= n_file - 30:
            raise UnsafePickle(path, f"the record {shown(info.filename)} lies outside the file.")
        # The local header repeats the name and has extra bytes of its own, which pad the data to an alignment.
        local = os.pread(file.fileno(), 30, info.header_offset)
        start = info.header_offset + len(local) + sum(int.from_bytes(local[k : k + 2], "little") for k in (26, 28))
        found[start] = min(info.file_size, n_file - start)
        if info.filename.endswith("/byteorder") and os.pread(file.fileno(), 6, start) != b"little":
            raise UnsafePickle(path, "its numbers are not little-endian.")
    return found


def _load_fake(path: Path, file: BinaryIO) -> object:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    file.seek(0)
    try:
        with FakeTensorMode():
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile pickle can raise anything
        reason = shown(str(error).strip().split("\n")[0], 160)
        raise UnsafePickle(path, f"torch refuses it: {type(error).__name__}: {reason}.") from None


def _state_dict(path: Path, loaded: object) -> dict[str, Any]:
    """The flat mapping of names to tensors, which may lie under the key "state_dict"."""
    import torch

    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise NotAStateDict(path, f"holds a {type(loaded).__name__}, not a mapping of names to tensors.")
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise NotAStateDict(path, f"{shown(key)} is a {type(value).__name__}, not a tensor under a name.")
        if "\0" in key or key == "__metadata__":
            raise BadName(path, f"{shown(key)} is no name that a safetensors file can hold.")
        check_text(path, key)
    return loaded


def _spec(path: Path, file: str, name: str, tensor: Any, records: dict[int, int]) -> TensorSpec:
    import torch

    dtype = BY_TORCH_NAME.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None:
        raise UnknownDType(path, f"{shown(name)}: safetensors has no {tensor.dtype}.")
    if tensor.layout != torch.strided or tensor.is_conj() or tensor.is_neg():
        raise NonContiguousTensor(path, f"{shown(name)} is sparse, conjugated or negated, not a plain tensor.")
    if not tensor.is_contiguous():
        strides = list(tensor.stride())
        raise NonContiguousTensor(path, f"{shown(name)}: {list(tensor.shape)} has strides {strides}: not in order.")
    storage = tensor.untyped_storage()
    begin = getattr(storage, "_checkpoint_offset", None)
    if begin is None or begin not in records:
        raise UnsafePickle(path, f"{shown(name)}: no record of the archive holds its bytes.")
    inside = tensor.storage_offset() * dtype.bits // 8
    n_bytes = dtype.n_bytes(tensor.numel())
    if n_bytes and not 0 <= inside + n_bytes <= records[begin]:
        raise TruncatedFile(path, f"{shown(name)} needs {inside + n_bytes} bytes, its record has {records[begin]}.")
    return TensorSpec(name, dtype, tuple(tensor.shape), file, begin + inside, n_bytes)


def _check_sharing(path: Path, specs: list[TensorSpec]) -> None:
    """Two tensors share all of their bytes (tied) or none."""
    last = None
    for spec in specs:
        if not spec.n_bytes:
            continue
        if last and spec.offset < last.offset + last.n_bytes:
            mine, its = [(one.offset, one.dtype, one.shape) for one in (spec, last)]
            if mine != its:
                raise PartlySharedTensor(
                    path, f"{shown(spec.name)} and {shown(last.name)} share a part of their bytes."
                )
        last = spec
