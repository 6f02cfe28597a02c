"""The GPU writes the same bytes as the CPU. Runs where CUDA is; skipped elsewhere."""

import hashlib

import numpy as np
import pytest
import torch
from every_method import CASES
from pico import pico_pair
from safetensors.torch import load_file

import expo
from expo.analysis.steps import steps
from expo.dtypes import DTYPES
from expo.methods import METHODS

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


def elements_of(folder) -> dict[str, np.ndarray]:
    """Every tensor's 16-bit words."""
    tensors = {name: w for path in folder.glob("*.safetensors") for name, w in load_file(path).items()}
    return {name: w.reshape(-1).view(torch.int16).numpy().view(np.uint16) for name, w in tensors.items()}


@pytest.mark.parametrize("gpu_memory", [None, 1 << 29], ids=["free", "bounded"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_method_is_the_same_on_the_gpu_or_within_a_step(tmp_path, case, gpu_memory):
    recipe = case.recipe(tmp_path / "in", case.draw(torch.bfloat16))
    expo.merge(recipe, tmp_path / "cpu", device="cpu")
    expo.merge(recipe, tmp_path / "gpu", device="cuda", gpu_memory=gpu_memory, threads=4)
    if METHODS[case.method].exact == "everywhere":
        assert bytes_of(tmp_path / "cpu") == bytes_of(tmp_path / "gpu")
        return
    ours, theirs = elements_of(tmp_path / "gpu"), elements_of(tmp_path / "cpu")
    apart = np.concatenate([steps(ours[name], theirs[name], DTYPES["BF16"]) for name in ours])
    assert (apart <= 1).mean() >= 0.999
