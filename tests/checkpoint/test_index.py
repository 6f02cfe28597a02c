"""An index and its shards agree tensor by tensor, or the checkpoint is not opened."""

import json
import os
import subprocess
import sys

import pytest
import torch
from pico import LLAMA, llama_tensors, pico_pair, raw_safetensors, write_checkpoint
from safetensors.torch import save_file

from expo import errors
from expo.checkpoint.index import open_checkpoint
from expo.checkpoint.weight_map import read_weight_map

INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
TENSORS = {name: torch.full((2, 2), float(n)) for n, name in enumerate(["a", "b", "c", "d"])}


@pytest.fixture
def folder(tmp_path):
    return write_checkpoint(tmp_path / "m", TENSORS, shards=2, config={"model_type": "llama"})


def rewrite_index(folder, **changed):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= changed
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file}
    (folder / INDEX).write_text(json.dumps(index))


def refusal(folder, error, *words):
    with pytest.raises(error) as caught:
        open_checkpoint(folder)
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)


def test_every_stored_tensor_is_listed_once_in_the_order_of_the_files(folder):
    found = open_checkpoint(folder)
    assert list(found.files) == [ONE, TWO]
    assert list(found.tensors) == ["a", "b", "c", "d"]
    assert [spec.file for spec in found.tensors.values()] == [ONE, ONE, TWO, TWO]
    assert found.n_parameters == 16 and found.n_bytes == 64
    assert found.config == {"model_type": "llama"}


def test_one_file_needs_no_index(tmp_path):
    found = open_checkpoint(write_checkpoint(tmp_path / "m", TENSORS))
    assert list(found.tensors) == ["a", "b", "c", "d"]
    assert found.config == {}


def test_a_pico_pair_has_the_names_of_a_llama_and_a_small_delta(tmp_path):
    sft, dpo = (open_checkpoint(folder) for folder in pico_pair(tmp_path))
    assert list(sft.tensors) == list(dpo.tensors)
    assert set(sft.tensors) == set(llama_tensors())
    assert len(sft.files) == 2 and sft.config["hidden_size"] == LLAMA["hidden_size"]


def test_an_absent_shard_is_named(folder):
    (folder / TWO).unlink()
    refusal(folder, errors.MissingShard, TWO, INDEX, "1 of 2")


def test_a_tensor_that_its_shard_lacks_is_named(folder):
    rewrite_index(folder, extra=TWO)
    refusal(folder, errors.MissingTensor, "'extra'", TWO)


def test_a_tensor_that_the_index_does_not_list_is_never_skipped(folder):
    rewrite_index(folder, b=None)
    refusal(folder, errors.UnlistedTensor, "'b'", ONE)


def test_a_tensor_listed_in_another_shard_is_an_error(folder):
    rewrite_index(folder, b=TWO)
    refusal(folder, errors.UnlistedTensor, "'b'", ONE, TWO)


def test_a_tensor_in_two_shards_is_an_error(folder):
    save_file({"b": TENSORS["b"], "c": TENSORS["c"], "d": TENSORS["d"]}, folder / TWO)
    refusal(folder, errors.RepeatedTensor, "'b'", ONE, TWO)


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "a\\x.safetensors", "..", ".hidden.safetensors", "",
     "config.json", "x\0.safetensors", 5, None, ["x"], {"a": 1}, True],
    ids=repr,
)  # fmt: skip
def test_an_index_names_plain_files_beside_it(folder, name):
    index = {"weight_map": {"a": name}}
    (folder / INDEX).write_text(json.dumps(index))
    refusal(folder, errors.MalformedIndex, "'a'")


@pytest.mark.parametrize("text", ["{}", '{"weight_map": []}', '{"weight_map": {}}', '{"metadata": {}}'])
def test_an_index_without_a_weight_map_is_malformed(folder, text):
    (folder / INDEX).write_text(text)
    refusal(folder, errors.MalformedIndex, "weight_map")


@pytest.mark.parametrize("text", ["", "[]", "{", "{'a': 1}", "[" * 100_000, '{"a":' * 100_000, "{} x"])
def test_an_index_that_is_not_an_object_is_malformed(folder, text):
    (folder / INDEX).write_text(text)
    refusal(folder, errors.MalformedJson, INDEX)


def test_a_duplicate_key_in_an_index_is_an_error(folder):
    (folder / INDEX).write_text(f'{{"weight_map": {{"a": "{ONE}", "a": "{TWO}"}}}}')
    refusal(folder, errors.DuplicateKey, "'a'")


def test_an_index_may_hold_other_numbers_and_end_with_a_newline(folder):
    index = json.loads((folder / INDEX).read_text())
    index["metadata"] = {"total_size": 6.4e1, "x": -1}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    assert len(open_checkpoint(folder).tensors) == 4


def test_a_large_index_needs_the_users_word(folder):
    with pytest.raises(errors.HeaderTooLarge, match="--max-header"):
        read_weight_map(folder / INDEX, max_header=50)


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    os.replace(folder / TWO, tmp_path / "elsewhere.safetensors")
    (folder / TWO).symlink_to(tmp_path / "elsewhere.safetensors")
    refusal(folder, errors.LinkOutside, TWO, "elsewhere.safetensors")


def test_a_link_inside_the_folder_is_followed(folder):
    os.replace(folder / TWO, folder / "real")
    (folder / TWO).symlink_to("real")
    assert len(open_checkpoint(folder).tensors) == 4


def test_the_hub_caches_own_blobs_are_followed(folder, tmp_path):
    repo = tmp_path / "models--org--name"
    (repo / "blobs").mkdir(parents=True)
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for n, path in enumerate(sorted(folder.iterdir())):
        os.replace(path, repo / "blobs" / str(n))
        (snapshot / path.name).symlink_to(f"../../blobs/{n}")
    assert len(open_checkpoint(snapshot).tensors) == 4
    (snapshot / TWO).unlink()
    (snapshot / TWO).symlink_to("../../refs")
    (repo / "refs").write_bytes(b"")
    refusal(snapshot, errors.LinkOutside, TWO)


@pytest.mark.parametrize("text", ["", "[]", "{", '"a"', '{"a": 1, "a": 2}', "\xff"])
def test_a_broken_config_is_an_error_that_names_it(folder, text):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(errors.HeaderError, match=r"config\.json"):
        open_checkpoint(folder)


def test_a_config_may_hold_infinity_as_transformers_writes_it(folder):
    (folder / "config.json").write_text('{"time_step_limit": [0.0, Infinity]}\n')
    assert open_checkpoint(folder).config["time_step_limit"][1] == float("inf")


def test_weights_without_a_single_tensor_are_not_a_checkpoint(tmp_path):
    raw_safetensors(tmp_path / "model.safetensors", {})
    refusal(tmp_path, errors.NotACheckpoint, "model.safetensors")


def test_a_broken_header_is_reported_with_the_shards_path(folder):
    raw_safetensors(folder / TWO, b"[]")
    refusal(folder, errors.MalformedJson, str(folder / TWO))


def test_opening_safetensors_never_loads_torch(folder):
    code = """if True:
        import sys
        from expo.checkpoint.index import open_checkpoint
        from expo.checkpoint.shard import Shards
        found = open_checkpoint(sys.argv[1])
        with Shards(found) as shards:
            shards.read_into(memoryview(bytearray(16)), found.tensors["a"])
        loaded = {"torch", "numpy", "transformers", "huggingface_hub"} & set(sys.modules)
        assert not loaded, loaded
    """
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
