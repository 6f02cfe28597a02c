"""Experts, routers and shared experts are chosen by name; of a model only one tower, if that is asked for."""

import pytest
import torch
from architectures import LAYOUTS, loaded, same, save_both_layouts, tensors_of
from engine import command
from pico import write_checkpoint

import expo
from expo.errors import PlanError, RecipeError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Pairs of a text model, a vision-language model around it, and a mixture of experts."""
    home = tmp_path_factory.mktemp("towers")
    return {kind: save_both_layouts(home / kind, kind) for kind in ("qwen2", "qwen2_vl", "deepseek_v3")}


RECIPE = """
merge_method: extrapolate
base_model: {sft}
models: [{{model: {sft}}}, {{model: {dpo}}}]
layout: {layout}
parameters:
  alpha:
    - {{filter: .mlp.experts.1., value: 0.9}}
    - {{filter: shared_experts, value: 0}}
    - {{filter: mlp.gate., value: 0}}
    - {{filter: .mlp.experts., value: [0.1, 0.5]}}
    - {{value: 0.3}}
"""


def recipe_in(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("dpo_layout", LAYOUTS)
def test_parameters_by_expert_and_untouched_routers_and_shared_experts(saved, tmp_path, capsys, dpo_layout):
    home = saved["deepseek_v3"]
    sides = {"sft": home / "sft/module", "dpo": home / "dpo" / dpo_layout}
    recipe = recipe_in(tmp_path, RECIPE.format(**sides, layout="separate"))
    plan = expo.plan(expo.read_recipe(recipe).only)
    alphas = {job.name: job.parameters.get("alpha", 0.0) for job in plan.jobs}
    for name, alpha in alphas.items():
        wanted = (
            0.9 if ".mlp.experts.1." in name
            else 0.0 if "shared_experts" in name or ".mlp.gate." in name
            else 0.5 if ".mlp.experts." in name  # the last of the layers, by the name's first number
            else 0.3
        )  # fmt: skip
        assert alpha == pytest.approx(wanted), name
    assert command(capsys, "merge", recipe, "-o", tmp_path / "out")[0] == 0
    found, dpo = tensors_of(tmp_path / "out"), tensors_of(home / "dpo/original")
    for name, alpha in alphas.items():
        kept = torch.equal(found[name], dpo[name])
        assert kept if alpha == 0.0 else not kept or dpo[name].ndim == 1, name  # short ones may be rounded back
    loaded(tmp_path / "out")


def test_a_filter_for_one_of_stacked_experts_is_told_what_to_do(saved, tmp_path):
    home = saved["deepseek_v3"]
    text = RECIPE.format(sft=home / "sft/module", dpo=home / "dpo/module", layout="packed")
    plan = expo.plan(expo.read_recipe(recipe_in(tmp_path, text)).only)
    assert any(".mlp.experts.1." in w and "layout: separate" in w for w in plan.warnings), plan.warnings


@pytest.mark.parametrize("dpo_layout", LAYOUTS)
@pytest.mark.parametrize("sft", ["qwen2/sft/original", "qwen2_vl/sft/original", "qwen2_vl/sft/module"])
def test_the_language_tower_is_computed_and_the_rest_is_copied(saved, tmp_path, sft, dpo_layout, capsys):
    kind, _, rest = sft.partition("/")
    dpo, out = saved["qwen2_vl"] / "dpo" / dpo_layout, tmp_path / "out"
    options = ["--sft", saved[kind] / rest, "--dpo", dpo, "--tower", "language_model", "-o", out]
    assert command(capsys, "extrapolate", *options)[0] == 0
    found, given = tensors_of(out), tensors_of(dpo)
    assert found.keys() == given.keys()
    assert {name for name in given if torch.equal(found[name], given[name])} >= {n for n in given if "visual" in n}
    base = {name.split("layers.")[-1]: t for name, t in tensors_of(saved[kind] / rest).items() if "visual" not in name}
    for name in (name for name in given if "visual" not in name and "layers." in name):
        exact = given[name].double() + 0.3 * (given[name].double() - base[name.split("layers.")[-1]].double())
        assert (found[name] != exact.to(torch.bfloat16)).float().mean() < 0.01, name
    loaded(out)


def test_without_the_option_a_text_model_does_not_fit_around_it(saved):
    with pytest.raises(PlanError, match="only in dpo"):
        expo.plan(expo.extrapolation(sft=saved["qwen2"] / "sft/original", dpo=saved["qwen2_vl"] / "dpo/module"))


def towers(folder, *prefixes):
    names = [f"{prefix}layers.0.weight" for prefix in prefixes] + ["vision.patch.weight"]
    return write_checkpoint(folder, {name: torch.ones(2) for name in names}, config={})


@pytest.mark.parametrize(
    ("sft", "dpo", "tower", "words"),
    [
        (["a.language_model."], ["a.language_model.", "b.language_model."], "language_model",
         ("the output has several such towers", "a.language_model, b.language_model")),
        (["a.language_model.", "b.language_model."], ["x.language_model."], "language_model",
         ("sft: sft has several such towers",)),
        (["a.language_model."], ["a.language_model."], "language",
         ("no tower 'language'", "There are: a, language_model")),
        (["a.language_model."], ["a.language_model.encoder."], "language_model",
         ("only in sft", "a.language_model.layers.0.weight")),
    ],
    ids=["two in the output", "two in the input", "none", "another inside"],
)  # fmt: skip
def test_towers_that_cannot_be_told_apart_or_are_not_there_are_refused(tmp_path, unreadable, sft, dpo, tower, words):
    recipe = expo.extrapolation(sft=towers(tmp_path / "sft", *sft), dpo=towers(tmp_path / "dpo", *dpo), tower=tower)
    with pytest.raises(PlanError) as caught:
        expo.plan(recipe)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_tower_named_whole_is_one_of_two(tmp_path):
    sft, dpo = (towers(tmp_path / name, "a.language_model.", "b.language_model.") for name in ("sft", "dpo"))
    plan = expo.plan(expo.extrapolation(sft=sft, dpo=dpo, tower="b.language_model"))
    assert [job.name for job in plan.jobs if job.method] == ["b.language_model.layers.0.weight"]
    with pytest.raises(RecipeError, match="tower must be a component"):
        expo.extrapolation(sft="a", dpo="b", tower=" . ")


def test_towers_in_the_same_layout_give_the_same_bits_with_and_without_the_option(saved, tmp_path):
    home = saved["qwen2_vl"]
    outs = []
    for name, settings in (("all", {}), ("tower", {"tower": "language_model"})):
        pair = {"sft": home / "sft/module", "dpo": home / "dpo/module"}
        expo.extrapolate(**pair, output=tmp_path / name, **settings)
        outs.append({n: t for n, t in tensors_of(tmp_path / name).items() if "visual" not in n})
    assert same(*outs)
