"""What is written is read by others: transformers loads it and generates, safetensors' own library agrees."""

import json
import os
import stat

import pytest
import torch
from live import generated, same, state
from oracle import TORCH_NAMES, read_stored, values
from pico import LLAMA, llama_tensors, nudged, pico_pair, write_checkpoint
from safetensors import safe_open
from transformers import AutoModelForCausalLM

import expo

DTYPES = {name: key for key, name in TORCH_NAMES.items()}


WAYS = [{}, {"dtype": "float32"}, {"rounding": "stochastic"}, {"shard_size": 10**9}, {"arithmetic": "reference"}]


@pytest.mark.parametrize("tied, settings", [*((True, way) for way in WAYS), (False, {}), (False, {"shard_size": 4000})])
def test_transformers_loads_the_output_whole_and_generates(pairs, tmp_path, tied, settings, caplog):
    expo.extrapolate(**pairs[tied], alpha=0.5, output=tmp_path / "out", **settings)
    model, told = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto", output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    right = torch.float32 if settings.get("dtype") else torch.bfloat16
    assert model.dtype == right and not caplog.records
    loaded = state(model)
    for name, stored in read_stored(tmp_path / "out").items():
        assert loaded[name].double().reshape(-1).tolist() == values(stored).tolist()
    tokens = generated(model)
    assert len(tokens) == 12 and all(0 <= token < 64 for token in tokens)
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight) == tied


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_transformers_loads_an_output_in_eight_bits_as_it_loads_any_other(pair, tmp_path, dtype):
    expo.extrapolate(**pair, alpha=0.5, output=tmp_path / "out", dtype=dtype)
    loaded = state(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    for name, stored in read_stored(tmp_path / "out").items():
        assert loaded[name].double().reshape(-1).tolist() == values(stored).tolist()


def test_alpha_zero_generates_what_the_aligned_model_does_and_alpha_minus_one_what_the_base_does(pair, tmp_path):
    for alpha, role in ((0, "dpo"), (-1, "sft")):
        expo.extrapolate(**pair, alpha=alpha, dtype="float32", output=tmp_path / role)
        found, right = (
            AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32) for f in (tmp_path / role, pair[role])
        )
        assert generated(found) == generated(right)
        assert role == "sft" or same(state(found), state(right))


def test_the_result_is_the_same_as_computed_with_the_whole_models_in_memory(pair, tmp_path):
    expo.extrapolate(**pair, alpha=0.5, dtype="float32", output=tmp_path / "out")
    sft, dpo, out = (
        state(AutoModelForCausalLM.from_pretrained(f, dtype=torch.float64)) for f in (*pair.values(), tmp_path / "out")
    )
    assert out.keys() == dpo.keys()
    for name in out:
        assert torch.equal(out[name], (dpo[name] + 0.5 * (dpo[name] - sft[name])).float().double()), name


def test_an_output_is_an_input_again_and_going_back_comes_home(pair, tmp_path):
    expo.extrapolate(**pair, alpha=1, dtype="float64", output=tmp_path / "far")
    expo.extrapolate(sft=tmp_path / "far", dpo=pair["dpo"], alpha=1, dtype="float64", output=tmp_path / "home")
    home, right = (read_stored(folder) for folder in (tmp_path / "home", pair["sft"]))
    assert {name: values(stored).tolist() for name, stored in home.items()} == {
        name: values(stored).tolist() for name, stored in right.items()
    }


@pytest.mark.parametrize("dtype", [None, *TORCH_NAMES.values()])
def test_safetensors_own_library_reads_what_the_format_says_is_there(tmp_path, dtype):
    sft, dpo = pico_pair(tmp_path)
    expo.extrapolate(sft=sft, dpo=dpo, dtype=dtype, output=tmp_path / "out")
    n = 0
    for file in (tmp_path / "out").glob("*.safetensors"):
        stored = read_stored(file)
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"} and set(opened.keys()) == set(stored)
            for name, (kind, shape, raw) in stored.items():
                tensor = opened.get_tensor(name)
                assert (tensor.dtype, tuple(tensor.shape)) == (getattr(torch, dtype or "bfloat16"), shape)
                assert kind == DTYPES[dtype or "bfloat16"]
                assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == raw
                n += 1
    assert n == 21
    if "8" not in (dtype or ""):
        assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == (dtype or "bfloat16")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_file_modes_follow_the_umask_and_not_the_inputs(tmp_path, umask):
    sft, dpo = pico_pair(tmp_path, side_files={"sub/notes.txt": "x"})
    for path in dpo.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o400)
    before = os.umask(umask)
    try:
        expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "new" / "out")
    finally:
        os.umask(before)
    for path in (tmp_path / "new").rglob("*"):
        right = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == right, path.name


def test_a_bin_checkpoint_becomes_the_same_safetensors_as_its_twin(tmp_path):
    tensors = llama_tensors(dtype=torch.bfloat16)
    moved = nudged(tensors)
    names = list(tensors)
    sft = write_checkpoint(tmp_path / "sft", tensors, config=LLAMA)
    dpo = write_checkpoint(tmp_path / "dpo", moved, shards=2, config=LLAMA)
    old = tmp_path / "old"
    old.mkdir()
    halves = [names[:10], names[10:]]
    files = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    for file, half in zip(files, halves, strict=True):
        torch.save({name: moved[name] for name in half}, old / file)
    weight_map = {name: file for file, half in zip(files, halves, strict=True) for name in half}
    (old / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (old / "config.json").write_text(json.dumps(LLAMA))
    expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "one")
    expo.extrapolate(sft=sft, dpo=old, output=tmp_path / "two")
    assert read_stored(tmp_path / "one") == {
        name: read_stored(tmp_path / "two")[name] for name in read_stored(tmp_path / "one")
    }
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "README.md", "config.json", "expo.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]  # fmt: skip
    AutoModelForCausalLM.from_pretrained(tmp_path / "two")


def test_a_single_bin_with_an_index_becomes_one_file_that_opens_again(tmp_path):
    tensors = llama_tensors(dtype=torch.bfloat16)
    folder = tmp_path / "dpo"
    folder.mkdir()
    torch.save(tensors, folder / "pytorch_model-00001-of-00001.bin")
    weight_map = dict.fromkeys(tensors, "pytorch_model-00001-of-00001.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    expo.extrapolate(sft=folder, dpo=folder, output=tmp_path / "out")
    assert set(expo.open_checkpoint(tmp_path / "out").tensors) == set(tensors)


def test_the_number_of_parameters_and_names_in_the_manifest_are_the_files(pair, tmp_path):
    expo.extrapolate(**pair, output=tmp_path / "out")
    content = json.loads((tmp_path / "out" / "expo.json").read_text())
    assert set(content["tensors"]) == set(read_stored(tmp_path / "out"))
    assert content["files"].keys() == {path.name for path in (tmp_path / "out").glob("*.safetensors")}
    assert content["recipe"]["method"] == "extrapolate" and content["recipe"]["parameters"]["alpha"] == 0.3
    assert set(content["inputs"]) == {"sft", "dpo"}
