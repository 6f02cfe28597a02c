"""nuslerp: slerp by weights, of whole tensors, rows or columns. Authority: the hand, and numpy in test_spans."""

import math

import torch
from merging import merged, random_models, recipe_for, same_bits

ROOT3 = math.sqrt(3)
FIRST = torch.diag(torch.tensor([2.0, 2, 2, 2]))
SECOND = FIRST.roll(1, 1) * 2


def mixed(folder, first, second, weight, base=None, **parameters):
    base = base if base is None else {"w": base}
    models = [{"w": first}, {"w": second}]
    return merged(recipe_for(folder, "nuslerp", models, base=base, each={"weight": weight}, **parameters))["w"]


def test_a_third_of_the_weight_goes_a_third_of_the_way(tmp_path):
    want = FIRST * (ROOT3 / 2) + SECOND / 2  # the tensors are at right angles: sin 60 and sin 30
    assert torch.allclose(mixed(tmp_path, FIRST, SECOND, (2, 1)), want, rtol=1e-6)


def test_with_a_base_the_deltas_turn(tmp_path):
    want = FIRST * (ROOT3 / 2) + SECOND / 2 + 1
    assert torch.allclose(mixed(tmp_path, FIRST + 1, SECOND + 1, (4, 2), torch.ones(4, 4)), want, rtol=1e-6)


def test_rows_and_columns_have_angles_of_their_own(tmp_path):
    first, second = torch.zeros(4, 4), torch.zeros(4, 4)
    first[0, 0] = first[1, 0] = second[0, 1] = second[1, 0] = 2.0
    rows = mixed(tmp_path / "rows", first, second, (2, 1), nuslerp_flatten=False)
    # row 0 turns by 30 of 90 degrees; row 1 is the same in both
    assert torch.allclose(rows[:2, :2], torch.tensor([[ROOT3, 1.0], [2.0, 0.0]]), rtol=1e-6)
    columns = mixed(tmp_path / "columns", first.T, second.T, (2, 1), nuslerp_flatten=False, nuslerp_row_wise=True)
    assert torch.allclose(columns, rows.T, rtol=1e-6)


def test_parallel_tensors_meet_on_the_line_and_equal_ones_keep_their_bits(tmp_path):
    _, (model,) = random_models(1)
    for i, parameters in enumerate(
        ({}, {"nuslerp_flatten": False}, {"nuslerp_flatten": False, "nuslerp_row_wise": True})
    ):
        recipe = recipe_for(tmp_path / str(i), "nuslerp", [model, model], each={"weight": (0.3, 0.4)}, **parameters)
        assert same_bits(merged(recipe), model)
    assert torch.equal(mixed(tmp_path, FIRST, FIRST * 2, (3, 1)), FIRST * 1.25)


def test_weights_that_cancel_count_as_equal(tmp_path):
    assert torch.equal(mixed(tmp_path / "a", FIRST, SECOND, (1, -1)), mixed(tmp_path / "b", FIRST, SECOND, (1, 1)))


def test_all_the_weight_on_one_model_gives_that_model(tmp_path):
    base, models = random_models(2)
    for given in (None, base):
        for i in (0, 1):
            weight = (1 - i, i)
            recipe = recipe_for(tmp_path, "nuslerp", models, base=given, each={"weight": weight})
            assert same_bits(merged(recipe), models[i])
