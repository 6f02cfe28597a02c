"""slerp and its kin through the engine: the formula of float64 numpy, and the same bits for every tile and thread."""

import numpy as np
import pytest
import spans
import torch
from merging import merged, random_models, recipe_for, same_bits

SHAPES = {"matrix": (48, 37), "tall": (70, 9), "vector": (65,), "experts": (3, 10, 8), "row": (1, 30), "empty": (0, 4)}
# method, number of models, whether with a base, parameters of the merge, parameters of each model
CASES = [
    ("slerp", 1, True, {"t": 0.3}, {}),
    ("slerp", 1, True, {"t": -0.5}, {}),
    ("model_stock", 2, True, {}, {}),
    ("model_stock", 4, True, {}, {}),
    ("model_stock", 3, True, {"filter_wise": True}, {}),
    ("passthrough", 1, False, {}, {"scale": (0.7,)}),
    ("nuslerp", 2, False, {}, {"weight": (1, 3)}),
    ("nuslerp", 2, True, {}, {"weight": (1, 3)}),
    ("nuslerp", 2, False, {"nuslerp_flatten": False}, {"weight": (0.6, 0.4)}),
    ("nuslerp", 2, True, {"nuslerp_flatten": False}, {"weight": (0.6, 0.4)}),
    ("nuslerp", 2, False, {"nuslerp_flatten": False, "nuslerp_row_wise": True}, {"weight": (0.6, 0.4)}),
    ("nuslerp", 2, True, {"nuslerp_flatten": False, "nuslerp_row_wise": True}, {"weight": (0.6, 0.4)}),
    ("multislerp", 3, False, {}, {"weight": (1, 2, 4)}),
    ("multislerp", 4, True, {"normalize_weights": False}, {"weight": (0.1, 0.2, 0.4, -0.1)}),
    ("karcher", 3, False, {}, {}),
    ("karcher", 5, False, {"max_iter": 1}, {}),
    ("nearswap", 1, True, {"t": 0.02}, {}),
    ("nearswap", 1, True, {"t": 3e-7}, {}),
    ("arcee_fusion", 1, True, {}, {}),
    ("tsv_m", 2, True, {}, {}),
    ("tsv_m", 3, True, {"lambda": 0.7}, {}),
    ("iso_c", 3, True, {"lambda": 1.3}, {}),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[1]}-{'based' if c[2] else 'free'}-{c[3]}")


def recipe_of(folder, case, **options):
    """(recipe, base or None, models) on random tensors."""
    method, n, based, shared, each = case
    base, models = random_models(n, **options)
    base = base if based else None
    return recipe_for(folder, method, models, base=base, each=each, **shared), base, models


def expected(case, base, models):
    """name -> the formula's float64 array."""
    method, _, _, shared, each = case
    known = {("lambda_" if key == "lambda" else key): value for key, value in {**shared, **each}.items()}
    return {
        name: getattr(spans, method)(
            None if base is None else base[name].double().numpy(), [m[name].double().numpy() for m in models], **known
        )
        for name, tensor in models[0].items()
        if tensor.numel()
    }


@every_case
@pytest.mark.parametrize("relative", [0.5, 0.01])
def test_float32_models_give_the_formula_rounded_once(tmp_path, case, relative):
    recipe, base, models = recipe_of(tmp_path, case, relative=relative, shapes=SHAPES)
    got = merged(recipe)
    for name, want in expected(case, base, models).items():
        assert np.abs(got[name].double().numpy() - want).max() <= 2**-24 * np.abs(want).max() + 1e-9, name
    assert got["empty"].shape == (0, 4)


@every_case
def test_bfloat16_models_give_the_formula_within_one_step(tmp_path, case):
    recipe, base, models = recipe_of(tmp_path, case, dtype=torch.bfloat16, seed=5, shapes={"matrix": (120, 101)})
    got = merged(recipe)["matrix"].view(torch.int16).int()
    want = torch.from_numpy(expected(case, base, models)["matrix"]).to(torch.bfloat16).view(torch.int16).int()
    assert ((got - want).abs() <= 1).double().mean() >= 0.999


@every_case
def test_neither_tile_nor_threads_change_a_bit(tmp_path, case):
    recipe, _, _ = recipe_of(tmp_path, case, shapes=SHAPES)
    whole = merged(recipe)
    for tile, threads in ((1000, 1), (64, 2), (4096, 4)):
        assert same_bits(whole, merged(recipe, tile=tile, threads=threads)), (tile, threads)


@pytest.mark.parametrize("method", ["slerp", "model_stock", "arcee_fusion"])
def test_nor_do_they_across_the_border_of_two_segments(tmp_path, method):
    case = next(c for c in CASES if c[0] == method)
    recipe, base, models = recipe_of(tmp_path, case, dtype=torch.bfloat16, shapes={"matrix": (1100, 1000)})
    whole = merged(recipe)
    assert same_bits(whole, merged(recipe, tile=50_001, threads=2))
    want = expected(case, base, models)["matrix"]
    assert (np.abs(whole["matrix"].double().numpy() - want) > 2**-8 * np.abs(want) + 1e-6).mean() < 1e-4


KEEPING = [case for case in CASES if case[2] and case[0] not in ("slerp", "iso_c", "tsv_m") and case[3] != {"t": 3e-7}]
KEEPING += [("slerp", 1, True, {"t": t}, {}) for t in (0.3, -0.3, 1.5)]
KEEPING += [(name, 2, True, {"spectral": False}, {}) for name in ("tsv_m", "iso_c")]


@pytest.mark.parametrize("case", KEEPING, ids=lambda c: f"{c[0]}-{c[3]}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_no_model_moves_the_base_keeps_its_bits(tmp_path, case, dtype):
    method, n, _, shared, each = case
    base, models = random_models(n, relative=0.001, dtype=dtype, shapes={"matrix": (40, 50)})
    flat = base["matrix"].view(-1)
    flat[:20:5] = -0.0
    flat[20:40:5] = 0.0
    for i, model in enumerate(models):
        model["matrix"].view(-1)[:40:5] = torch.tensor([0.0, -0.0] if i % 2 else [-0.0, 0.0]).repeat(4)
    still = torch.stack([model["matrix"] == base["matrix"] for model in models]).all(0)
    got = merged(recipe_for(tmp_path, method, models, base=base, each=each, **shared))["matrix"]
    assert still.sum() >= 400 and not torch.equal(got, base["matrix"])
    assert same_bits({"kept": got[still]}, {"kept": base["matrix"][still]})
