"""A folder of a pipeline is read, matched and written as it would be alone: its own config, heads and formats."""

import json
import shutil

import pytest
import torch
from architectures import same, save_both_layouts, tensors_of
from float8 import BLOCKS, write_float8
from pico import LLAMA, llama_tensors, nudged, write_checkpoint

import expo
from expo.errors import OutputError, PlanError
from expo.stream import load_model

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def pipeline(folder, **parts):
    """A model made of folders, each a copy of a checkpoint."""
    for name, path in parts.items():
        shutil.copytree(path, folder / name)
    listed = {"_class_name": "Pipeline"} | {name: ["transformers", "Some"] for name in parts}
    (folder / "model_index.json").write_text(json.dumps(listed))
    return folder


def llama(folder, tensors, *, tied, head=None):
    """A checkpoint that stores its head, or only the embedding."""
    tensors = {name: tensor for name, tensor in tensors.items() if name != HEAD}
    if head is not None:
        tensors[HEAD] = head
    return write_checkpoint(folder, tensors, config=LLAMA | {"tie_word_embeddings": tied})


def made(tmp_path, *, tied=True, sft_head=None, dpo_head=None):
    """(sft, dpo) of two folders: `a`, whose heads are as asked for, beside `b`, another model of the same sizes."""
    sides = {}
    for role in ("sft", "dpo"):
        a, b = llama_tensors(dtype=torch.bfloat16, seed=1), llama_tensors(dtype=torch.bfloat16, seed=2)
        if role == "dpo":
            a, b = nudged(a), nudged(b, seed=3)
        head = (sft_head if role == "sft" else dpo_head) or (lambda _: None)
        own = llama(tmp_path / "alone/a" / role, a, tied=tied, head=head(a[EMBEDDING]))
        # Fewer dots in its name: were folders one table, this would be everyone's embedding.
        other = {name.removeprefix("model."): tensor for name, tensor in b.items()}
        beside = write_checkpoint(tmp_path / "alone/b" / role, other, config={"_class_name": "B"})
        sides[role] = pipeline(tmp_path / role, a=own, b=beside)
    return sides["sft"], sides["dpo"]


def of_both(tmp_path, **settings):
    """The result's folder `a`, and the same extrapolation of that folder alone."""
    whole, one = tmp_path / "out", tmp_path / "one"
    expo.extrapolate(sft=tmp_path / "sft", dpo=tmp_path / "dpo", output=whole, overwrite=True, **settings)
    sides = {role: tmp_path / "alone/a" / role for role in ("sft", "dpo")}
    expo.extrapolate(**sides, output=one, overwrite=True, **settings)
    return tensors_of(whole / "a"), tensors_of(one)


@pytest.mark.parametrize("stored", ["sft_head", "dpo_head"])
def test_a_tied_head_that_one_side_stores_goes_with_its_own_folders_embedding(tmp_path, stored):
    made(tmp_path, **{stored: torch.clone})
    found, alone = of_both(tmp_path)
    assert same(found, alone)
    assert (HEAD in found) == (stored == "dpo_head")
    assert HEAD not in found or torch.equal(found[HEAD], found[EMBEDDING])


def test_stochastic_rounding_keeps_a_folders_tied_tensors_equal(tmp_path):
    made(tmp_path, sft_head=torch.clone, dpo_head=torch.clone)
    expo.extrapolate(sft=tmp_path / "sft", dpo=tmp_path / "dpo", output=tmp_path / "out", rounding="stochastic", seed=7)
    found = tensors_of(tmp_path / "out/a")
    assert torch.equal(found[HEAD], found[EMBEDDING])


def test_a_tie_that_a_folder_breaks_is_refused(tmp_path):
    sft, dpo = made(tmp_path, sft_head=lambda embedding: embedding + 1, dpo_head=torch.clone)
    with pytest.raises(PlanError, match=r"a/lm_head\.weight and a/model\.embed_tokens\.weight are tied"):
        expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out")


def test_an_untied_head_that_only_one_side_has_is_not_taken_for_tied(tmp_path):
    sft, dpo = made(tmp_path, tied=False, dpo_head=torch.clone)
    with pytest.raises(PlanError, match=r"1 tensor only in dpo .*\n +a/lm_head"):
        expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out")


@pytest.mark.parametrize("requantize", [False, True])
@pytest.mark.parametrize("kind", ["odd", "uneven", "block"])
def test_float8_in_a_folder_is_read_and_written_as_its_own_config_says(tmp_path, kind, requantize, monkeypatch):
    # As many scales as for blocks of 128 x 128, for other elements.
    monkeypatch.setitem(BLOCKS, "odd", (120, 120))
    stated = {"scale_fmt": "ue8m0"} if kind == "block" else {}
    for seed, role in enumerate(("sft", "dpo")):
        write_float8(tmp_path / "alone/a" / role, seed, kind, **stated)
        plain = write_checkpoint(tmp_path / "alone/b" / role, llama_tensors(seed=seed), config={"_class_name": "B"})
        pipeline(tmp_path / role, a=tmp_path / "alone/a" / role, b=plain)
    found, alone = of_both(tmp_path, requantize=requantize)
    assert same(found, alone)
    assert requantize == any(name.endswith("_scale_inv") for name in found)
    configs = [json.loads((tmp_path / out / "config.json").read_text()) for out in ("out/a", "one")]
    assert configs[0] == configs[1]


def test_layouts_of_a_folder_are_found_after_it_is_renamed_and_the_rename_is_offered(tmp_path):
    home = save_both_layouts(tmp_path / "alone", "mixtral")
    sft = pipeline(tmp_path / "sft", old=home / "sft/original")
    dpo = pipeline(tmp_path / "dpo", new=home / "dpo/module")
    with pytest.raises(PlanError, match="folders of different names: --rename 'old/=>new/'"):
        expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out")
    expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out", rename=(("old/", "new/"),))
    expo.extrapolate(sft=home / "sft/module", dpo=home / "dpo/module", output=tmp_path / "one")
    assert same(tensors_of(tmp_path / "out/new"), tensors_of(tmp_path / "one"))


@pytest.mark.parametrize("asked", [{"layout": "packed"}, {"layout": "separate"}, {"tower": "model"}])
def test_what_needs_one_config_is_refused_for_models_of_several(tmp_path, asked):
    sft, dpo = made(tmp_path)
    with pytest.raises(PlanError) as error:
        expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out", **asked)
    assert str(error.value).count("is made of sub-folders, each a model of its own") == 2
    assert str(dpo / "a") in str(error.value)


def test_a_live_model_of_several_folders_is_refused(tmp_path):
    sft, dpo = made(tmp_path)
    with pytest.raises(OutputError, match="is made of sub-folders"):
        load_model(expo.extrapolation(sft=sft, dpo=dpo))
