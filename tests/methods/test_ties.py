"""ties: trimmed exactly, signs elected, merged where they agree. Authority: float64 numpy, and the hand."""

import numpy as np
import pytest
import torch
from formulas import agree, trim
from merging import merged, random_models, recipe_for, same_bits

from expo.methods import Here, find_method
from expo.methods.sparse import Sparse
from expo.methods.survey import EVERYTHING, Cut

TIES = find_method("ties")
ALL = Sparse((EVERYTHING,) * 3)


def apply(base, *models, found=ALL, start=0, **parameters):
    here = Here(start, tuple(base.shape), lambda i: None, found)
    usual = {"density": (1.0,) * len(models), "normalize": True, "lambda_": 1.0}
    return TIES.apply(base, *models, **{**usual, **parameters}, here=here)


def ties64(base, models, weight, density, scope="tensor", **options):
    """name -> the merged tensor, by numpy."""
    names = list(base)
    deltas = [{n: (m[n].double() - base[n].double()).numpy() for n in names} for m in models]
    trimmed = []
    for delta, share in zip(deltas, density, strict=True):
        if scope == "model":
            sizes = np.cumsum([delta[n].size for n in names])[:-1]
            flat = np.concatenate([delta[n].reshape(-1) for n in names])
            parts = np.split(trim(flat, int(share * flat.size)), sizes)
            trimmed.append({n: part.reshape(delta[n].shape) for n, part in zip(names, parts, strict=True)})
        else:
            counts = {n: max(int(share * delta[n].size), share > 0) for n in names}
            trimmed.append({n: trim(delta[n], counts[n]) for n in names})
    return {n: agree(base[n].double().numpy(), [t[n] for t in trimmed], weight, **options) for n in names}


def test_a_matrix_of_four_by_four_comes_out_as_computed_by_hand(tmp_path):
    base = torch.ones(4, 4)
    one = base + torch.tensor([[1.0, -2, 3, -4], [5, -6, 7, -8], [0, 0, 0, 0], [1, 1, 1, 1]])
    two = base + torch.tensor([[-1.0, -2, 1, 1], [-2, 6, -7, 8], [0, 1, -1, 0], [3, -3, 1, -1]])
    recipe = recipe_for(tmp_path, "ties", [{"w": one}, {"w": two}], base={"w": base}, each={"weight": (1, 1)})
    # 1 and -1 sum to zero, so + is elected; where both agree their mean counts; a zero has no part in the mean
    moved = [[1, -2, 2, -4], [5, 6, 7, 8], [0, 1, -1, 0], [2, -3, 1, 1]]
    assert merged(recipe)["w"].tolist() == (base + torch.tensor(moved)).tolist()
    # of sixteen the largest four: 5 -6 7 -8 of the first, 6 -7 8 and the first 3 of the second
    halves = recipe_for(
        tmp_path, "ties", [{"w": one}, {"w": two}], base={"w": base}, each={"weight": (1, 1), "density": (0.25, 0.25)}
    )
    moved = [[0, 0, 0, 0], [5, 6, 7, 8], [0, 0, 0, 0], [3, 0, 0, 0]]
    assert merged(halves)["w"].tolist() == (base + torch.tensor(moved)).tolist()


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize("density", [(0.2, 0.5, 1.0), (0.01, 0.01, 0.01), (0.0, 0.9, 0.5)])
@pytest.mark.parametrize("weight", [(1.0, 1.0, 1.0), (0.3, 0.7, 1.1), (1.0, -0.5, 0.25)])
def test_it_is_the_formula_of_numpy(tmp_path, scope, density, weight):
    base, models = random_models(3)
    each = {"weight": weight, "density": density}
    options = {"normalize": weight[0] != 0.3, "lambda": 0.7}
    got = merged(recipe_for(tmp_path, "ties", models, base=base, each=each, trim_scope=scope, **options))
    want = ties64(base, models, weight, density, scope, normalize=options["normalize"], scale=0.7)
    for name in want:
        assert np.allclose(got[name].numpy(), want[name], rtol=1e-6, atol=1e-6), name


CASES = [
    (torch.bfloat16, {}),
    (torch.float32, {"trim_scope": "model"}),
    (torch.bfloat16, {"rescale": True, "normalize": False}),
]


