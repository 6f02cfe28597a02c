"""Parse and validate one safetensors header. Knows the format's every rule; reads no tensor data.

8 bytes     n, the header's length: unsigned, little-endian
n bytes     JSON: {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, "__metadata__": {...}}
the rest    the tensors, back to back: no gap, no overlap, nothing after the last
"""

import os
from collections.abc import Callable
from pathlib import Path

import xxhash

from expo.checkpoint.files import DEFAULT_MAX_HEADER, FORMAT_MAX_HEADER, open_regular
from expo.checkpoint.spec import TensorSpec, WeightFile
from expo.checkpoint.strict_json import parse_object, shown
from expo.dtypes import DTYPES, DType
from expo.errors import (
    BadEntry,
    BadInteger,
    BadMetadata,
    BadName,
    HeaderTooLarge,
    LfsPointer,
    MalformedJson,
    OffsetMismatch,
    RaggedTensor,
    SizeMismatch,
    TrailingBytes,
    TruncatedFile,
    TruncatedHeader,
    UnknownDType,
    UnreadableFile,
    nearest,
)

FIELDS = {"dtype", "shape", "data_offsets"}


def read_header(path: Path, name: str, *, max_header: int = DEFAULT_MAX_HEADER) -> tuple[WeightFile, list[TensorSpec]]:
    """What one .safetensors file holds, tensors in the order of their bytes.

    path: where the file can be opened; name: its path inside the checkpoint; max_header: in bytes.
    Raises a HeaderError for a broken rule, UnreadableFile where the system refuses.
    """
    path = Path(path)
    with os.fdopen(open_regular(path), "rb") as file:
        stat = os.fstat(file.fileno())
        try:
            raw = raw_header(path, file.read, stat.st_size, max_header)
        except OSError as error:
            raise UnreadableFile(f"{path}: cannot be read: {error.strerror}.") from error
    metadata, entries = parse_header(path, name, raw, stat.st_size)
    digest = xxhash.xxh3_128_hexdigest(raw)
    return WeightFile(name, path, stat.st_size, stat.st_mtime_ns, digest, metadata), entries


def raw_header(path: Path, read: Callable[[int], bytes], n_file: int, max_header: int) -> bytes:
    """The header's JSON, behind its length. read(n): the next n bytes of the file, which has n_file."""
    length = _length(path, read(8), n_file, max_header)
    raw = read(length)
    if len(raw) < length:
        raise TruncatedHeader(path, f"the header should end at byte {8 + length}, the file at byte {8 + len(raw)}.")
    return raw


def parse_header(path: Path, name: str, raw: bytes, n_file: int) -> tuple[dict[str, str], list[TensorSpec]]:
    """What a header's JSON says of a file of n_file bytes: its metadata, and its tensors in order."""
    if not raw.startswith(b"{"):
        raise MalformedJson(path, "not a safetensors file: byte 8, where the header starts, is not '{'.")
    table = parse_object(raw, path, what="header", integers_only=True)
    metadata = _metadata(path, table.pop("__metadata__", {}))
    entries = [_entry(path, name, key, value, 8 + len(raw)) for key, value in table.items()]
    entries.sort(key=lambda spec: (spec.offset, spec.n_bytes))  # stable: empty tensors keep the header's order
    _check_layout(path, entries, 8 + len(raw), n_file)
    return metadata, entries


def _length(path: Path, prefix: bytes, n_file: int, max_header: int) -> int:
    if len(prefix) < 8:
        what = f"{len(prefix)} bytes long" if prefix else "empty"
        raise TruncatedHeader(path, f"the file is {what}; a safetensors file starts with the 8 bytes of a length.")
    if prefix == b"version ":
        raise LfsPointer(path, "a git-lfs pointer, not the weights themselves.")
    length = int.from_bytes(prefix, "little")
    if length > n_file - 8:
        raise TruncatedHeader(path, f"byte 0 announces a header of {length} bytes, but the file has {n_file}.")
    if length > FORMAT_MAX_HEADER:
        raise HeaderTooLarge(path, f"a header of {length} bytes; the format allows {FORMAT_MAX_HEADER}.")
    if length > max_header:
        remedy = f"If you trust the file, pass `--max-header {length}`."
        raise HeaderTooLarge(path, f"a header of {length} bytes; expo reads up to {max_header} unasked.", remedy)
    return length


