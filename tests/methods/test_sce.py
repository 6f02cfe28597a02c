"""sce: the elements where models differ most, weighted by their squares. Authority: float64 numpy, and the hand."""

import numpy as np
import pytest
import torch
from formulas import trim
from merging import merged, random_models, recipe_for, same_bits


def sce64(base, models, topk):
    start = base.double().numpy()
    deltas = np.stack([m.double().numpy() - start for m in models])
    if topk < 1:
        variance = np.where(np.all(deltas == deltas[:1], axis=0), 0.0, deltas.var(axis=0))
        deltas = deltas * (trim(variance, int(topk * np.count_nonzero(variance))) > 0)
    squares = (deltas**2).mean(axis=tuple(range(1, deltas.ndim)))
    weight = squares / squares.sum() if squares.sum() >= 1e-6 else np.full(len(models), 1 / len(models))
    weight = weight.reshape(-1, *[1] * start.ndim)
    agree = np.sign(deltas) == np.where(deltas.sum(0) >= 0, 1, -1)
    return start + (deltas * weight * agree).sum(0) / np.maximum((weight * agree).sum(0), 1e-6)


def test_a_matrix_of_four_by_four_comes_out_as_computed_by_hand(tmp_path):
    base = {"w": torch.ones(4, 4)}
    one = torch.tensor([[3.0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]])
    two = torch.tensor([[-1.0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    models = [{"w": base["w"] + one}, {"w": base["w"] + two}]
    # squares 12 and 4: weights 3/4 and 1/4, which matter only where both agree; -1 and 1 elect +
    moved = [[3, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]
    got = merged(recipe_for(tmp_path, "sce", models, base=base))["w"]
    assert torch.equal(got, base["w"] + torch.tensor(moved))
    # four elements differ, by 4, 1, 1 and 2: the two largest stay
    moved = torch.zeros(4, 4)
    moved[0, 0], moved[3, 1] = 3, 1
    got = merged(recipe_for(tmp_path, "sce", models, base=base, select_topk=0.5))["w"]
    assert torch.equal(got, base["w"] + moved)


@pytest.mark.parametrize("topk", [1.0, 0.4, 0.0])
@pytest.mark.parametrize(("n", "relative"), [(1, 0.3), (2, 0.3), (3, 0.3), (3, 1e-5)])
def test_it_is_the_formula_of_numpy(tmp_path, topk, n, relative):
    base, models = random_models(n, relative=relative)
    got = merged(recipe_for(tmp_path, "sce", models, base=base, select_topk=topk))
    for name in base:
        if base[name].numel():
            want = sce64(base[name], [m[name] for m in models], topk)
            assert np.allclose(got[name].numpy(), want, rtol=1e-6, atol=1e-6), name


@pytest.mark.parametrize("topk", [1.0, 0.3])
def test_neither_tiles_nor_threads_change_a_bit(tmp_path, topk):
    shapes = {"big": (1050, 1000), "odd": (300, 7), "one": (1,), "empty": (0, 3)}
    base, models = random_models(2, dtype=torch.bfloat16, shapes=shapes)
    recipe = recipe_for(tmp_path, "sce", models, base=base, select_topk=topk)
    usual = merged(recipe)
    for tile, threads in ((10_000, 4), (1 << 21, 1)):
        assert same_bits(merged(recipe, tile=tile, threads=threads), usual)


def test_elements_that_do_not_move_keep_their_bits(tmp_path):
    base = {"w": torch.tensor([-0.0, 0.0, 1.0, -2.0] * 100)}
    models = [{"w": base["w"].clone()}, {"w": base["w"].clone()}]
    models[0]["w"][200:] += 1
    got = merged(recipe_for(tmp_path, "sce", models, base=base))["w"][:200]
    assert torch.equal(got.view(torch.int32), base["w"][:200].view(torch.int32))
