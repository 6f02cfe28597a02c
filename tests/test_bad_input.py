"""Bad input is one clear message and exit 1, within two seconds and before any tensor is read; nothing is written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine import command, tree
from pico import LLAMA, llama_tensors, nudged, raw_safetensors, write_checkpoint

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


# --- inputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["sft", "dpo"])
def test_a_missing_folder_is_refused_with_the_nearest_name(refused, role):
    refused("no such file or folder", f"{role}'?", **{role: f"{role}z"})


NOT_CHECKPOINTS = {
    "empty folder": ({}, ["not a checkpoint", "model.safetensors"]),
    "config only": ({"config.json": "{}"}, ["not a checkpoint"]),
    "gguf": ({"m.gguf": "GGUF"}, ["GGUF", "does not read"]),
    "adapter": ({"adapter_model.safetensors": "x", "adapter_config.json": "{}"}, ["adapter"]),
    "shard without index": ({"model-00001-of-00002.safetensors": "x"}, ["one shard of 2"]),
    "two sets": ({"model.safetensors": "x", "model.safetensors.index.json": "{}"}, ["several sets"]),
    "empty shard": ({"model.safetensors": ""}, ["the file is empty", "model.safetensors"]),
    "short file": ({"model.safetensors": "abc"}, ["3 bytes long"]),
    "text": ({"model.safetensors": "some text, no weights at all"}, ["model.safetensors"]),
    "lfs pointer": ({"model.safetensors": "version https://git-lfs.github.com/spec/v1\n"}, ["git lfs pull"]),
    "old pickle": ({"pytorch_model.bin": "\x80\x02}q\0."}, ["pytorch_model.bin"]),
    "index of nothing": ({"model.safetensors.index.json": "{}"}, ["weight_map"]),
    "index that is no JSON": ({"model.safetensors.index.json": "{"}, ["index", "not JSON"]),
    "index with a path": (
        {"model.safetensors.index.json": '{"weight_map": {"w": "../dpo/model-00001-of-00002.safetensors"}}'},
        ["plain .safetensors file"],
    ),
    "index of an absent shard": (
        {"model.safetensors.index.json": '{"weight_map": {"w": "model-00001-of-00001.safetensors"}}'},
        ["not in the folder", "model-00001-of-00001.safetensors", "'w'"],
    ),
}


@pytest.mark.parametrize("role", ["sft", "dpo"])
@pytest.mark.parametrize("case", NOT_CHECKPOINTS)
def test_what_is_no_whole_checkpoint_is_refused(home, refused, case, role):
    files, words = NOT_CHECKPOINTS[case]
    (home / "bad").mkdir()
    for name, content in files.items():
        (home / "bad" / name).write_text(content, encoding="latin-1")
    refused(*words, **{role: "bad"})


HEADERS = {
    "not JSON": (b'{"w": ', 0, "not JSON"),
    "not UTF-8": (b'{"\xff": 1}', 0, "not UTF-8"),
    "a list": (b"[]", 0, "not a safetensors file"),
    "a key twice": (
        b'{"w": ' + json.dumps(ENTRY).encode() + b', "w": ' + json.dumps(ENTRY).encode() + b"}",
        8,
        "twice",
    ),
    "nested deeply": (b'{"w": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 0, "nested too deeply"),
    "NaN as a size": (b'{"w": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}', 8, "NaN"),
    "true as a size": (b'{"w": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}', 4, "True"),
    "half a surrogate pair": (b'{"\\ud800": ' + json.dumps(ENTRY).encode() + b"}", 8, "surrogate"),
    "huge integer": ({"w": {**ENTRY, "shape": [2**70]}}, 8, "no size or offset"),
    "negative": ({"w": {**ENTRY, "shape": [-2]}}, 8, "no size or offset"),
    "unknown type": ({"w": {**ENTRY, "dtype": "F33"}}, 8, "'F33' is not known"),
    "missing field": ({"w": {"dtype": "F32", "shape": [2]}}, 8, "exactly dtype, shape, data_offsets"),
    "overlap": ({"v": ENTRY, "w": {**ENTRY, "data_offsets": [4, 12]}}, 12, "overlaps"),
    "gap": ({"v": ENTRY, "w": {**ENTRY, "data_offsets": [12, 20]}}, 20, "leaves 4 bytes"),
    "shape and offsets": ({"w": {**ENTRY, "shape": [3]}}, 8, "needs 12 bytes"),
    "truncated data": ({"w": ENTRY}, 7, "1 missing"),
    "trailing data": ({"w": ENTRY}, 9, "1 bytes follow"),
    "metadata": ({"__metadata__": {"a": 1}, "w": ENTRY}, 8, "not a string"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_malformed_header_is_refused_and_its_file_named(home, refused, case):
    header, n_bytes, word = HEADERS[case]
    raw_safetensors(home / "bad" / "model.safetensors", header, bytes(n_bytes))
    refused(word, "model.safetensors", sft="bad")


def test_a_header_that_is_longer_than_asked_is_refused_with_the_way_out(home, refused):
    raw_safetensors(
        home / "bad" / "model.safetensors", json.dumps({"w": ENTRY}).encode() + b" " * (17 * 2**20), bytes(8)
    )
    refused("--max-header", "expo reads up to 16777216 unasked", dpo="bad")
    refused("larger than 100 bytes", sft="sft", more=["--max-header", "100"])


def test_a_shard_cut_in_the_middle_is_refused(home, refused):
    shard = sorted((home / "dpo").glob("*.safetensors"))[1]
    os.truncate(shard, shard.stat().st_size // 2)
    refused("missing", shard.name)
    os.truncate(shard, 100)
    refused("announces a header", shard.name)


def test_an_index_that_disagrees_with_its_shards_is_refused(home, refused):
    path = home / "sft" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    for change, word in (
        (lambda m: m.update(ghost="model-00001-of-00002.safetensors"), "'ghost'"),
        (lambda m: m.pop("model.norm.weight"), "does not list"),
        (lambda m: m.update({"model.norm.weight": "model-00001-of-00002.safetensors"}), "places in model-00001"),
    ):
        changed = json.loads(json.dumps(index))
        change(changed["weight_map"])
        path.write_text(json.dumps(changed))
        refused(word)


def test_a_link_that_leaves_the_checkpoint_is_refused(home, refused):
    (home / "secret").write_text("mine")
    (home / "dpo" / "notes.txt").symlink_to(home / "secret")
    refused("notes.txt", "outside the checkpoint")


def test_shapes_and_one_sided_tensors_are_refused_together(home, refused):
    tensors = nudged(llama_tensors(dtype=torch.bfloat16))
    tensors["model.norm.weight"] = torch.ones(17, dtype=torch.bfloat16)
    tensors["only.here"] = tensors.pop("lm_head.weight")
    write_checkpoint(home / "other", tensors, config=LLAMA)
    refused(
        "2 problems", "model.norm.weight: shapes differ", "(16,)", "(17,)", "lm_head.weight", "only.here", dpo="other"
    )


def test_a_hub_id_offline_is_refused_without_a_word_of_a_token(refused, home, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_ThisMustNotBeShown")
    code, _, said = command(capsys, "extrapolate", "--sft", "org/absent", "--dpo", home / "dpo", "-o", home / "out")
    assert code == 1 and "org/absent" in said and "HF_HUB_OFFLINE" in said and "hf_This" not in said


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", ["nan", "inf", "-inf", "1e999"])
def test_an_alpha_that_is_not_finite_is_refused(refused, alpha):
    refused("alpha must be a finite number", more=[f"--alpha={alpha}"])


@pytest.mark.parametrize(
    "more, words",
    [
        (["--dtype", "bfloat61"], ["dtype cannot be 'bfloat61'", "Did you mean 'bfloat16'?"]),
        (["--dtype", "int8"], ["dtype cannot be 'int8'", "float32"]),
        (["--dtype", "float32", "--arithmetic", "reference"], ["reference always writes bfloat16"]),
        (["--rename", "model"], ["prefix=>prefix"]),
        (["--shard-size", "huge"], ["'huge' is not a size"]),
        (["--shard-size", "0"], ["'0' is not a size"]),
        (["--device", "gpu9"], ["gpu9", "cpu, cuda, cuda:1 or auto"]),
        (["--device", "cuda:99"], ["cuda:99", "--device cpu"]),
        (["--device", "meta"], ["meta"]),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_what_can(refused, more, words):
    refused(*words, more=more)


@pytest.mark.parametrize(
    "more",
    [["--alpha", "much"], ["--rounding", "up"], ["--alhpa", "1"], ["--threads", "0"], ["--seed", "x"], ["extra"]],
)
def test_wrong_usage_exits_with_2(refused, more):
    refused(more=more, code=2)


def test_an_option_that_is_missing_and_a_command_that_is_unknown_exit_with_2(home, capsys):
    for arguments in (["extrapolate", "--sft", "a"], ["extrapolat"], []):
        code, out, err = command(capsys, *arguments)
        assert code == 2 and out + err


# --- dry runs, and the real command line -----------------------------------------------------------------------------


def test_a_dry_run_prints_the_plan_reads_no_tensor_and_writes_nothing(home, capsys, unreadable):
    before = tree(home)
    options = ["--sft", home / "sft", "--dpo", home / "dpo", "-o", home / "out", "--dry-run"]
    code, said, _ = command(capsys, "extrapolate", *options)
    assert code == 0 and "21 tensors" in said and "of memory" in said and "of disk" in said
    code, said, _ = command(capsys, "extrapolate", *options, "--json")
    cost = json.loads(said)["plan"]
    assert code == 0 and cost["tensors"] == 21 and cost["peak_memory"] > 0 and cost["bytes_to_write"] > 0
    assert tree(home) == before


def expo_process(*arguments, cwd):
    return subprocess.run([sys.executable, "-m", "expo", *map(str, arguments)], cwd=cwd, capture_output=True, text=True)


def test_the_real_command_line_exits_with_1_and_one_message(home):
    before = tree(home)
    done = expo_process("extrapolate", "--sft", "sft", "--dpo", "nowhere", "-o", "out", cwd=home)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: nowhere: no such file or folder.") and "Traceback" not in done.stderr
    assert tree(home) == before


def test_the_real_command_line_stops_at_a_nan_and_leaves_nothing(home):
    tensors = llama_tensors(dtype=torch.bfloat16)
    tensors["model.norm.weight"][3] = torch.nan
    write_checkpoint(home / "nan", tensors, config=LLAMA)
    before = tree(home)
    done = expo_process("extrapolate", "--sft", "nan", "--dpo", "dpo", "-o", "out", cwd=home)
    assert done.returncode == 1 and done.stdout == ""
    assert "error: model.norm.weight[3] is nan in sft (nan)" in done.stderr and "Traceback" not in done.stderr
    assert tree(home) == before
    assert not Path(home / "out").exists()
