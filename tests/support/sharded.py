"""A checkpoint of several equal shards of random numbers, for pushes: no model that runs."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def sharded(folder: Path, n_shards: int = 4, n_elements: int = 1 << 16, seed: int = 0) -> Path:
    """Write it; each shard holds one float32 tensor of n_elements."""
    folder.mkdir(parents=True)
    random, weight_map = np.random.default_rng(seed), {}
    for number in range(1, n_shards + 1):
        name = f"model-{number:05}-of-{n_shards:05}.safetensors"
        tensor = f"model.layers.{number - 1}.weight"
        save_file({tensor: random.standard_normal(n_elements, np.float32)}, folder / name)
        weight_map[tensor] = name
    index = {"metadata": {"total_size": 4 * n_shards * n_elements}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}\n')
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# A model\n")
    return folder
