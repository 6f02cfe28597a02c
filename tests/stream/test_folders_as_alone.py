"""A folder of a pipeline is read, matched and written as it would be alone: its own config, heads and formats."""

import json
import shutil

import pytest
import torch
from architectures import same, save_both_layouts, tensors_of
from float8 import BLOCKS, write_float8
from pico import LLAMA, llama_tensors, nudged, write_checkpoint
from safetensors.torch import save_file

import expo
from expo.errors import OutputError, PlanError
from expo.lora.extract import extract_adapter
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


@pytest.mark.parametrize("requantize", [False, True])
def test_what_stands_beside_a_folders_config_counts_for_that_folder(tmp_path, requantize, monkeypatch):
    """Blocks and the form of scales that modelopt's file states, which an output without float8 no longer has."""
    monkeypatch.setitem(BLOCKS, "odd", (120, 120))
    for seed, role in enumerate(("sft", "dpo")):
        folder = tmp_path / "alone/a" / role
        write_float8(folder, seed, "odd")
        config = json.loads((folder / "config.json").read_text())
        stated = config.pop("quantization_config") | {"scale_fmt": "ue8m0"}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": stated}))
        pipeline(tmp_path / role, a=folder)
    found, alone = of_both(tmp_path, requantize=requantize)
    assert same(found, alone)
    for out in ("out/a", "one"):
        assert (tmp_path / out / "hf_quant_config.json").exists() == requantize


def test_a_folder_of_a_format_that_cannot_be_read_is_named_alone(tmp_path):
    for seed, role in enumerate(("sft", "dpo")):
        write_float8(tmp_path / "alone/a" / role, seed, "block")
        packed = LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
        other = write_checkpoint(
            tmp_path / "alone/b" / role, {"x.qweight": torch.ones(2, dtype=torch.int32)}, config=packed
        )
        pipeline(tmp_path / role, a=tmp_path / "alone/a" / role, b=other)
    with pytest.raises(PlanError) as error:
        expo.extrapolate(sft=tmp_path / "sft", dpo=tmp_path / "dpo", output=tmp_path / "out")
    assert str(error.value).count("GPTQ, 4 bits in b") == 2 and "only in" not in str(error.value)


def test_stages_over_float8_and_layouts_in_folders_are_planned_as_they_run(tmp_path):
    home = save_both_layouts(tmp_path / "alone", "mixtral")
    for seed, (name, role, layout) in enumerate(
        (("x", "sft", "original"), ("y", "dpo", "module"), ("z", "sft", "module"))
    ):
        write_float8(tmp_path / "float8" / name, seed, "uneven")
        pipeline(tmp_path / name, a=tmp_path / "float8" / name, b=home / role / layout)
    recipe = """
name: mid
merge_method: extrapolate
base_model: {x}
models: [{{model: {x}}}, {{model: {y}}}]
parameters: {{alpha: 0.5}}
---
name: fin
merge_method: linear
models: [{{model: mid, parameters: {{weight: 0.5}}}}, {{model: {z}, parameters: {{weight: 0.5}}}}]
"""
    for where, folder in (("whole", ""), ("one", "/a"), ("two", "/b")):
        sides = {name: f"{tmp_path / name}{folder}" for name in "xyz"}
        (tmp_path / f"{where}.yaml").write_text(recipe.format(**sides))
        expo.merge(tmp_path / f"{where}.yaml", tmp_path / where)
    assert same(tensors_of(tmp_path / "whole/a"), tensors_of(tmp_path / "one"))
    assert same(tensors_of(tmp_path / "whole/b"), tensors_of(tmp_path / "two"))


