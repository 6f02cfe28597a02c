"""Names that differ by a prefix are recognised, and the rule that is suggested works; a recipe holds what was asked."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pico import LLAMA, llama_tensors, nudged, write_checkpoint

import expo
import expo.errors
from expo.errors import PlanError, RecipeError
from expo.planning.complaints import suggested_rename
from expo.recipe import Recipe, parse_rename, parse_size

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# --- renames ---------------------------------------------------------------------------------------------------------

NAMES = ["model.embed_tokens.weight", "model.layers.0.q.weight", "model.layers.1.q.weight", "model.norm.weight"]


def renamed(name, rule):
    old, new = parse_rename(rule)
    return new + name[len(old) :] if name.startswith(old) else name


@pytest.mark.parametrize(
    "extra, missing, rule",
    [
        ([f"language_model.{name}" for name in NAMES], NAMES, "language_model.=>"),
        (NAMES, [f"language_model.{name}" for name in NAMES], "=>language_model."),
        (NAMES, [f"model.language_{name}" for name in NAMES], "model.=>model.language_model."),
        ([n.replace("model.", "transformer.") for n in NAMES], NAMES, "transformer.=>model."),
        (["module.w"], ["w"], "module.=>"),
        (["w"], ["module.w"], "=>module."),
        (["a.weight"], ["b.weight"], "a.=>b."),
    ],
)
def test_a_differing_prefix_is_recognised(extra, missing, rule):
    found = suggested_rename(missing, extra)
    assert found == rule or {renamed(name, found) for name in extra} == set(missing)


@pytest.mark.parametrize(
    "extra, missing",
    [([], ["a"]), (["a"], []), (["x.a", "y.b"], ["z.a", "w.b"]), (["a"], ["b"]), (["x.a", "x.c"], ["z.a"])],
)
def test_no_rule_is_suggested_where_none_explains_the_names(extra, missing):
    assert suggested_rename(missing, extra) is None


PART = st.sampled_from(["model", "layers", "0", "1", "weight", "w", "q"])
NAME = st.lists(PART, min_size=1, max_size=4).map(".".join)


@QUICK
@given(st.sets(NAME, min_size=1, max_size=5), st.sets(NAME, min_size=1, max_size=5))
def test_a_suggested_rule_turns_every_extra_name_into_a_missing_one(extra, missing):
    extra, missing = sorted(extra - missing), sorted(missing - extra)
    rule = suggested_rename(missing, extra)
    if rule:
        assert {renamed(name, rule) for name in extra} <= set(missing)


@pytest.mark.parametrize(
    "other",
    [
        lambda name: f"language_model.{name}",
        lambda name: name.removeprefix("model."),
        lambda name: name.replace("model.layers", "model.text.layers"),
        lambda name: name if name == "lm_head.weight" else name.removeprefix("model."),
        lambda name: name.replace("model.layers.1.", "model.blocks.1."),
    ],
    ids=["all", "model.", "inner", "all but one", "one layer"],
)
def test_the_rule_that_a_refusal_suggests_makes_the_pair_fit(tmp_path, other):
    tensors = llama_tensors(dtype=torch.bfloat16)
    config = {key: value for key, value in LLAMA.items() if key != "model_type"}  # nothing but the rule helps
    dpo = write_checkpoint(tmp_path / "dpo", nudged(tensors), config=config)
    sft = write_checkpoint(tmp_path / "sft", {other(name): t for name, t in tensors.items()}, config=config)
    with pytest.raises(PlanError) as caught:
        expo.plan(expo.extrapolation(sft=sft, dpo=dpo))
    text = str(caught.value)
    assert "--rename '" in text
    rule = text.split("--rename '")[1].split("'")[0]
    plan = expo.plan(expo.extrapolation(sft=sft, dpo=dpo, rename=(parse_rename(rule),)))
    assert all(job.method for job in plan.jobs) and not plan.left_out and len(plan.jobs) == len(tensors)


def test_the_first_rule_that_fits_a_name_is_used_and_collisions_are_refused(tmp_path):
    one, two = torch.ones(2), torch.zeros(2)
    sft = write_checkpoint(tmp_path / "sft", {"x.a": one, "x.y.b": two})
    dpo = write_checkpoint(tmp_path / "dpo", {"m.a": one, "n.b": two})
    for rules in ((("x.y.", "n."), ("x.", "m.")),):
        plan = expo.plan(expo.extrapolation(sft=sft, dpo=dpo, rename=rules))
        assert [job.operands[0].spec.name for job in plan.jobs] == ["x.a", "x.y.b"]
    clash = write_checkpoint(tmp_path / "clash", {"x.a": one, "y.a": two})
    with pytest.raises(PlanError, match=r"one name: x\.a and y\.a both become a"):
        expo.plan(expo.extrapolation(sft=clash, dpo=dpo, rename=(("x.", ""), ("y.", ""))))


@pytest.mark.parametrize("rule", ["", "a", "a=b", "=>", "a.=>a."])
def test_a_rule_that_renames_nothing_is_refused(rule):
    with pytest.raises(RecipeError, match="prefix=>prefix"):
        parse_rename(rule)


# --- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, n",
    [("5GB", 5 * 10**9), ("500 MiB", 500 * 2**20), ("1.5k", 1500), ("123", 123), ("2tib", 2 * 2**40), ("7B", 7)],
)
def test_sizes_are_read_as_people_write_them(text, n):
    assert parse_size(text) == n


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "5 XB", "0", "nan", "1.2.3", "5i"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(RecipeError, match="not a size"):
        parse_size(text)


def test_a_recipe_survives_its_own_record():
    recipe = expo.extrapolation(
        sft="a", dpo="b", alpha=0.7, dtype="float16", rounding="stochastic", seed=5, shard_size=10, on_mismatch="skip",
        vocabulary="keep-base", tied="keep", rename=(("a.", "b."),), saturate=True,
    )  # fmt: skip
    record = json.loads(json.dumps(recipe.record()))
    assert Recipe.from_record(record, recipe.models) == recipe
    assert "models" not in record
    assert recipe.with_parameters(alpha=0.1).parameters["alpha"] == 0.1 and recipe.parameters["alpha"] == 0.7


@pytest.mark.parametrize(
    "setting, value, word",
    [("rounding", "nearst", "'nearest'"), ("dtype", "bfloat61", "'bfloat16'"), ("on_mismatch", "ignore", "error"),
     ("vocabulary", "common", "common-rows"), ("tied", "drop", "keep"), ("arithmetic", "fast", "reference"),
     ("dtype", "int8", "float32"), ("dtype", "F4", "float32")],
)  # fmt: skip
def test_a_setting_that_does_not_exist_is_refused_with_those_that_do(setting, value, word):
    with pytest.raises(RecipeError, match=word):
        expo.extrapolation(sft="a", dpo="b", **{setting: value})


def test_a_recipe_names_the_input_that_it_lacks():
    with pytest.raises(RecipeError, match="needs a base model"):
        Recipe("extrapolate", {"base": "a", "aligned": "b"})
    with pytest.raises(RecipeError, match="at least 1 model beside its base; the recipe gives 0"):
        Recipe("extrapolate", {"base": "a"}, base="base")
    with pytest.raises(RecipeError, match="reference always writes bfloat16"):
        expo.extrapolation(sft="a", dpo="b", arithmetic="reference", dtype="float32")
