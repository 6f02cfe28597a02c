"""lines: what a method adds grows linearly with depth, by hand on a pico Llama of three layers."""

import pytest
import torch
from merging import merged, recipe_for
from pico import LLAMA, llama_tensors, nudged

from expo.errors import RecipeError
from expo.methods import find_method
from expo.recipe import read_recipe
from expo.recipe.presets import lines


@pytest.mark.parametrize("name", ["task_arithmetic", "extrapolate", "ties"])
def test_the_scale_is_alpha_at_the_first_layer_and_alpha_plus_beta_at_the_last(tmp_path, name):
    method = find_method(name)
    base = llama_tensors(config={**LLAMA, "num_hidden_layers": 3})
    model = nudged(base)
    settings = lines(method, {"alpha": 0.25, "beta": 0.5}, 2.0)
    got = merged(recipe_for(tmp_path, name, [model], base=base, each={"weight": (1.0,)}, **settings))
    for key, tensor in base.items():
        layer = next((int(part) for part in key.split(".") if part.isdigit()), 0 if "embed" in key else 2)
        scale = 2.0 * (0.25 + 0.5 * layer / 2) + (name == "extrapolate")
        assert torch.allclose(got[key], tensor + scale * (model[key] - tensor), rtol=1e-6, atol=1e-7), key


def test_without_a_number_of_its_own_the_default_is_scaled():
    ((name, rows),) = lines(find_method("extrapolate"), {"alpha": 1, "beta": 1}).items()
    assert name == "alpha" and rows[1] == {"value": [0.3, 0.6]}


@pytest.mark.parametrize(
    ("method", "preset", "given", "words"),
    [
        ("slerp", {"alpha": 1, "beta": 1}, None, "slerp has no parameter.*second stage"),
        ("ramplus_tl", {"alpha": 1, "beta": 1}, None, "ramplus_tl has no parameter"),
        ("ties", {"alpha": 1, "betta": 1}, None, "no 'betta'.*'beta'"),
        ("ties", {"alpha": 1}, None, "needs beta"),
        ("ties", {"alpha": "1", "beta": 1}, None, "needs alpha.*'1'"),
        ("ties", {"alpha": 1, "beta": 1}, [0.1, 0.2], "one number"),
    ],
)
def test_what_cannot_be_is_one_clear_error(method, preset, given, words):
    with pytest.raises(RecipeError, match=words):
        lines(find_method(method), preset, given)


def test_a_recipe_says_lines_at_its_top_and_a_wrong_one_has_its_place():
    text = "merge_method: task_arithmetic\nbase_model: b\nmodels: [{model: a, parameters: {weight: 1}}]\n"
    recipe = read_recipe(text + "lines: {alpha: 0.5, beta: 0.25}\n").only
    assert recipe.parameters["lambda"] == lines(find_method("task_arithmetic"), {"alpha": 0.5, "beta": 0.25})["lambda"]
    with pytest.raises(RecipeError, match=r":4:\d+: .*'alpah'.*alpha"):
        read_recipe(text + "lines: {alpah: 0.5, beta: 0.25}\n")
