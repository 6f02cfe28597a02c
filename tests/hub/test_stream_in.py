"""--stream: checkpoints on the Hub are read by ranges, and give bit by bit what local ones give."""

import json

import pytest
import torch
from engine import command
from pico import LLAMA, llama_tensors, nudged, pico_pair, write_checkpoint
from standin_hub import Faults
from standin_hub.hub import TOKEN

import expo
from expo.checkpoint import blocks
from expo.errors import ChangedFile

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture
def pair(read_from, tmp_path, monkeypatch):
    """org/sft and org/dpo on the Hub, the same in folders, and the result of the folders."""
    pico_pair(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("sft", "dpo"):
        read_from.add(f"org/{name}", tmp_path / name)
    expo.extrapolate(sft="sft", dpo="dpo", output="local")
    return read_from


def weights(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors*"))}


def in_storage(hub):
    return [asked for asked in hub.asked if asked.host == "storage"]


@pytest.mark.parametrize("faults", [Faults(), Faults(4, ["500", "429", "close", "reset", "whole", "html", "excess"])])
def test_the_result_is_the_local_one_and_no_weights_are_kept(pair, tmp_path, capsys, faults):
    pair.faults = faults
    code, out, err = command(
        capsys, "extrapolate", "--sft", "org/sft", "--dpo", "org/dpo", "--stream", "-o", "out", "--json"
    )
    assert code == 0, err
    assert weights(tmp_path / "out") == weights(tmp_path / "local")
    assert not list((tmp_path / "home").rglob("*.safetensors"))
    record = json.loads((tmp_path / "out" / "expo.json").read_text())["inputs"]
    for role in ("sft", "dpo"):
        assert record[role]["revision"] == pair.repositories[f"org/{role}"].head.sha
        blobs = pair.repositories[f"org/{role}"].head.files
        assert {name: file["read"] for name, file in record[role]["files"].items()} == {
            name: {"etag": blobs[name].sha256, "checked": "every byte, by its hash"} for name in SHARDS
        }
    assert (len(faults.failed) > 5) == bool(faults.every)
    assert all(asked.authorization is None for asked in in_storage(pair))
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert TOKEN not in out + err and TOKEN.encode() not in written


def test_python_streams_too(pair, tmp_path):
    expo.extrapolate(sft="org/sft", dpo="org/dpo@main", output="out", stream=True, dtype="float32")
    expo.extrapolate(sft="sft", dpo="dpo", output="wide", dtype="float32")
    assert weights(tmp_path / "out") == weights(tmp_path / "wide")


def test_surveys_read_each_checkpoint_again(pair, tmp_path, capsys):
    recipe = """
merge_method: ties
base_model: {a}sft
models:
  - model: {a}dpo
    parameters: {{density: 0.5, weight: 0.7}}
  - model: {a}sft
    parameters: {{density: 0.3, weight: 0.2}}
parameters: {{normalize: false}}
"""
    (tmp_path / "hub.yaml").write_text(recipe.format(a="org/"))
    (tmp_path / "local.yaml").write_text(recipe.format(a="./"))
    code, _, err = command(capsys, "merge", "hub.yaml", "-o", "out", "--stream")
    assert code == 0, err
    assert command(capsys, "merge", "local.yaml", "-o", "ties")[0] == 0
    assert weights(tmp_path / "out") == weights(tmp_path / "ties")


def test_a_base_on_the_hub_takes_an_adapter(pair, tmp_path, capsys):
    from safetensors.torch import save_file

    folder = tmp_path / "adapter"
    folder.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {f"{name}.lora_A.weight": torch.randn(4, 16), f"{name}.lora_B.weight": torch.randn(16, 4)},
        folder / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "layers_to_transform": [0]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    pair.add("org/adapter", folder)
    code, _, err = command(
        capsys, "extrapolate", "--sft", "org/sft", "--dpo", "org/sft+org/adapter", "--stream", "-o", "out"
    )
    assert code == 0, err
    assert command(capsys, "extrapolate", "--sft", "sft", "--dpo", "sft+adapter", "-o", "adapted")[0] == 0
    assert weights(tmp_path / "out") == weights(tmp_path / "adapted")


def test_inspect_reads_headers_only(pair, tmp_path, capsys):
    code, out, _ = command(capsys, "inspect", "org/sft", "--json")
    here = json.loads(command(capsys, "inspect", "sft", "--json")[1])
    there = json.loads(out)
    assert code == 0 and there["tensors"] == here["tensors"] and there["revision"]
    assert len(in_storage(pair)) == 2 and not list((tmp_path / "home").rglob("*.safetensors"))


def test_diff_and_plan_stream(pair, tmp_path, capsys):
    code, out, err = command(capsys, "diff", "org/sft", "org/dpo", "--stream", "--json")
    assert code == 0, err
    there, here = json.loads(out), json.loads(command(capsys, "diff", "sft", "dpo", "--json")[1])
    assert there["tensors"] == here["tensors"] and there["effective_alpha"] == here["effective_alpha"]
    (tmp_path / "recipe.yaml").write_text(
        "merge_method: linear\nmodels:\n  - {model: org/sft, parameters: {weight: 1}}\n"
    )
    assert command(capsys, "plan", "recipe.yaml", "--stream")[0] == 0
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_verify_reads_a_published_result_by_ranges(pair, tmp_path, capsys):
    pair.add("org/out", tmp_path / "local")
    code, out, err = command(capsys, "verify", "org/out", "--stream")
    assert code == 0 and "every tensor's hash" in out, err
    inputs = ["--input", "sft=org/sft", "--input", "dpo=org/dpo"]
    code, out, err = command(capsys, "verify", "org/out", "--stream", "--recompute", "all", *inputs)
    assert code == 0 and "the recomputed bits" in out, err
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_what_the_cache_holds_is_not_read_again(pair, tmp_path):
    expo.extrapolate(sft="org/sft", dpo="org/dpo", output="downloaded")
    n = len(in_storage(pair))
    expo.extrapolate(sft="org/sft", dpo="org/dpo", output="out", stream=True)
    assert len(in_storage(pair)) == n
    assert weights(tmp_path / "out") == weights(tmp_path / "downloaded")


def test_a_bin_is_downloaded_and_said(pair, tmp_path, capsys):
    tensors = llama_tensors(dtype=torch.bfloat16)
    for name, content in (("a", tensors), ("b", nudged(tensors))):
        folder = tmp_path / name
        folder.mkdir()
        torch.save(content, folder / "pytorch_model.bin")
        (folder / "config.json").write_text(json.dumps(LLAMA))
        pair.add(f"org/{name}", folder)
    code, _, err = command(capsys, "extrapolate", "--sft", "org/a", "--dpo", "org/b", "--stream", "-o", "out")
    assert code == 0 and "org/a: a .bin cannot be read by ranges; it was downloaded whole" in err


def test_what_is_not_read_is_said_and_can_be_asked_for(pair, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 1024)
    extra = llama_tensors(dtype=torch.bfloat16) | {"z.unused": torch.zeros(300_000, dtype=torch.bfloat16)}
    pair.add("org/more", write_checkpoint(tmp_path / "more", extra, config=LLAMA))
    options = ["--sft", "org/more", "--dpo", "org/dpo", "--stream", "--on-mismatch", "skip"]
    for name, more, checked in [
        ("out", [], "commit, etag, size"),
        ("all", ["--verify-inputs"], "every byte, by its hash"),
    ]:
        code, _, err = command(capsys, "extrapolate", *options, "-o", name, *more)
        assert code == 0, err
        record = json.loads((tmp_path / name / "expo.json").read_text())["inputs"]["sft"]["files"]
        assert record["model.safetensors"]["read"]["checked"] == checked


def test_a_file_that_changes_during_the_run_stops_it_and_leaves_nothing(pair, tmp_path):
    planned = expo.plan(expo.extrapolation(sft="org/sft", dpo="org/dpo", stream=True))
    blob = pair.repositories["org/dpo"].head.files[SHARDS[1]]
    pair.repositories["org/dpo"].swap(SHARDS[1], pair.blob(blob.path.read_bytes()[:-2] + b"!!"))
    pair.secret = b"another"  # so that the Hub is asked again where the bytes are
    with pytest.raises(ChangedFile, match=r"(?s)org/dpo@.*changed after it was listed.*again"):
        expo.run(planned, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damage_on_the_way_is_found_by_the_hash(pair, tmp_path):
    blob = pair.repositories["org/dpo"].head.files[SHARDS[1]]
    planned = expo.plan(expo.extrapolation(sft="org/sft", dpo="org/dpo", stream=True))
    content = bytearray(blob.path.read_bytes())
    content[-3] ^= 1
    blob.path.unlink()  # else the folder's own file would change, which it is a link to
    blob.path.write_bytes(content)
    with pytest.raises(ChangedFile, match=r"(?s)org/dpo@.*another hash than the Hub states.*damaged on the way"):
        expo.run(planned, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"gated": True}, ["org/locked: this account has no access", "hf auth login"]),
        ({"private": True}, ["org/locked: no such model on the Hub, or a private one", "hf auth login"]),
    ],
)
def test_a_locked_repository_is_refused_before_any_work(pair, tmp_path, capsys, options, words):
    pair.add("org/locked", tmp_path / "sft", **options)
    arguments = ["--sft", "org/locked", "--dpo", "org/dpo", "--stream", "-o", "out"]
    code, _, err = command(capsys, "extrapolate", *arguments)
    assert code == 1 and all(word in err for word in words) and TOKEN not in err, err
    assert not in_storage(pair) and not list(tmp_path.glob("out*"))


def test_a_revision_that_is_gone_and_an_absent_repository_are_named(pair, capsys):
    for name, words in [("org/dpo@v9", ["org/dpo", "'v9'"]), ("org/none", ["org/none", "spelling"])]:
        code, _, err = command(capsys, "extrapolate", "--sft", "org/sft", "--dpo", name, "--stream", "-o", "out")
        assert code == 1 and all(word in err for word in words), err
