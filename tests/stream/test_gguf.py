"""What expo writes goes through the package that llama.cpp converts with: its names are known, its values arrive."""

import re

import numpy as np
import pytest
import torch
from architectures import save_both_layouts, tensors_of

import expo

gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.gguf
EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(.+)")
KINDS = {"qwen2": "QWEN2", "qwen3_moe": "QWEN3MOE", "mixtral": "LLAMA"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_has_a_gguf_name_and_comes_back_from_the_file(tmp_path, kind):
    home = save_both_layouts(tmp_path, kind)
    settings = {"layout": "separate"} if kind != "qwen2" else {}
    expo.extrapolate(sft=home / "sft/original", dpo=home / "dpo/module", output=tmp_path / "out", **settings)
    known = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, KINDS[kind]), 2)
    tensors: dict[str, np.ndarray] = {}
    experts: dict[str, dict[int, torch.Tensor]] = {}
    for name, values in tensors_of(tmp_path / "out").items():
        if found := EXPERT.fullmatch(name):  # the converter stacks them under their common name
            experts.setdefault(f"{found[1]}.{found[3]}", {})[int(found[2])] = values
        else:
            tensors[name] = values.float().numpy()
    for name, parts in experts.items():
        tensors[name] = torch.stack([parts[i] for i in range(len(parts))]).float().numpy()
    writer = gguf.GGUFWriter(tmp_path / "out.gguf", KINDS[kind].lower())
    names = {}
    for name, values in tensors.items():
        names[name] = known.get_name(name, try_suffixes=(".weight", ".bias"))
        assert names[name], f"llama.cpp knows no {name}"
        writer.add_tensor(names[name], values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    assert len(stored) == len(tensors) and all((stored[names[n]] == values).all() for n, values in tensors.items())
