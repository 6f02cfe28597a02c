"""The parameters of tensors: a mistake is said once, with the part of the recipe that it is about."""

import pytest
from pico import llama_tensors, nudged, write_checkpoint

import expo
from expo.errors import PlanError
from expo.recipe import Module, Recipe, Slice, Source


@pytest.fixture
def pair(tmp_path):
    tensors = llama_tensors()
    write_checkpoint(tmp_path / "x", tensors)
    write_checkpoint(tmp_path / "y", nudged(tensors))
    return {name: str(tmp_path / name) for name in "xy"}


def recipe(pair, weight, own=None, method="linear"):
    sources = (Source("x", None, {"weight": own} if own else {}), Source("y"))
    return Recipe(method, pair, {"weight": weight}, modules=(Module((Slice(sources),)),))


def problems(wrong):
    with pytest.raises(PlanError) as caught:
        expo.plan(wrong)
    return caught.value.problems


def test_tensors_that_no_filter_takes_are_said_once(pair):
    n = sum(".mlp." not in name for name in llama_tensors())
    found = problems(recipe(pair, [{"filter": "mlp", "value": 1.0}]))
    assert len(found) == 1 and found[0].startswith(
        f"no filter of weight takes {n} tensors, such as lm_head.weight: add"
    )
    assert found[0].where == ("parameters", "weight")
    rows = [{"filter": "layers", "value": 1.0}, {"filter": "embed", "value": 1.0}, {"filter": "lm_head", "value": 1.0}]
    assert problems(recipe(pair, rows)) == [
        "model.norm.weight: no filter of weight takes it. Add a last row without a filter."
    ]


def test_what_a_method_finds_wrong_is_said_once_for_all_tensors(pair):
    n = len(llama_tensors())
    found = problems(recipe(pair, 1.0, own=-1.0))
    assert len(found) == 1 and f"(and {n - 1} more tensors): the weights sum to zero" in found[0]
    assert found[0].where == ("modules", 0, "slices", 0, "sources", 0, "parameters", "weight")


def test_a_filter_that_takes_no_tensor_is_a_warning_with_the_nearest_name(pair):
    rows = [{"filter": "self_atn", "value": 1}, {"filter": "re:mpl$", "value": 1}, {"filter": "mlp", "value": 1}]
    found = expo.plan(recipe(pair, 0.5, own=[*rows, {"filter": "*", "value": 2}, {"value": 1}])).warnings
    assert found == (
        "parameters.weight of x: no tensor matches the filter 'self_atn'. Did you mean 'self_attn'?",
        "parameters.weight of x: no tensor matches the filter 're:mpl$'",
    )
    assert found[1].where == ("modules", 0, "slices", 0, "sources", 0, "parameters", "weight", 1)


def test_a_module_s_filter_must_match_inside_of_it(pair):
    inner = Module((Slice((Source("x"), Source("y"))),), "layers", {"weight": [{"filter": "norm", "value": 1}]})
    rows = [{"filter": "norm.weight", "value": 1}, {"filter": "layers.0", "value": 1}, {"value": 1}]
    outer = [Module((Slice((Source("x"), Source("y"))),), n, {"weight": rows}) for n in ("norm", "embed_tokens")]
    head = Module((Slice((Source("x"), Source("y"))),), "lm_head")
    found = expo.plan(Recipe("linear", pair, {"weight": 1.0}, modules=(inner, *outer, head))).warnings
    assert [warning.where[:2] for warning in found] == [("modules", 1), ("modules", 2), ("modules", 2)]
