"""slerp: along the arc between two tensors. Authority: the hand; test_spans holds it against numpy."""

import math

import pytest
import torch
from merging import merged, random_models, recipe_for, same_bits

import expo
from expo.errors import RecipeError


def turned(folder, base, other, t):
    return merged(recipe_for(folder, "slerp", [{"w": other}], base={"w": base}, t=t))["w"]


def test_a_third_of_a_right_angle_is_as_computed_by_hand(tmp_path):
    base, other = torch.zeros(4, 4), torch.zeros(4, 4)
    base[0, 0], other[1, 1] = 2, 4
    want = torch.zeros(4, 4)
    want[0, 0], want[1, 1] = math.sqrt(3), 2  # sin 60 * 2, sin 30 * 4: the lengths are not made equal
    assert torch.equal(turned(tmp_path, base, other, 1 / 3), want)


@pytest.mark.parametrize("other", [2.0, -2.0])
def test_parallel_tensors_meet_on_the_line(tmp_path, other):
    ones = torch.ones(4, 4)
    assert torch.equal(turned(tmp_path, ones, ones * other, 0.25), ones * (0.75 + 0.25 * other))


def test_a_tensor_of_zeros_has_a_right_angle_to_every_other(tmp_path):
    ones = torch.ones(4, 4)
    want = math.sin(math.pi / 4)
    assert torch.allclose(turned(tmp_path, torch.zeros(4, 4), ones, 0.5), ones * want, rtol=1e-7)


def test_the_line_takes_over_beyond_a_cosine_of_9995(tmp_path):
    base = torch.tensor([1.0, 0.0])
    for cos, is_line in ((0.9994, False), (0.9996, True)):
        other = torch.tensor([cos, math.sqrt(1 - cos**2)])
        middle = turned(tmp_path / str(cos), base, other, 0.5)
        on_line = (base.double() + other.double()) / 2
        assert (float((middle - on_line).norm()) < 1e-7) == is_line


def test_t_of_0_copies_the_base_and_t_of_1_is_the_other_bit_for_bit(tmp_path):
    base, (other,) = random_models(1, dtype=torch.bfloat16)
    recipe = recipe_for(tmp_path, "slerp", [other], base=base, t=0)
    assert all(job.is_raw_copy for job in expo.plan(recipe).jobs)
    assert same_bits(merged(recipe.with_parameters(t=1)), other)


def test_it_takes_one_model_beside_the_base_and_a_t(tmp_path):
    base, models = random_models(2)
    with pytest.raises(RecipeError, match="slerp merges 1 model beside its base; the recipe gives 2"):
        recipe_for(tmp_path, "slerp", models, base=base, t=0.5)
    with pytest.raises(RecipeError, match="slerp needs a base"):
        recipe_for(tmp_path, "slerp", models[:1], t=0.5)
    with pytest.raises(RecipeError, match="slerp needs t"):
        recipe_for(tmp_path, "slerp", models[:1], base=base)
