"""The GPU writes the same bytes as the CPU. Runs where CUDA is; skipped elsewhere."""

import hashlib

import pytest
import torch
from pico import pico_pair

import expo

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here"),
]


def bytes_of(folder) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*.safetensors"))}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    "settings",
    [{}, {"rounding": "stochastic"}, {"dtype": "float32"}, {"arithmetic": "reference"}, {"alpha": -0.5}],
    ids=str,
)
def test_the_gpu_writes_the_same_bytes_as_the_cpu(tmp_path, dtype, settings):
    sft, dpo = pico_pair(tmp_path, dtype=dtype)
    expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "cpu", device="cpu", **settings)
    expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "gpu", device="cuda", **settings)
    assert bytes_of(tmp_path / "cpu") == bytes_of(tmp_path / "gpu")
    assert (tmp_path / "cpu" / "expo.json").read_text() == (tmp_path / "gpu" / "expo.json").read_text()
