"""multislerp: the mean of directions at the mean of lengths. Authority: the hand, and numpy in test_spans."""

import math

import pytest
import torch
from merging import merged, recipe_for, same_bits

from expo.errors import PlanError

FIRST, SECOND = torch.zeros(4, 4), torch.zeros(4, 4)
FIRST[0, 0], SECOND[1, 1] = 2, 4


def met(folder, models, weight, base=None, **parameters):
    base = base if base is None else {"w": base}
    named = [{"w": model} for model in models]
    return merged(recipe_for(folder, "multislerp", named, base=base, each={"weight": weight}, **parameters))["w"]


def test_two_at_right_angles_meet_halfway_at_their_mean_length(tmp_path):
    want = torch.zeros(4, 4)
    want[0, 0] = want[1, 1] = 3 / math.sqrt(2)
    assert torch.allclose(met(tmp_path / "free", [FIRST, SECOND], (1, 1)), want)
    based = met(tmp_path / "based", [FIRST + 1, SECOND + 1], (1, 1), torch.ones(4, 4))
    assert torch.allclose(based, want + 1)


def test_weights_are_shares_unless_told_otherwise(tmp_path):
    direction = torch.zeros(4, 4)
    direction[0, 0], direction[1, 1] = 1 / math.sqrt(5), 2 / math.sqrt(5)
    # the lengths sum to 1 * 2 + 2 * 4, or to a third of it
    assert torch.allclose(met(tmp_path / "shares", [FIRST, SECOND], (1, 2)), direction * 10 / 3)
    assert torch.allclose(met(tmp_path / "as is", [FIRST, SECOND], (1, 2), normalize_weights=False), direction * 10)


@pytest.mark.parametrize("n", [2, 4])
def test_directions_that_cancel_out_give_the_weighted_mean(tmp_path, n):
    models = [FIRST, FIRST * -3, SECOND, SECOND * -3][:n]
    assert torch.allclose(met(tmp_path, models, (1,) * n), sum(models) / n, rtol=1e-6)


def test_a_tensor_of_zeros_has_no_direction_but_a_length(tmp_path):
    assert torch.allclose(met(tmp_path, [FIRST * 0, SECOND], (1, 3)), SECOND * 0.75)


def test_a_tensor_that_no_model_moved_stays(tmp_path):
    frozen = {"w": torch.tensor([[-0.0, 1.0], [0.0, 2.0]])}
    recipe = recipe_for(tmp_path, "multislerp", [frozen] * 3, base=frozen, each={"weight": (1, 1, 1)})
    assert same_bits(merged(recipe), frozen)


def test_weights_that_sum_to_zero_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(PlanError, match="the weights sum to zero"):
        met(tmp_path, [FIRST, SECOND], (1, -1))
