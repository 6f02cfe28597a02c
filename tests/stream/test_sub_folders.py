"""Models made of sub-folders come out folder by folder, each with its own names, index, config and side files."""

import json
import shutil

import pytest
import torch
from architectures import same, save_both_layouts, tensors_of
from engine import command
from pico import write_checkpoint
from safetensors.torch import load_file, save_file
from sub_folders import KINDS, diffusion_pipeline, sentence_transformer

import expo
from expo.analysis.verify import verify
from expo.checkpoint import open_checkpoint
from expo.errors import HeaderError, NotACheckpoint, PlanError


@pytest.mark.parametrize("kind", KINDS)
def test_each_folder_is_what_it_would_be_alone(tmp_path, kind, capsys):
    make, folders = KINDS[kind]
    sft, dpo = make(tmp_path / "sft", 0), make(tmp_path / "dpo", 1)
    out = tmp_path / "out"
    assert command(capsys, "extrapolate", "--sft", sft, "--dpo", dpo, "-o", out)[0] == 0
    for folder in folders:
        expo.extrapolate(sft=alone(sft, folder, tmp_path), dpo=alone(dpo, folder, tmp_path), output=tmp_path / "one",
                         overwrite=True)  # fmt: skip
        wanted, found = tensors_of(tmp_path / "one"), tensors_of(out / folder)
        assert wanted.keys() == found.keys() and all(torch.equal(wanted[name], found[name]) for name in wanted)
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names == {str(path.relative_to(dpo)) for path in dpo.rglob("*") if path.is_file()} | {
        "README.md",
        "expo.json",
    }
    for name in names:
        if not name.endswith((".safetensors", "expo.json", "README.md")):
            assert json.loads((out / name).read_text()) == json.loads((dpo / name).read_text()), name
    assert not verify(out, recompute=1.0, inputs={"sft": str(sft), "dpo": str(dpo)}).problems
    assert command(capsys, "extrapolate", "--sft", sft, "--dpo", dpo, "-o", out, "--overwrite")[0] == 0


def alone(model, folder, tmp_path):
    """One folder's weights without the list that makes it part of a model."""
    to = tmp_path / "alone" / model.name
    for path in [*to.glob("*")]:
        path.unlink()
    return write_checkpoint(to, tensors_of(model / folder), config={})


@pytest.mark.parametrize("kind", ["mixtral", "deepseek_v3", "llava"])
@pytest.mark.parametrize(("sft", "dpo"), [("original", "module"), ("module", "original")])
def test_each_folders_names_and_layout_are_reconciled_by_its_own_config(tmp_path, kind, sft, dpo, capsys):
    home = save_both_layouts(tmp_path / "alone", kind)
    for role, layout in (("sft", sft), ("dpo", dpo)):
        made = diffusion_pipeline(tmp_path / role, role == "dpo")
        shutil.copytree(home / role / layout, made / "text_encoder")
        parts = json.loads((made / "model_index.json").read_text()) | {"text_encoder": ["transformers", "Some"]}
        (made / "model_index.json").write_text(json.dumps(parts))
    wanted, out = tmp_path / "wanted", tmp_path / "out"
    expo.extrapolate(sft=home / "sft" / sft, dpo=home / "dpo" / dpo, output=wanted)
    status, _, said = command(capsys, "extrapolate", "--sft", tmp_path / "sft", "--dpo", tmp_path / "dpo", "-o", out)
    assert status == 0 and "text_encoder: sft is in another layout" in said
    assert same(tensors_of(out / "text_encoder"), tensors_of(wanted))
    assert tensors_of(out / "unet").keys() == tensors_of(tmp_path / "dpo" / "unet").keys()
    assert not verify(out, recompute=1.0, inputs={"sft": str(tmp_path / "sft"), "dpo": str(tmp_path / "dpo")}).problems


