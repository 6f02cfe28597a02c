"""passthrough: one model as it is, or times a number."""

import pytest
import torch
from merging import merged, random_models, recipe_for, same_bits

import expo
from expo.errors import RecipeError

MATRIX = torch.arange(16.0).view(4, 4)


def test_without_a_scale_every_tensor_is_copied(tmp_path):
    _, (model,) = random_models(1, dtype=torch.bfloat16)
    for given in ({}, {"scale": 1}):
        recipe = recipe_for(tmp_path, "passthrough", [model], **given)
        assert all(job.is_raw_copy for job in expo.plan(recipe).jobs)
        assert same_bits(merged(recipe), model)


def test_a_scale_multiplies_each_element(tmp_path):
    recipe = recipe_for(tmp_path, "passthrough", [{"w": MATRIX}], each={"scale": (-0.5,)})
    assert merged(recipe)["w"].tolist() == (MATRIX * -0.5).tolist()


def test_a_filter_scales_some_tensors_and_copies_the_others(tmp_path):
    scale = [{"filter": "o_proj", "value": 0}, {"value": 1}]
    recipe = recipe_for(tmp_path, "passthrough", [{"o_proj": MATRIX, "up": MATRIX}], each={"scale": [scale]})
    copied = {job.name: job.is_raw_copy for job in expo.plan(recipe).jobs}
    assert copied == {"o_proj": False, "up": True}
    assert same_bits(merged(recipe), {"o_proj": MATRIX * 0, "up": MATRIX})


def test_it_takes_one_model(tmp_path):
    with pytest.raises(RecipeError, match="passthrough merges 1 model; the recipe gives 2"):
        recipe_for(tmp_path, "passthrough", [{"w": MATRIX}] * 2)
