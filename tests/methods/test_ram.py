"""ram and ramplus_tl: changed alone is added, by several averaged. Authority: float64 numpy, and the hand."""

import numpy as np
import pytest
import torch
from merging import merged, random_models, recipe_for, same_bits


def ram64(base, models, epsilon=1e-5, r=0.0, alpha=0.0):
    start = base.double().numpy()
    deltas = [m.double().numpy() - start for m in models]
    marks = [np.abs(d) > epsilon for d in deltas]
    count = sum(mark.astype(int) for mark in marks)
    total = np.zeros_like(start)
    for delta, mark in zip(deltas, marks, strict=True):
        unique, shared = int((mark & (count == 1)).sum()), int((mark & (count > 1)).sum())
        factor = 1 + r * min(shared / unique, alpha) if unique else 1.0
        total += np.where(mark, delta * np.where(count == 1, factor, 1.0), 0.0)
    return start + total / np.maximum(count, 1)


def sparse_models(n, seed=0, **options):
    """Models of which each changes half of the elements."""
    base, models = random_models(n, seed=seed, **options)
    noise = torch.Generator().manual_seed(seed)
    for model in models:
        for name, tensor in model.items():
            still = torch.rand(tensor.shape, generator=noise) < 0.5
            model[name] = torch.where(still, base[name], tensor)
    return base, models


def test_a_matrix_of_four_by_four_comes_out_as_computed_by_hand(tmp_path):
    base = {"w": torch.zeros(4, 4)}
    one = torch.tensor([[1.0, 2, 3, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    two = torch.tensor([[1.0, -2, 0, 4], [5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1e-6]])
    models = [{"w": one}, {"w": two}]
    got = merged(recipe_for(tmp_path, "ram", models, base=base))["w"]
    assert got.tolist() == [[1, 0, 3, 4], [5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    # the first shares 2 elements and has 1 alone: 1 + 1 * 2; the second 2 and 2: 1 + 1 * 1
    got = merged(recipe_for(tmp_path, "ramplus_tl", models, base=base, r=1.0, alpha=10.0))["w"]
    assert got.tolist() == [[1, 0, 9, 8], [10, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("epsilon", [1e-5, 0.1, 0.0])
def test_they_are_the_formulas_of_numpy(tmp_path, n, epsilon):
    base, models = sparse_models(n)
    plain = merged(recipe_for(tmp_path, "ram", models, base=base, epsilon=epsilon))
    plus = merged(recipe_for(tmp_path, "ramplus_tl", models, base=base, epsilon=epsilon, r=0.3, alpha=0.9))
    for name in base:
        wide = base[name], [m[name] for m in models], epsilon
        assert np.allclose(plain[name].numpy(), ram64(*wide), rtol=1e-6, atol=1e-6), name
        assert np.allclose(plus[name].numpy(), ram64(*wide, r=0.3, alpha=0.9), rtol=1e-6, atol=1e-6), name


@pytest.mark.parametrize("method", ["ram", "ramplus_tl"])
def test_neither_tiles_nor_threads_change_a_bit(tmp_path, method):
    shapes = {"big": (1050, 1000), "odd": (300, 7), "one": (1,), "empty": (0, 3)}
    base, models = sparse_models(2, dtype=torch.bfloat16, shapes=shapes)
    recipe = recipe_for(tmp_path, method, models, base=base)
    usual = merged(recipe)
    for tile, threads in ((10_000, 4), (1 << 21, 1)):
        assert same_bits(merged(recipe, tile=tile, threads=threads), usual)


@pytest.mark.parametrize("method", ["ram", "ramplus_tl"])
def test_elements_that_do_not_move_keep_their_bits(tmp_path, method):
    base = {"w": torch.tensor([-0.0, 0.0, 1.0, -2.0] * 100)}
    models = [{"w": base["w"].clone()}, {"w": base["w"].clone()}]
    models[0]["w"][200:] += 1
    got = merged(recipe_for(tmp_path, method, models, base=base))["w"][:200]
    assert torch.equal(got.view(torch.int32), base["w"][:200].view(torch.int32))
