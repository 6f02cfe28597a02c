"""tsv_m: the tasks' leading singular vectors, whitened. Authority: the hand, and numpy in test_spans."""

import pytest
import torch
from merging import merged, random_models, recipe_for, same_bits

import expo
from expo.methods import find_method


def diagonal(*values):
    return torch.diag(torch.tensor(values))


def moved(folder, deltas, **parameters):
    base = torch.ones_like(deltas[0])
    models = [{"w": base + delta} for delta in deltas]
    return merged(recipe_for(folder, "tsv_m", models, base={"w": base}, **parameters))["w"] - base


def test_tasks_in_directions_of_their_own_add_up(tmp_path):
    got = moved(tmp_path, [diagonal(3.0, 1, 0, 0), diagonal(0.0, 0, 5, 2)])
    assert torch.allclose(got, diagonal(3.0, 1, 5, 2), atol=1e-6)


def test_each_of_two_tasks_keeps_the_larger_half_of_its_singular_values(tmp_path):
    got = moved(tmp_path, [diagonal(4.0, 3, 2, 1), diagonal(0.0, 0, 0, 0)])
    assert torch.allclose(got, diagonal(4.0, 3, 0, 0), atol=1e-6)


def test_tasks_with_the_same_directions_share_them(tmp_path):
    # both say 4 along one direction: whitened they hold half each, so that the sum is 4 and not 8
    got = moved(tmp_path, [diagonal(4.0, 2, 0, 0), diagonal(4.0, 2, 0, 0)])
    assert torch.allclose(got, diagonal(4.0, 2, 0, 0), atol=1e-6)


def test_tasks_that_slant_are_whitened_as_by_hand(tmp_path):
    # u1 = e1, u2 = (e1 + e2) / sqrt 2: their nearest orthonormal pair lies 22.5 degrees outside of both
    one, two = torch.zeros(2, 2), torch.zeros(2, 2)
    one[0, 0] = 1.0
    two[0, 1] = two[1, 1] = 2**0.5  # 2 u2 e2^T
    cos, sin = (torch.deg2rad(torch.tensor(22.5)).cos(), torch.deg2rad(torch.tensor(22.5)).sin())
    want = torch.stack([torch.stack([cos, 2 * sin]), torch.stack([-sin, 2 * cos])])
    assert torch.allclose(moved(tmp_path, [one, two]), want, atol=1e-6)


def test_vectors_and_what_a_filter_names_take_the_mean_of_the_deltas(tmp_path):
    base = {"embed": torch.ones(4, 4), "norm": torch.ones(4), "w": torch.ones(4, 4)}
    steps = (diagonal(2.0, 0, 0, 0), diagonal(0.0, 0, 0, 4))
    models = [{name: t + (step if t.dim() == 2 else step.amax()) for name, t in base.items()} for step in steps]
    spectral = [{"filter": "embed", "value": False}, {"value": True}]
    recipe = recipe_for(tmp_path, "tsv_m", models, base=base, spectral=spectral, **{"lambda": 2})
    got = merged(recipe)
    assert torch.equal(got["embed"], 1 + diagonal(2.0, 0, 0, 4)) and torch.equal(got["norm"], base["norm"] + 6)
    assert torch.allclose(got["w"], 1 + diagonal(4.0, 0, 0, 8), atol=1e-6)
    reads = {job.name: job.reads for job in expo.plan(recipe).jobs}
    assert (reads["embed"], reads["w"]) == ("tile", "tensor")


def test_one_model_is_its_delta_and_a_lambda_of_0_copies(tmp_path):
    base, models = random_models(1)
    assert same_bits(merged(recipe_for(tmp_path, "tsv_m", models, base=base)), models[0])
    plan = expo.plan(recipe_for(tmp_path, "tsv_m", models, base=base, **{"lambda": 0}))
    assert all(job.is_raw_copy for job in plan.jobs)


@pytest.mark.parametrize("name", ["tsv_m", "iso_c"])
def test_a_matrix_that_no_task_moved_stays(tmp_path, name):
    base = {"w": torch.tensor([[-0.0, 1.0], [0.0, 2.0]]), "v": torch.tensor([-0.0, 1.0])}
    assert find_method(name).exact == "per device"
    assert same_bits(merged(recipe_for(tmp_path, name, [base, base], base=base)), base)
