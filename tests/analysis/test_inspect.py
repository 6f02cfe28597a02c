"""inspect: what headers and config say, on usual and on odd checkpoints."""

import subprocess
import sys

import pytest
import torch
from pico import LLAMA, llama_tensors, pico_pair, write_checkpoint

from expo.analysis.inspect import inspect_checkpoint, number_ranges
from expo.checkpoint import open_checkpoint
from expo.checkpoint.names import layer_of, module_group


def inspected(folder):
    return inspect_checkpoint(open_checkpoint(folder, stored=True))


def test_totals_are_those_of_the_tensors(tmp_path):
    sft, _ = pico_pair(tmp_path)
    found = inspected(sft)
    tensors = llama_tensors(dtype=torch.bfloat16)
    assert found.whole.n_tensors == len(tensors)
    assert found.whole.n_parameters == sum(t.numel() for t in tensors.values())
    assert found.whole.n_bytes == 2 * found.whole.n_parameters
    assert sum(group.n_parameters for group in found.groups) == found.whole.n_parameters
    assert sum(file.n_tensors for file in found.files) == len(tensors)
    assert found.layers == {"model.layers": (0, 1)}


def test_odd_tensors_are_counted_like_any_other(tmp_path):
    tensors = {
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(3.0),
        "ids": torch.arange(6, dtype=torch.int64),
        "flags": torch.tensor([True, False]),
        "narrow": torch.ones(5).to(torch.float8_e4m3fn),
    }
    found = inspected(write_checkpoint(tmp_path / "odd", tensors))
    assert (found.whole.n_tensors, found.whole.n_parameters) == (5, 14)
    assert {totals.name: totals.n_parameters for totals in found.dtypes} == {
        "F32": 1,
        "I64": 6,
        "BOOL": 2,
        "F8_E4M3": 5,
    }
    assert found.layers == {} and found.quantised is None
    shapes = {tensor["name"]: tensor["shape"] for tensor in found.record()["tensors"]}
    assert shapes["scalar"] == [] and shapes["empty"] == [0, 4]


@pytest.mark.parametrize(
    ("config", "stored", "words"),
    [
        ({"tie_word_embeddings": True}, False, "ties head and embedding; stored once, as model.embed_tokens.weight"),
        ({"tie_word_embeddings": True}, True, "ties head and embedding; both are stored: lm_head.weight"),
        ({"tie_word_embeddings": False}, True, "ties nothing"),
        ({}, False, "says nothing"),
    ],
)
def test_tied_names_are_the_configs_word_and_what_is_stored(tmp_path, config, stored, words):
    tensors = llama_tensors()
    if not stored:
        del tensors["lm_head.weight"]
    plain = {key: value for key, value in LLAMA.items() if key != "tie_word_embeddings"}
    found = inspected(write_checkpoint(tmp_path / "tied", tensors, config=plain | config))
    assert words in found.tied_in_words()


def test_a_bins_shared_storage_is_named(tmp_path):
    weight = torch.randn(4, 4)
    (tmp_path / "bin").mkdir()
    torch.save({"a.weight": weight, "b.weight": weight}, tmp_path / "bin" / "pytorch_model.bin")
    assert inspected(tmp_path / "bin").shared == (("a.weight", "b.weight"),)


@pytest.mark.parametrize(
    ("config", "extra", "words"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, {}, "gptq"),
        ({}, {"x.weight_scale_inv": torch.ones(1)}, "float8 with per-tensor scales"),
    ],
)
def test_a_quantised_checkpoint_is_inspected_and_called_so(tmp_path, config, extra, words):
    tensors = {"x.weight": torch.ones(4).to(torch.float8_e4m3fn), **extra}
    found = inspected(write_checkpoint(tmp_path / "q", tensors, config=config))
    assert found.quantised == words and found.whole.n_tensors == len(tensors)


def test_names_tell_module_and_layer_whatever_the_architecture():
    assert module_group("model.layers.11.mlp.experts.3.w1.weight") == "model.layers.*.mlp.experts.*.w1.weight"
    assert layer_of("model.layers.11.mlp.experts.3.w1.weight") == ("model.layers", 11)
    assert layer_of("h.0.attn.bias") == ("h", 0) and layer_of("0.weight") == ("", 0)
    assert layer_of("conv1.weight") is None and layer_of("x." + "9" * 5000) is None
    assert number_ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"


def test_inspecting_imports_no_torch(tmp_path):
    sft, _ = pico_pair(tmp_path)
    code = (
        "import sys; from expo.cli.main import group;"
        f"group(['inspect', {str(sft)!r}, '--tensors'], standalone_mode=False);"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