def test_extra_tensors_go_into_their_own_folder_and_a_folder_of_one_side_is_left_out(tmp_path):
    sft, dpo = made(tmp_path)
    shutil.copytree(sft / "b", sft / "c")
    (sft / "model_index.json").write_text(json.dumps({name: ["transformers", "Some"] for name in "abc"}))
    for path in (sft / "a", tmp_path / "alone/a/sft"):
        save_file(tensors_of(path) | {"extra.weight": torch.ones(3)}, path / "model.safetensors", {"format": "pt"})
    found, alone = of_both(tmp_path, on_mismatch="copy")
    assert same(found, alone) and "extra.weight" in found
    assert tensors_of(tmp_path / "out/b").keys() == tensors_of(dpo / "b").keys()
    assert not (tmp_path / "out/c").exists()
    warnings = expo.plan(expo.extrapolation(sft=sft, dpo=dpo, on_mismatch="copy")).warnings
    assert "only sft has the folder c, whose tensors are left out" in warnings


def test_rows_of_a_folders_vocabulary_go_by_its_own_tokenizer(tmp_path):
    made(tmp_path)
    for role, words in (("sft", "abcd"), ("dpo", "badc")):
        for path in (tmp_path / role / "a", tmp_path / "alone/a" / role):
            tensors = tensors_of(path)
            if role == "sft":
                tensors[EMBEDDING] = tensors[EMBEDDING][:60].clone()
            save_file(tensors, path / "model.safetensors", {"format": "pt"})
            n = len(tensors[EMBEDDING])
            vocabulary = {word: row for row, word in enumerate(words)} | {f"t{row}": row for row in range(4, n)}
            (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
            (path / "config.json").write_text(json.dumps(LLAMA | {"tie_word_embeddings": True, "vocab_size": n}))
    found, alone = of_both(tmp_path, vocabulary="common-rows")
    assert same(found, alone)
    warnings = expo.plan(
        expo.extrapolation(sft=tmp_path / "sft", dpo=tmp_path / "dpo", vocabulary="common-rows")
    ).warnings
    assert any("the tokenizers disagree" in text for text in warnings)


def test_names_with_slashes_are_no_folders_where_a_model_has_none(tmp_path):
    """A tied head that one side lacks is read from the embedding, whatever that is called."""
    tensors = {"x/y.embed_tokens.weight": torch.randn(8, 4), "other.weight": torch.randn(4, 4)}
    config = {"tie_word_embeddings": True}
    write_checkpoint(tmp_path / "sft", tensors, config=config)
    head = {"lm_head.weight": tensors["x/y.embed_tokens.weight"].clone()}
    write_checkpoint(tmp_path / "dpo", tensors | head, config=config)
    plan = expo.plan(expo.extrapolation(sft=tmp_path / "sft", dpo=tmp_path / "dpo"))
    assert all(job.method for job in plan.jobs) and len(plan.jobs) == 3


@pytest.mark.parametrize("names", [("enc/a.weight", "dec/b.bias"), ("q", "dec/b.bias")])
def test_no_rename_is_offered_where_no_folder_has_another_name(tmp_path, names):
    for role, name in zip(("sft", "dpo"), names, strict=True):
        write_checkpoint(tmp_path / role, {name: torch.ones(2), "same": torch.ones(2)}, config={})
    with pytest.raises(PlanError) as error:
        expo.extrapolate(sft=tmp_path / "sft", dpo=tmp_path / "dpo", output=tmp_path / "out")
    assert "--rename" not in str(error.value) and "--on-mismatch" in str(error.value)


def test_slices_and_adapters_of_models_of_several_folders_are_refused(tmp_path):
    sft, dpo = made(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    sources = [{"model": str(side), "layer_range": [0, 1]} for side in (sft, dpo)]
    recipe.write_text(
        json.dumps({"merge_method": "linear", "slices": [{"sources": sources}], "parameters": {"weight": 1}})
    )
    with pytest.raises(PlanError, match=r"slices: .*is made of sub-folders"):
        expo.merge(recipe, tmp_path / "out")
    with pytest.raises(PlanError, match="is made of sub-folders"):
        extract_adapter(sft, dpo, tmp_path / "adapter", rank=2)


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
