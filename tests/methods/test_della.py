"""della: kept by rank within the row. Authority: numpy on masks that the method itself shows, and their statistics."""

import math

import numpy as np
import pytest
import torch
from formulas import add, agree
from merging import merged, random_models, recipe_for, same_bits

from expo.errors import PlanError
from expo.methods.magnitude_ranks import _by_rank, probabilities

WEIGHT, DENSITY, EPSILON = (0.6, 0.5), (0.4, 0.7), (0.2, 0.1)
FORMULA = {"della_linear": add, "della": agree}


def run(folder, method, models, base, weight=WEIGHT, density=DENSITY, epsilon=EPSILON, tile=65_536, threads=1, **rest):
    each = {"weight": weight, "density": density, "epsilon": epsilon}
    return merged(recipe_for(folder, method, models, base=base, each=each, **rest), tile=tile, threads=threads)


@pytest.mark.parametrize("method", FORMULA)
@pytest.mark.parametrize("rescale", [True, False, "density"])
@pytest.mark.parametrize("normalize", [True, False])
def test_it_is_the_formula_of_numpy_on_its_own_masks(tmp_path, method, rescale, normalize):
    base, models = random_models(2)
    alone = [
        run(tmp_path / "alone", "della_linear", models, base, weight, rescale=False)
        for weight in ((1.0, 0.0), (0.0, 1.0))
    ]
    got = run(tmp_path, method, models, base, rescale=rescale, normalize=normalize, **{"lambda": 0.7})
    for name in base:
        start = base[name].double().numpy()
        full = [m[name].double().numpy() - start for m in models]
        deltas = [np.where((a[name] != base[name]).numpy(), d, 0) for a, d in zip(alone, full, strict=True)]
        if rescale is True:
            norms = [(np.abs(a).sum(), np.abs(b).sum()) for a, b in zip(full, deltas, strict=True)]
            deltas = [d * (a / b if min(a, b) > 1e-7 else 1) for d, (a, b) in zip(deltas, norms, strict=True)]
        if rescale == "density" and start.size:
            width = start.shape[-1] if start.ndim else 1
            for i, (d, p, e) in enumerate(zip(deltas, DENSITY, EPSILON, strict=True)):
                rows = np.abs(full[i]).reshape(-1, width)
                rank = np.argsort(np.argsort(rows, axis=1, kind="stable"), axis=1)
                kept = p - e + 2 * e * rank / (width - 1) if width > 1 else np.full(rank.shape, p)
                deltas[i] = d * 65536 / np.rint(kept.reshape(d.shape) * 65536)
        want = FORMULA[method](start, deltas, WEIGHT, normalize=normalize, scale=0.7)
        assert np.allclose(got[name].numpy(), want, rtol=1e-6, atol=2e-6), name


def test_a_row_of_four_by_four_keeps_the_larger_more_often(tmp_path):
    assert probabilities(0.5, 0.3, 4) == pytest.approx([0.2, 0.4, 0.6, 0.8]) and probabilities(0.5, 0.3, 1) == [0.5]
    rows = torch.tensor([[0.3, -0.1, 0.2, -0.4], [1, 1, 1, 1], [0, -2, 0, 1], [-4, 3, -2, 1]])
    ranks = [[2, 0, 1, 3], [0, 1, 2, 3], [0, 3, 1, 2], [3, 2, 1, 0]]
    assert _by_rank(rows.view(-1), [0, 1, 2, 3], 4).view(4, 4).tolist() == ranks
    n = 100_000
    base, model = {"w": torch.zeros(n, 4)}, {"w": torch.tensor([2.0, -1.0, 4.0, -3.0]).repeat(n, 1)}
    got = run(tmp_path, "della_linear", [model], base, (1.0,), (0.5,), (0.3,), rescale=False)["w"]
    shares = (got != 0).double().mean(0)
    for share, p in zip(shares.tolist(), (0.4, 0.2, 0.8, 0.6), strict=True):
        assert abs(share - p) < 4.5 * math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("method", FORMULA)
def test_neither_tiles_nor_threads_change_a_bit(tmp_path, method):
    big = (1060, 999) if method == "della" else (99, 99)  # rows of 999 lie across the border of two segments
    shapes = {"big": big, "long": (70_000,), "odd": (300, 7), "one": (1,), "empty": (0, 3)}
    base, models = random_models(2, dtype=torch.bfloat16, shapes=shapes)
    usual = run(tmp_path, method, models, base)
    for tile, threads in ((10_000, 4), (1 << 21, 1)):
        assert same_bits(run(tmp_path, method, models, base, tile=tile, threads=threads), usual)


def test_a_density_of_one_keeps_all_and_of_zero_nothing_whatever_epsilon(tmp_path):
    base, models = random_models(2)
    assert same_bits(run(tmp_path, "della", models, base, density=(0.0, 0.0)), base)
    added = merged(recipe_for(tmp_path, "task_arithmetic", models, base=base, each={"weight": WEIGHT}))
    assert same_bits(run(tmp_path, "della_linear", models, base, density=(1.0, 1.0)), added)


def test_probabilities_outside_of_zero_to_one_are_refused(tmp_path):
    base, models = random_models(1)
    for density, epsilon in ((0.1, 0.15), (0.9, 0.1)):
        with pytest.raises(PlanError, match=rf"density {density} \+/- epsilon {epsilon} must lie between 0 and 1"):
            run(tmp_path, "della", models, base, (1.0,), (density,), (epsilon,))
