"""breadcrumbs: neither the largest nor the smallest elements. Authority: float64 numpy, and the hand."""

import numpy as np
import pytest
import torch
from formulas import add, agree, trim
from merging import merged, random_models, recipe_for, same_bits

FORMULA = {"breadcrumbs": add, "breadcrumbs_ties": agree}


def between(delta, density, gamma):
    """delta without its int(gamma n) largest, and of the rest the int(density n) largest."""
    kept = int(density * delta.size)
    outliers = min(int(gamma * delta.size), delta.size - kept)
    return trim(delta, kept + outliers) - trim(delta, outliers)


def test_a_matrix_of_four_by_four_comes_out_as_computed_by_hand(tmp_path):
    base = {"w": torch.ones(4, 4)}
    model = {"w": base["w"] + torch.tensor([[1.0, -2, 3, -4], [5, -6, 7, -8], [9, -10, 11, -12], [13, -14, 15, -16]])}
    each = {"weight": (1.0,), "density": (0.25,), "gamma": (0.125,)}
    got = merged(recipe_for(tmp_path, "breadcrumbs", [model], base=base, each=each))["w"]
    moved = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 11, -12], [13, -14, 0, 0]])
    assert torch.equal(got, base["w"] + moved)


@pytest.mark.parametrize("method", FORMULA)
@pytest.mark.parametrize(
    ("density", "gamma"), [((0.3, 0.6, 0.9), (0.1, 0.0, 0.3)), ((1.0, 0.0, 0.5), (0.01, 0.2, 0.9))]
)
@pytest.mark.parametrize(("normalize", "rescale"), [(False, False), (True, False), (False, True)])
def test_it_is_the_formula_of_numpy(tmp_path, method, density, gamma, normalize, rescale):
    base, models = random_models(3)
    weight = (0.3, 0.7, 1.1)
    each = {"weight": weight, "density": density, "gamma": gamma}
    options = {"normalize": normalize, "rescale": rescale, "lambda": 0.7}
    got = merged(recipe_for(tmp_path, method, models, base=base, each=each, **options))
    for name in base:
        start = base[name].double().numpy()
        full = [m[name].double().numpy() - start for m in models]
        deltas = [between(d, p, g) for d, p, g in zip(full, density, gamma, strict=True)]
        if rescale:
            norms = [(np.abs(a).sum(), np.abs(b).sum()) for a, b in zip(full, deltas, strict=True)]
            deltas = [d * (a / b if min(a, b) > 1e-7 else 1) for d, (a, b) in zip(deltas, norms, strict=True)]
        want = FORMULA[method](start, deltas, weight, normalize=normalize, scale=0.7)
        assert np.allclose(got[name].numpy(), want, rtol=1e-6, atol=2e-6), name


@pytest.mark.parametrize("method", FORMULA)
def test_neither_tiles_nor_threads_change_a_bit(tmp_path, method):
    shapes = {"big": (1050, 1000), "odd": (300, 7), "one": (1,), "empty": (0, 3)}
    base, models = random_models(2, dtype=torch.bfloat16, shapes=shapes)
    each = {"weight": (0.6, 0.4), "density": (0.3, 0.5), "gamma": (0.01, 0.1)}
    recipe = recipe_for(tmp_path, method, models, base=base, each=each)
    usual = merged(recipe)
    for tile, threads in ((10_000, 4), (1 << 21, 1)):
        assert same_bits(merged(recipe, tile=tile, threads=threads), usual)


def test_of_equal_magnitudes_the_first_count_as_the_larger(tmp_path):
    base, model = {"w": torch.zeros(1000)}, {"w": torch.tensor([1.0, -1.0] * 500)}
    each = {"weight": (1.0,), "density": (0.5,), "gamma": (0.1,)}
    got = merged(recipe_for(tmp_path, "breadcrumbs", [model], base=base, each=each), tile=64)["w"]
    assert got.nonzero().flatten().tolist() == list(range(100, 600))
