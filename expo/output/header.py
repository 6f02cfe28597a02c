"""The bytes of a safetensors header, and so the exact place of every tensor. Knows no checkpoint and no plan.

Format: 8 bytes little-endian length of the header, a JSON object padded with spaces, then the tensors.
"""

import json
from collections.abc import Mapping, Sequence

from expo.dtypes import DType


def order_in_shard(tensors: Sequence[tuple[str, DType, tuple[int, ...], int]]) -> list:
    """Widest types first, otherwise as given: every tensor then starts at a multiple of its own width."""
    return sorted(tensors, key=lambda tensor: -tensor[1].bits)


def shard_header(
    tensors: Sequence[tuple[str, DType, tuple[int, ...], int]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    """The header of a file that holds these (name, dtype, shape, n_bytes), and each tensor's first byte in the file."""
    table: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    starts = {}
    for name, dtype, shape, n_bytes in tensors:
        table[name] = {"dtype": dtype.name, "shape": list(shape), "data_offsets": [at, at + n_bytes]}
        starts[name] = at
        at += n_bytes
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + start for name, start in starts.items()}
