"""Sub-folders, float8 and other layouts on the Hub: downloaded or read by ranges, they give what local ones give."""

import json

import pytest
import torch
from architectures import LAYOUTS, save_both_layouts
from engine import command
from float8 import write_float8
from sub_folders import KINDS

import expo
from expo.checkpoint import open_checkpoint
from expo.errors import HubNotCached, MissingShard, OutputError
from expo.stream import load_model


@pytest.fixture
def models(read_from, tmp_path, monkeypatch):
    """models(kind): a pair of that kind on the Hub as org/sft and org/dpo, and in folders of those names."""
    monkeypatch.chdir(tmp_path)

    def made(kind):
        if kind == "layouts":
            home = save_both_layouts(tmp_path / "moe", "qwen3_moe")
            for role, layout in zip(("sft", "dpo"), LAYOUTS, strict=True):
                (home / role / layout).rename(tmp_path / role)
        for seed, role in enumerate(("sft", "dpo")):
            if kind == "float8":
                write_float8(tmp_path / role, seed, "uneven")
            elif kind in KINDS:
                KINDS[kind][0](tmp_path / role, seed)
            read_from.add(f"org/{role}", tmp_path / role)
        return read_from

    return made


def files(folder):
    """What lies in a folder, but for the records that name the inputs."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if path.name not in ("README.md", "expo.json")
    }


@pytest.mark.parametrize("stream", [False, True], ids=["downloaded", "streamed"])
@pytest.mark.parametrize("kind", [*KINDS, "layouts", "float8"])
def test_the_result_is_the_local_one(models, tmp_path, kind, stream):
    models(kind)
    expo.extrapolate(sft="sft", dpo="dpo", output="local")
    expo.extrapolate(sft="org/sft", dpo="org/dpo", output="out", stream=stream)
    assert files(tmp_path / "out") == files(tmp_path / "local")
    assert bool(list((tmp_path / "home").rglob("*.safetensors"))) != stream


@pytest.mark.parametrize("kind", ["layouts", "float8"])
def test_a_live_model_is_filled_from_the_hub_where_its_donor_is_downloaded(models, tmp_path, kind):
    models(kind)
    with pytest.raises(OutputError, match=r"org/dpo@\w+ stays on the Hub(.|\n)*leave stream out"):
        load_model(expo.extrapolation(sft="org/sft", dpo="org/dpo", stream=True))
    streamed = expo.extrapolation(sft="org/sft", dpo="dpo", stream=True)
    there, here = (load_model(one).state_dict() for one in (streamed, expo.extrapolation(sft="sft", dpo="dpo")))
    assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_requantised_results_are_the_local_ones(models, tmp_path, capsys):
    models("float8")
    ours, theirs = (["--sft", f"{at}sft", "--dpo", f"{at}dpo", "--requantize", "-o"] for at in ("./", "org/"))
    assert command(capsys, "extrapolate", *ours, "local")[0] == 0
    code, _, err = command(capsys, "extrapolate", *theirs, "out", "--stream")
    assert code == 0, err
    assert files(tmp_path / "out") == files(tmp_path / "local")


def test_a_wrong_scale_on_the_hub_is_named_in_the_plan(models, tmp_path, capsys):
    write_float8(tmp_path / "sft", 0, "block")
    hub = models("float8")
    spec = open_checkpoint("dpo", stored=True).tensors["model.layers.0.mlp.down_proj.weight_scale_inv"]
    with open(tmp_path / "dpo" / spec.file, "r+b") as file:
        file.seek(spec.offset)
        file.write(b"\0\0\0\0")
    hub.add("org/bad", tmp_path / "dpo")
    code, _, err = command(capsys, "extrapolate", "--sft", "org/sft", "--dpo", "org/bad", "--stream", "-o", "out")
    assert code == 1 and "down_proj.weight_scale_inv[0] is 0" in err


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_reads_the_headers_of_every_folder(models, tmp_path, capsys, kind):
    models(kind)
    there, here = (json.loads(command(capsys, "inspect", name, "--json")[1]) for name in ("org/dpo", "dpo"))
    assert there["tensors"] == here["tensors"] and there["files"] == here["files"]
    assert not list((tmp_path / "home").rglob("*.safetensors"))


@pytest.mark.parametrize("stream", [False, True])
def test_a_shard_that_a_folders_index_lists_and_the_hub_lacks_is_named(models, tmp_path, stream):
    hub = models("diffusion")
    next((tmp_path / "dpo/unet").glob("*-00002-of-*")).unlink()
    hub.add("org/half", tmp_path / "dpo")
    with pytest.raises(MissingShard, match=r"org/half@(.|\n)*unet/diffusion_pytorch_model-00002-of-00002"):
        open_checkpoint("org/half", stream=stream)


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_serves_without_a_connection_if_it_holds_every_folder(models, tmp_path, monkeypatch, kind):
    from huggingface_hub import constants

    models(kind)
    online = open_checkpoint("org/dpo")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = open_checkpoint("org/dpo")
    assert offline.tensors == online.tensors and offline.source.revision == online.source.revision
    lost = next(file.path for name, file in online.files.items() if name.startswith(KINDS[kind][1][-1] + "/"))
    lost.unlink()
    with pytest.raises(HubNotCached, match="does not hold the whole of org/dpo"):
        open_checkpoint("org/dpo")


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_sub_folders_is_pushed_whole(models, tmp_path, capsys, kind):
    hub = models(kind)
    expo.extrapolate(sft="sft", dpo="dpo", output="local")
    for options in (["push", "local", "tester/pushed"], [*RUN, "-o", "out", "--push-to", "tester/beside"],
                    [*RUN, "--push-to", "tester/alone"]):  # fmt: skip
        code, _, err = command(capsys, *options)
        assert code == 0, err
    wanted = {name: len(content) for name, content in files(tmp_path / "local").items()}
    for name in ("pushed", "beside", "alone"):
        found = hub.repositories[f"tester/{name}"].head.files
        sizes = {path: blob.n_bytes for path, blob in found.items()}
        assert {path: n for path, n in sizes.items() if path in wanted} == wanted, name
        expo.extrapolate(sft=f"tester/{name}", dpo=f"tester/{name}", alpha=0, output=name)
        assert files(tmp_path / name) == files(tmp_path / "local")


RUN = ["extrapolate", "--sft", "sft", "--dpo", "dpo"]
