"""Checkpoints in the shapes of published ones whose tensors are holes: true headers, and no byte of data."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from pico import LLAMA, llama_shapes, raw_safetensors


def _llama(hidden: int, inner: int, layers: int, heads: int, vocab: int = 128256) -> dict:
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": vocab}
    return LLAMA | sizes | {"num_attention_heads": heads, "num_key_value_heads": 8, "head_dim": 128}


# The numbers of the published config.json, and into how many files the weights are cut.
LLAMAS = {
    "1b": (_llama(2048, 8192, 16, 32) | {"head_dim": 64, "tie_word_embeddings": True}, 1),
    "70b": (_llama(8192, 28672, 80, 64), 30),
    "405b": (_llama(16384, 53248, 126, 128), 191),
}


def sparse_llama(folder: Path, size: str, *, layers: int | None = None, shards: int | None = None) -> Path:
    """A folder of LLAMAS[size] in bfloat16; layers, shards: other numbers of them."""
    config, n_shards = LLAMAS[size]
    config = config | {"torch_dtype": "bfloat16"} | ({"num_hidden_layers": layers} if layers else {})
    return sparse_checkpoint(
        folder, {n: ("BF16", s) for n, s in llama_shapes(config).items()}, config, shards or n_shards
    )


def sparse_checkpoint(
    folder: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]], config: Mapping, n_shards: int
) -> Path:
    """Name -> (type, shape) as a folder of sparse files, cut into shards of nearly equal bytes."""
    sizes = {name: _width(dtype) * math.prod(shape) for name, (dtype, shape) in tensors.items()}
    total, done, groups = sum(sizes.values()), 0, [[] for _ in range(n_shards)]
    for name, n_bytes in sizes.items():
        groups[done * n_shards // total].append(name)
        done += n_bytes
    groups = [sorted(group) for group in groups if group]
    weight_map = {}
    for number, names in enumerate(groups, 1):
        file = "model.safetensors" if len(groups) == 1 else f"model-{number:05}-of-{len(groups):05}.safetensors"
        header, at = {"__metadata__": {"format": "pt"}}, 0
        for name in names:
            dtype, shape = tensors[name]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + sizes[name]]}
            at += sizes[name]
        path = raw_safetensors(Path(folder) / file, header)
        os.truncate(path, path.stat().st_size + at)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    if len(groups) > 1:
        (Path(folder) / "model.safetensors.index.json").write_text(json.dumps(index))
    (Path(folder) / "config.json").write_text(json.dumps(config))
    return Path(folder)


def _width(dtype: str) -> int:
    return {"BF16": 2, "F32": 4, "F8_E4M3": 1}[dtype]