@pytest.mark.parametrize(("dtype", "parameters"), CASES)
def test_neither_tiles_nor_threads_change_a_bit(tmp_path, dtype, parameters):
    shapes = {"big": (1050, 1000), "ties": (300, 7), "one": (1,), "empty": (0, 3)}
    base, models = random_models(2, dtype=dtype, shapes=shapes)
    each = {"weight": (0.6, 0.4), "density": (0.3, 0.5)}
    recipe = recipe_for(tmp_path, "ties", models, base=base, each=each, **parameters)
    usual = merged(recipe)
    for tile, threads in ((10_000, 4), (1 << 21, 1)):
        assert same_bits(merged(recipe, tile=tile, threads=threads), usual)


def test_of_equal_magnitudes_the_first_stay(tmp_path):
    base = {"w": torch.zeros(1000)}
    model = {"w": torch.tensor([1.0, -1.0] * 500)}
    each = {"weight": (1.0,), "density": (0.3,)}
    got = merged(recipe_for(tmp_path, "ties", [model], base=base, each=each), tile=64)["w"]
    assert torch.equal(got, torch.cat([model["w"][:300], torch.zeros(700)]))


def test_rescale_gives_back_the_l1_norm(tmp_path):
    base, models = random_models(1)
    each = {"weight": (1.0,), "density": (0.3,)}
    got = merged(recipe_for(tmp_path, "ties", models, base=base, each=each, rescale=True))
    for name in ("matrix", "tall", "vector", "experts"):
        before = (models[0][name] - base[name]).double().abs().sum()
        assert torch.isclose((got[name] - base[name]).double().abs().sum(), before, rtol=1e-5)


@pytest.mark.parametrize("weight", [(1.0, 1.0, 1.0), (0.5, -0.3, 0.2), (0.0, 2.0, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_elements_that_do_not_move_keep_their_bits_and_the_base_stays(weight, dtype):
    noise = torch.Generator().manual_seed(0)
    base = torch.randn(512, generator=noise, dtype=dtype)
    base[:8] = torch.tensor([0.0, -0.0] * 4)
    models = [base.clone() for _ in weight]
    models[0][100:] += 1
    models[1][:2] = torch.tensor([-0.0, 0.0])
    before = base.clone()
    got = apply(base, *models, weight=weight)
    words = torch.int32 if dtype == torch.float32 else torch.int64
    assert torch.equal(got[:100].view(words), base[:100].view(words))
    assert torch.equal(before.view(words), base.view(words))


def test_a_cut_between_tiles_is_the_same_as_in_one():
    delta = torch.tensor([2.0, 1.0, -1.0, 1.0, -3.0, 1.0])
    found = Sparse((Cut(1.0, 12),))  # of the ones, those before index 12
    got = apply(torch.zeros(6), delta, weight=(1.0,), found=found, start=10)
    assert got.tolist() == [2, 1, 0, 0, -3, 0]


def test_a_cut_that_float32_cannot_hold_keeps_what_is_above_it():
    value = 0.1  # between two float32
    near = torch.tensor([0.1], dtype=torch.float32)  # above it
    below = torch.nextafter(near, torch.zeros(1))
    got = apply(torch.zeros(2), torch.cat([near, below]), weight=(1.0,), found=Sparse((Cut(value, 1 << 62),)))
    assert got.tolist() == [float(near), 0.0]


def test_parameters_that_move_nothing_are_a_copy():
    nothing = TIES.nothing
    rest = {"normalize": True, "rescale": False, "trim_scope": "tensor", "int8_mask": False}
    assert nothing(weight=(0.0, 0.0), density=(1.0, 1.0), lambda_=1.0, **rest)
    assert nothing(weight=(1.0, 0.0), density=(0.0, 1.0), lambda_=1.0, **rest)
    assert nothing(weight=(1.0, 1.0), density=(1.0, 1.0), lambda_=0.0, **rest)
    assert not nothing(weight=(1.0, 0.0), density=(0.1, 1.0), lambda_=0.1, **rest)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("weight", "steps", "wanted"),
    [((0.5, 0.3, 0.4), (2, -2, -1), 2.0), ((0.6, 0.4), (-2, 3), 3.0), ((0.6, 0.4), (2, -3), 2.0)],
)
def test_a_draw_goes_to_plus_whatever_rounding_makes_of_it(tmp_path, dtype, weight, steps, wanted):
    base, step = torch.ones(4, 4, dtype=dtype), 2.0**-7
    models = [{"w": base + n * step} for n in steps]
    each = {"weight": weight, "density": (1.0,) * len(weight)}
    got = merged(recipe_for(tmp_path, "ties", models, base={"w": base}, each=each))
    assert torch.equal(got["w"].float(), torch.full((4, 4), 1 + wanted * step))
