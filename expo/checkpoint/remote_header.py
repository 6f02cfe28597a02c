"""The header of a safetensors file that stays on the Hub: one request of a guessed size, rarely a second."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from expo.checkpoint.files import DEFAULT_MAX_HEADER
from expo.checkpoint.header import parse_header, raw_header
from expo.checkpoint.remote import RemoteFile
from expo.checkpoint.spec import TensorSpec, WeightFile

GUESS = 128 * 1024  # bytes: headers of shards with a thousand tensors fit
_AT_ONCE = 8


def read_heads(files: Iterable[RemoteFile]) -> None:
    """Read the first bytes of every file, several at a time. Raises a HubError, or ChangedFile."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda file: file.read_head(GUESS), files))


def read_remote_header(
    file: RemoteFile, name: str, *, max_header: int = DEFAULT_MAX_HEADER
) -> tuple[WeightFile, list[TensorSpec]]:
    """What one file on the Hub holds, as `read_header` says it of a local one."""
    file.read_head(GUESS)
    at = 0

    def read(n_bytes: int) -> bytes:
        nonlocal at
        first, at = at, min(at + n_bytes, file.n_bytes)
        held = file.head[first:at]
        rest = bytearray(at - first - len(held))
        file.read_into(memoryview(rest), first + len(held))
        return held + rest

    label = Path(file.label)
    raw = raw_header(label, read, file.n_bytes, max_header)
    metadata, entries = parse_header(label, name, raw, file.n_bytes)
    return WeightFile(name, label, file.n_bytes, 0, xxhash.xxh3_128_hexdigest(raw), metadata, file), entries
