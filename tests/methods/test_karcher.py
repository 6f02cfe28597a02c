"""karcher: the mean on the sphere. Authority: the hand, its own definition, and numpy in test_spans."""

import math

import torch
from merging import merged, random_models, recipe_for, same_bits


def mean(folder, models, **parameters):
    return merged(recipe_for(folder, "karcher", [{"w": model} for model in models], **parameters))["w"]


def corner(i, length):
    found = torch.zeros(4, 4)
    found[i, i] = length
    return found


def test_three_at_right_angles_have_the_mean_between_them(tmp_path):
    got = mean(tmp_path, [corner(0, 1), corner(1, 2), corner(2, 3)])
    assert torch.allclose(got, torch.diag(torch.tensor([1.0, 1, 1, 0])) * 2 / math.sqrt(3), rtol=1e-6)


def test_the_arcs_to_all_models_sum_to_zero(tmp_path):
    noise = torch.Generator().manual_seed(1)
    models = [torch.randn(6, 5, generator=noise, dtype=torch.float64) for _ in range(4)]
    got = mean(tmp_path, models, max_iter=50, tol=1e-12)
    at = got / got.norm()
    arcs = torch.zeros(6, 5, dtype=torch.float64)
    for model in models:
        unit = model / model.norm()
        cos = (unit * at).sum()
        arcs += torch.arccos(cos) / (1 - cos * cos).sqrt() * (unit - cos * at)
    assert arcs.norm() < 1e-9
    assert math.isclose(got.norm(), sum(float(model.norm()) for model in models) / 4, rel_tol=1e-9)


def test_opposite_models_give_the_first_ones_direction(tmp_path):
    assert torch.allclose(mean(tmp_path, [corner(0, 1), corner(0, -3)]), corner(0, 2))


def test_a_tensor_no_longer_than_tol_has_no_direction_but_a_length(tmp_path):
    got = mean(tmp_path, [corner(0, 1), corner(1, 0.01), corner(0, 2)], tol=0.1)
    assert torch.allclose(got, corner(0, 3.01 / 3))
    assert torch.equal(mean(tmp_path / "zeros", [corner(0, 0)] * 2), torch.zeros(4, 4))


def test_one_model_comes_back_bit_for_bit(tmp_path):
    _, (model,) = random_models(1)
    assert same_bits(merged(recipe_for(tmp_path, "karcher", [model])), model)