def test_names_that_no_mapping_of_a_folder_covers_are_listed_with_the_folders_reason(tmp_path):
    sft, dpo = (diffusion_pipeline(tmp_path / role, seed) for seed, role in enumerate(("sft", "dpo")))
    file = sft / "vae/diffusion_pytorch_model.safetensors"
    save_file({f"other.{name}": tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(PlanError) as error:
        expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out")
    assert "vae/conv_in.weight" in str(error.value) and "vae/other.conv_in.weight" in str(error.value)
    assert "vae: dpo (vae): its config.json names no model_type" in str(error.value)


def test_one_recipe_merges_all_folders(tmp_path, capsys):
    a, b = (sentence_transformer(tmp_path / name, seed) for seed, name in enumerate("ab"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"merge_method: linear\nmodels: [{{model: {a}, parameters: {{weight: 1}}}}, "
        f"{{model: {b}, parameters: {{weight: 1}}}}]\n"
    )
    assert command(capsys, "merge", recipe, "-o", tmp_path / "out")[0] == 0
    for folder in ("", "2_Dense"):
        one, two, found = (tensors_of(tmp_path / name / folder) for name in ("a", "b", "out"))
        assert all(torch.equal(found[n], ((one[n].float() + two[n].float()) / 2).bfloat16()) for n in one)


def test_another_type_is_stated_in_each_folders_config(tmp_path):
    sft, dpo = (sentence_transformer(tmp_path / name, seed) for seed, name in enumerate(("sft", "dpo")))
    expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out", dtype="float32")
    assert json.loads((tmp_path / "out/2_Dense/config.json").read_text())["dtype"] == "float32"
    assert {t.dtype for t in tensors_of(tmp_path / "out/2_Dense").values()} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sub_folder_without_a_config_is_refused(tmp_path, kind):
    make, folders = KINDS[kind]
    model = make(tmp_path / "m", 0)
    (model / folders[-1] / "config.json").unlink()
    with pytest.raises(NotACheckpoint, match=rf"m/{folders[-1]}: holds weights and no config\.json"):
        open_checkpoint(model)


def test_a_folder_that_only_one_side_has_is_named(tmp_path, unreadable):
    sft, dpo = (diffusion_pipeline(tmp_path / name, seed) for seed, name in enumerate(("sft", "dpo")))
    for path in (sft / "vae").iterdir():
        path.unlink()
    with pytest.raises(PlanError, match=r"only in dpo(.|\n)*vae/conv_in\.weight"):
        expo.plan(expo.extrapolation(sft=sft, dpo=dpo))
    with pytest.raises(PlanError, match="keeps its files"):
        expo.plan(expo.extrapolation(sft=dpo, dpo=dpo, shard_size=100))


def test_variants_of_a_part_do_not_stand_in_the_way(tmp_path):
    model = diffusion_pipeline(tmp_path / "m", 0)
    weights = model / "vae/diffusion_pytorch_model.safetensors"
    weights.with_name("diffusion_pytorch_model.fp16.safetensors").write_bytes(weights.read_bytes())
    assert {name for name in open_checkpoint(model).files if name.startswith("vae")} == {
        "vae/diffusion_pytorch_model.safetensors"
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"unet": [1]', "is not JSON"),
        ("3", "neither a list of modules nor an object"),
        ('[{"path": "../dpo"}]', "'../dpo' is no folder right below it"),
        ('[{"path": "/etc"}]', "'/etc' is no folder right below it"),
        ('{"a": [1, 2], "a": [3, 4]}', "appears twice"),
    ],
)
def test_a_list_of_sub_folders_that_no_one_should_trust_is_refused(tmp_path, content, words):
    model = sentence_transformer(tmp_path / "m", 0)
    (model / "modules.json").write_text(content)
    with pytest.raises(HeaderError, match=words):
        open_checkpoint(model)


def test_weights_in_a_folder_that_no_list_names_are_told_of(tmp_path, capsys):
    sft, dpo = (diffusion_pipeline(tmp_path / name, seed) for seed, name in enumerate(("sft", "dpo")))
    listed = json.loads((dpo / "model_index.json").read_text()) | {"vae": [None, None]}
    (dpo / "model_index.json").write_text(json.dumps(listed))
    (sft / "model_index.json").write_text(json.dumps(listed))
    code, _, err = command(capsys, "extrapolate", "--sft", sft, "--dpo", dpo, "-o", tmp_path / "out")
    assert code == 0 and "dpo: model_index.json does not list vae, whose weights are not written." in err
    assert {path.name for path in (tmp_path / "out/vae").iterdir()} == {"config.json"}