def _metadata(path: Path, value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise BadMetadata(path, f"__metadata__ is {shown(value)}, not an object.")
    for key, text in value.items():
        if not isinstance(text, str):
            raise BadMetadata(path, f"__metadata__[{shown(key)}] is {shown(text)}, not a string.")
    return value


def _entry(path: Path, file: str, name: str, value: object, data_start: int) -> TensorSpec:
    if "\0" in name:
        raise BadName(path, f"the tensor name {shown(name)} holds a NUL character.")
    if not isinstance(value, dict) or value.keys() != FIELDS:
        held = sorted(value) if isinstance(value, dict) else value
        raise BadEntry(path, f"{shown(name)}: an entry needs exactly dtype, shape, data_offsets; found {shown(held)}.")
    dtype = DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        known = nearest(str(value["dtype"])[:20], DTYPES)
        raise UnknownDType(path, f"{shown(name)}: the dtype {shown(value['dtype'])} is not known.{known}")
    shape = _integers(path, name, "shape", value["shape"])
    offsets = _integers(path, name, "data_offsets", value["data_offsets"])
    if len(offsets) != 2 or offsets[1] < offsets[0]:
        raise OffsetMismatch(path, f"{shown(name)}: data_offsets {shown(list(offsets))} are not a start and an end.")
    n_bytes = offsets[1] - offsets[0]
    _check_size(path, name, dtype, shape, n_bytes)
    return TensorSpec(name, dtype, shape, file, data_start + offsets[0], n_bytes)


def _integers(path: Path, name: str, field: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise BadEntry(path, f"{shown(name)}: {field} is {shown(value)}, not a list.")
    for item in value:
        if type(item) is not int:  # a bool is an int to isinstance
            raise BadInteger(path, f"{shown(name)}: {field} holds {shown(item)}, not an integer.")
    return tuple(value)


def _check_size(path: Path, name: str, dtype: DType, shape: tuple[int, ...], n_bytes: int) -> None:
    n_elements = 1
    for side in shape:
        n_elements *= side
        # Stopping at the first overflow also bounds the time: the product of many sides is a huge integer.
        if n_elements * dtype.bits >= 2**63:
            raise SizeMismatch(path, f"{shown(name)}: the shape {shown(list(shape))} is larger than any file.")
    if n_elements * dtype.bits % 8:
        n_bits = n_elements * dtype.bits
        raise RaggedTensor(path, f"{shown(name)}: {n_elements} elements of {dtype} are {n_bits} bits, no whole bytes.")
    needed = dtype.n_bytes(n_elements)
    if needed != n_bytes:
        raise SizeMismatch(
            path, f"{shown(name)}: {dtype} {shown(list(shape))} needs {needed} bytes, its offsets give {n_bytes}."
        )


def _check_layout(path: Path, entries: list[TensorSpec], start: int, n_file: int) -> None:
    """Tensors lie back to back from `start` to the end of the file."""
    at, last = start, None
    for spec in entries:
        if spec.offset != at:
            before = shown(last.name) if last else "the header"
            fault = "overlaps" if spec.offset < at else f"leaves {spec.offset - at} bytes after"
            raise OffsetMismatch(
                path, f"{shown(spec.name)} starts at byte {spec.offset} and {fault} {before}, which ends at byte {at}."
            )
        at, last = at + spec.n_bytes, spec
    before = shown(last.name) if last else "the header"
    if at > n_file:
        raise TruncatedFile(path, f"{before} ends at byte {at}, but the file at byte {n_file}: {at - n_file} missing.")
    if at < n_file:
        raise TrailingBytes(path, f"{n_file - at} bytes follow {before}, which ends at byte {at}.")
