"""nearswap: the other model where it is near, t towards it elsewhere. Authority: the hand, and numpy in test_spans."""

import pytest
import torch
from merging import merged, random_models, recipe_for, same_bits

import expo
from expo.errors import BadParameter


def test_near_elements_are_swapped_and_far_ones_move_by_t(tmp_path):
    base = torch.tensor([[0.0, 1, 2, -1], [1, 1, 1, 1], [0, 0, 0, 0], [-0.0, 5, 5, 5]])
    other = torch.tensor([[0.25, 1.5, 4, -3], [1, 0.5, 0, -8], [-0.0, 0.5, -0.5, 9], [0.0, 5, 5.25, 1]])
    want = torch.tensor([[0.25, 1.5, 2.5, -1.5], [1, 0.5, 0.5, 0.5], [0, 0.5, -0.5, 0.5], [-0.0, 5, 5.25, 4.5]])
    got = merged(recipe_for(tmp_path, "nearswap", [{"w": other}], base={"w": base}, t=0.5))
    assert same_bits(got, {"w": want})


def test_distances_below_a_millionth_count_as_a_millionth(tmp_path):
    base, other = torch.zeros(3), torch.tensor([5e-7, 4e-6, 1e-6])
    got = merged(recipe_for(tmp_path, "nearswap", [{"w": other}], base={"w": base}, t=2e-7))["w"]
    assert torch.allclose(got, torch.tensor([1e-7, 2e-7, 2e-7]), rtol=1e-6)


def test_a_t_of_0_copies_the_base_and_a_negative_one_is_refused(tmp_path):
    base, models = random_models(1)
    plan = expo.plan(recipe_for(tmp_path, "nearswap", models, base=base, t=0))
    assert all(job.is_raw_copy for job in plan.jobs)
    with pytest.raises(BadParameter, match="between 0 and inf"):
        recipe_for(tmp_path, "nearswap", models, base=base, t=-0.1)
