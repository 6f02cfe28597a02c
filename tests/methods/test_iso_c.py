"""iso_c: the sum of the tasks, every direction as strong. Authority: the hand, and numpy in test_spans."""

import torch
from merging import merged, recipe_for


def moved(folder, deltas, **parameters):
    base = torch.ones_like(deltas[0])
    models = [{"w": base + delta} for delta in deltas]
    return merged(recipe_for(folder, "iso_c", models, base={"w": base}, **parameters))["w"] - base


def diagonal(*values):
    return torch.diag(torch.tensor(values))


def test_every_direction_gets_the_mean_of_the_singular_values(tmp_path):
    got = moved(tmp_path, [diagonal(3.0, 0, 0, 0), diagonal(0.0, 1, -2, 2)])
    assert torch.allclose(got, diagonal(2.0, 2, -2, 2), atol=1e-6)


def test_directions_that_no_task_takes_stay_empty(tmp_path):
    got = moved(tmp_path, [diagonal(3.0, 0, 0, 0), diagonal(0.0, 1, 0, 0)])
    assert torch.allclose(got, diagonal(2.0, 2, 0, 0), atol=1e-6)


def test_experts_are_matrices_of_their_own(tmp_path):
    stack = torch.stack([diagonal(3.0, 1, 2, 2), diagonal(8.0, 4, 4, 4)])
    want = torch.stack([diagonal(2.0, 2, 2, 2), diagonal(5.0, 5, 5, 5)])
    assert torch.allclose(moved(tmp_path, [stack]), want, atol=1e-5)


def test_vectors_and_unnamed_tensors_take_the_mean_of_the_deltas(tmp_path):
    deltas = [torch.tensor([1.0, 2]), torch.tensor([3.0, 2])]
    assert moved(tmp_path / "vector", deltas).tolist() == [2.0, 2.0]
    matrices = [delta.expand(2, 2) for delta in deltas]
    assert moved(tmp_path / "matrix", matrices, spectral=False).tolist() == [[2.0, 2.0]] * 2
    assert moved(tmp_path / "row", [delta[None] for delta in deltas]).tolist() == [[2.0, 2.0]]
