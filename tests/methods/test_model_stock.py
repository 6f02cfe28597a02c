"""model_stock: as far from the base to the mean as the models agree. Authority: the hand, and numpy in test_spans."""

import pytest
import torch
from merging import merged, recipe_for, same_bits

from expo.errors import RecipeError


def stock(folder, deltas, **parameters):
    base = torch.ones(4, 4)
    models = [{"w": base + torch.tensor(delta)} for delta in deltas]
    return merged(recipe_for(folder, "model_stock", models, base={"w": base}, **parameters))["w"] - base


STILL = [0.0] * 4


def test_a_cosine_of_six_tenths_goes_three_quarters_of_the_way(tmp_path):
    one = [[5.0, 0, 0, 0], STILL, STILL, STILL]
    two = [[3.0, 4, 0, 0], STILL, STILL, STILL]
    # cos 0.6: t = 2 * 0.6 / 1.6 = 0.75, and the mean delta is (4, 2)
    assert stock(tmp_path, [one, two]).tolist() == [[3.0, 1.5, 0, 0], STILL, STILL, STILL]


def test_filter_wise_each_row_goes_its_own_way(tmp_path):
    one = [[5.0, 0, 0, 0], [1.0, 0, 0, 0], [0, 2.0, 0, 0], STILL]
    two = [[3.0, 4, 0, 0], [0, 1.0, 0, 0], [0, 2.0, 0, 0], STILL]
    want = torch.tensor([[3.0, 1.5, 0, 0], STILL, [0, 2.0, 0, 0], STILL])
    assert torch.allclose(stock(tmp_path, [one, two], filter_wise=True), want, atol=1e-7)


def test_of_three_models_the_mean_of_the_pairs_counts(tmp_path):
    one = [[1.0, 0, 0, 0], STILL, STILL, STILL]
    two = [[0, 2.0, 0, 0], STILL, STILL, STILL]
    # pairs: 1, 0, 0; t = 3 * (1 / 3) / (1 + 2 / 3) = 0.6, and the mean delta is (2, 2) / 3
    got = stock(tmp_path, [one, one, two])
    assert torch.allclose(got, torch.tensor([[0.4, 0.4, 0, 0], STILL, STILL, STILL]), atol=1e-7)


@pytest.mark.parametrize("filter_wise", [False, True])
def test_deltas_that_point_away_from_each_other_leave_the_base(tmp_path, filter_wise):
    step = torch.full((4, 4), 0.5)
    models = [{"w": torch.ones(4, 4) * 2 + step}, {"w": torch.ones(4, 4) * 2 - step}]
    base = {"w": torch.ones(4, 4) * 2}
    recipe = recipe_for(tmp_path, "model_stock", models, base=base, filter_wise=filter_wise)
    assert same_bits(merged(recipe), base)


def test_it_needs_two_models(tmp_path):
    one = {"w": torch.ones(4, 4)}
    with pytest.raises(RecipeError, match="model_stock merges at least 2 models beside its base"):
        recipe_for(tmp_path, "model_stock", [one], base=one)
