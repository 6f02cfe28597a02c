"""What the user wrote leads to exactly one set of weights with all of its side files, or to a sentence about it."""

import os

import pytest
import torch
from pico import write_checkpoint

from expo import errors
from expo.checkpoint.contents import is_side_file
from expo.checkpoint.source import resolve

T = {"a": torch.ones(2), "b": torch.zeros(2)}
BIN = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def touch(folder, *names, content="{}"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def refusal(text, error, *words):
    with pytest.raises(error) as caught:
        resolve(text)
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_of_one_file(tmp_path):
    found = resolve(write_checkpoint(tmp_path / "m", T, config={}))
    assert found.weights == ("model.safetensors",) and found.index is None
    assert found.side_files == ("config.json",)
    assert found.label == "m" and found.repo_id is None and found.revision is None


def test_a_folder_of_shards_lists_them_sorted(tmp_path):
    found = resolve(str(write_checkpoint(tmp_path / "m", T, shards=2)) + "/")
    assert found.weights == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert found.index == "model.safetensors.index.json"
    assert found.side_files == ()


def test_a_home_folder_may_be_spelled_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_checkpoint(tmp_path / "m", T)
    assert resolve("~/m").folder == tmp_path / "m"


def test_safetensors_are_preferred_over_bin(tmp_path):
    folder = write_checkpoint(tmp_path / "m", T)
    touch(folder, "pytorch_model.bin", "consolidated.safetensors")
    assert resolve(folder).weights == ("model.safetensors",)


def test_one_file_of_another_name_is_found(tmp_path):
    touch(tmp_path, "consolidated.safetensors", "pytorch_model.bin")
    assert resolve(tmp_path).weights == ("consolidated.safetensors",)


def test_a_bin_is_found_beside_the_trainers_own(tmp_path):
    touch(tmp_path, "pytorch_model.bin", "training_args.bin", "optimizer.bin")
    assert resolve(tmp_path).weights == ("pytorch_model.bin",)


def test_a_file_and_an_index_together_are_ambiguous(tmp_path):
    folder = write_checkpoint(tmp_path / "m", T, shards=2)
    touch(folder, "model.safetensors")
    refusal(folder, errors.AmbiguousWeights, "model.safetensors.index.json", f"{folder}/")
    assert resolve(folder / "model.safetensors").weights == ("model.safetensors",)
    assert len(resolve(folder / "model.safetensors.index.json").weights) == 2


def test_two_files_of_other_names_are_ambiguous(tmp_path):
    refusal(
        touch(tmp_path, "x.safetensors", "y.safetensors"), errors.AmbiguousWeights, "x.safetensors", "y.safetensors"
    )
    assert resolve(tmp_path / "y.safetensors").weights == ("y.safetensors",)


def test_two_kinds_of_bin_are_ambiguous(tmp_path):
    refusal(touch(tmp_path, *BIN), errors.AmbiguousWeights, *BIN)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("present", [(1, 2), (1,)])
def test_numbered_shards_without_an_index_are_refused(tmp_path, suffix, present):
    touch(tmp_path, *(f"model-0000{n}-of-00002.{suffix}" for n in present))
    refusal(tmp_path, errors.ShardsWithoutIndex, "index")


def test_one_shard_of_several_is_half_a_model(tmp_path):
    folder = write_checkpoint(tmp_path / "m", T, shards=2)
    refusal(folder / "model-00002-of-00002.safetensors", errors.ShardsWithoutIndex, "one shard of 2")


def test_one_shard_of_one_is_a_model(tmp_path):
    touch(tmp_path, "model-00001-of-00001.safetensors")
    assert resolve(tmp_path).weights == ("model-00001-of-00001.safetensors",)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_an_adapter_is_not_a_model(tmp_path, kind):
    touch(tmp_path, "adapter_config.json", f"adapter_model.{kind}", "tokenizer.json")
    refusal(tmp_path, errors.AdapterNotModel, "adapter", str(tmp_path))
    refusal(tmp_path / f"adapter_model.{kind}", errors.AdapterNotModel)


@pytest.mark.parametrize(
    "name, kind", [("m.Q4_K_M.gguf", "GGUF"), ("tf_model.h5", "TensorFlow"), ("consolidated.00.pth", "pickle")]
)
def test_another_format_is_named(tmp_path, name, kind):
    refusal(touch(tmp_path, name, "config.json"), errors.UnsupportedFormat, kind, name)
    refusal(tmp_path / name, errors.UnsupportedFormat)


def test_a_folder_without_weights_says_what_was_looked_for(tmp_path):
    touch(tmp_path, "config.json", "sub/model.safetensors")
    refusal(tmp_path, errors.NotACheckpoint, str(tmp_path), "model.safetensors.index.json", "pytorch_model.bin")


# --- side files ------------------------------------------------------------------------------------------------------

SIDE = [
    "LICENSE", "added_tokens.json", "chat_template.jinja", "config.json", "generation_config.json", "merges.txt",
    "modeling_custom.py", "original/params.json", "preprocessor_config.json", "special_tokens_map.json",
    "sub/deeper/README.md", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
]  # fmt: skip
NOT_SIDE = [
    ".gitattributes", ".cache/huggingface/x.json", "README.md", "expo.json", "checkpoint-500/config.json",
    "sub/checkpoint-1/x", "consolidated.00.pth", "original/consolidated.00.pth", "flax_model.msgpack", "m.gguf",
    "model-00001-of-00002.safetensors", "model.safetensors.index.json", "model.safetensors.index.fp16.json",
    "pytorch_model.bin.index.json", "onnx/model.onnx", "onnx/model.onnx_data", "optimizer.pt", "optimizer.bin",
    "rng_state_0.pth", "scheduler.pt", "tf_model.h5", "model.tflite", "model.npz", "trainer_state.json",
    "training_args.bin", "global_step100/zero.pt", "global_step100/x.json", "latest", "zero_to_fp32.py",
    "runs/Jan01/events.out.tfevents.1", "model.ckpt", "model.SAFETENSORS", "scaler.pt", "random_states_0.pkl",
]  # fmt: skip


@pytest.mark.parametrize("name", SIDE)
def test_what_a_copy_of_the_model_needs_is_a_side_file(name):
    assert is_side_file(name)


@pytest.mark.parametrize("name", NOT_SIDE)
def test_weights_hidden_files_and_trainer_state_are_not(name):
    assert not is_side_file(name)


def test_side_files_are_found_in_every_folder_sorted(tmp_path):
    folder = write_checkpoint(tmp_path / "m", T)
    assert resolve(touch(folder, *SIDE, *NOT_SIDE[:9])).side_files == tuple(sorted(SIDE))


def test_a_file_alone_has_the_side_files_of_a_folder_with_a_config(tmp_path):
    folder = write_checkpoint(tmp_path / "m", T)
    touch(folder, "tokenizer.json")
    assert resolve(folder / "model.safetensors").side_files == ()
    touch(folder, "config.json")
    assert resolve(folder / "model.safetensors").side_files == ("config.json", "tokenizer.json")


def test_a_side_file_that_links_out_of_the_folder_is_refused(tmp_path):
    folder = write_checkpoint(tmp_path / "m", T)
    (tmp_path / "secret").write_text("x")
    (folder / "notes.txt").symlink_to("../secret")
    refusal(folder, errors.LinkOutside, "notes.txt", "secret")


def test_a_folder_that_links_out_is_refused(tmp_path):
    folder = write_checkpoint(tmp_path / "m", T)
    touch(tmp_path / "other", "x.json")
    (folder / "sub").symlink_to("../other")
    refusal(folder, errors.LinkOutside, "sub")


def test_a_linked_checkpoint_folder_is_followed(tmp_path):
    write_checkpoint(tmp_path / "m", T, config={})
    (tmp_path / "link").symlink_to("m")
    assert resolve(tmp_path / "link").side_files == ("config.json",)


def test_a_broken_link_is_never_passed_over(tmp_path):
    folder = write_checkpoint(tmp_path / "m", T)
    (folder / "tokenizer.json").symlink_to("gone")
    refusal(folder, errors.UnreadableFile, "tokenizer.json")


# --- names that lead nowhere -----------------------------------------------------------------------------------------


def test_a_missing_folder_offers_its_nearest_sibling(tmp_path):
    (tmp_path / "llama-sft").mkdir()
    refusal(str(tmp_path / "llama-stf"), errors.MissingSource, "llama-stf", f"{tmp_path}/llama-sft", "org/name")


@pytest.mark.parametrize(
    "text", ["./absent", "../absent", "absent", "/no/such/place", "a/b/c", "", " ", "x\0y", "~/no-1"]
)
def test_what_looks_like_a_path_is_never_looked_up_on_the_hub(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refusal(text, errors.MissingSource)


def test_a_first_part_that_is_a_folder_here_means_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("models/sft")
    refusal("models/stf", errors.MissingSource, "models/sft")


def test_a_folder_that_exists_wins_over_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "org" / "name", T)
    write_checkpoint(tmp_path / "org" / "name@main", T, config={})
    assert resolve("org/name").folder == tmp_path / "org" / "name"
    assert resolve("org/name@main").side_files == ("config.json",)


def test_a_folder_without_weights_is_refused_without_a_walk_through_it(tmp_path, monkeypatch):
    (tmp_path / "deep" / "down").mkdir(parents=True)
    monkeypatch.setattr("os.walk", lambda *_, **__: pytest.fail("walked"))
    with pytest.raises(errors.NotACheckpoint):
        resolve(tmp_path)
