"""linear and task_arithmetic: weighted sums of models and of task vectors. Authority: float64 numpy, and the hand."""

import numpy as np
import pytest
import torch
from formulas import add
from merging import merged, random_models, recipe_for, same_bits

from expo.errors import PlanError
from expo.methods import find_method

LINEAR, ADD = find_method("linear"), find_method("task_arithmetic")
BASE = torch.tensor([[1.0, 0, -1, 2], [0, 0, 0, 0], [4, 3, 2, 1], [-1, -1, -1, -1]])
ONE = BASE + torch.tensor([[1.0, 1, 1, 1], [0, 1, 0, 2], [-4, 0, 4, 0], [8, 0, 0, 8]])
TWO = BASE + torch.tensor([[-1.0, 1, 3, 1], [0, 0, 4, 2], [0, 8, 0, 4], [0, 2, 0, 2]])


def test_matrices_of_four_by_four_come_out_as_computed_by_hand(tmp_path):
    models = [{"w": ONE}, {"w": TWO}]
    mean = merged(recipe_for(tmp_path, "linear", models, each={"weight": (1, 3)}))["w"]
    moved = [[-0.5, 1, 2.5, 1], [0, 0.25, 3, 2], [-1, 6, 1, 3], [2, 1.5, 0, 3.5]]
    assert mean.tolist() == (BASE + torch.tensor(moved)).tolist()
    parts = {"each": {"weight": (0.5, 0.25)}, "lambda": 2.0}
    summed = merged(recipe_for(tmp_path, "task_arithmetic", models, base={"w": BASE}, **parts))["w"]
    moved = [[0.5, 1.5, 2.5, 1.5], [0, 1, 2, 3], [-4, 4, 4, 2], [8, 1, 0, 9]]
    assert summed.tolist() == (BASE + torch.tensor(moved)).tolist()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weight", [(1.0, 1.0, 1.0), (0.3, 0.7, 1.1), (1.0, -0.5, 0.25)])
def test_they_are_the_formulas_of_numpy(tmp_path, weight, normalize):
    base, models = random_models(3)
    each = {"weight": weight}
    mean = merged(recipe_for(tmp_path, "linear", models, each=each, normalize=normalize))
    options = {"normalize": normalize, "lambda": 0.7}
    summed = merged(recipe_for(tmp_path, "task_arithmetic", models, base=base, each=each, **options))
    for name in base:
        wide = [m[name].double().numpy() for m in models]
        want = sum(w * x for w, x in zip(weight, wide, strict=True)) / (sum(weight) if normalize else 1)
        assert np.allclose(mean[name].numpy(), want, rtol=1e-6, atol=1e-6), name
        start = base[name].double().numpy()
        want = add(start, [x - start for x in wide], weight, normalize=normalize, scale=0.7)
        assert np.allclose(summed[name].numpy(), want, rtol=1e-6, atol=1e-6), name


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_share_of_correctly_rounded_elements_meets_the_bar(tmp_path, method, dtype):
    base, models = random_models(2, dtype=dtype, relative=0.05, shapes={"w": (500, 400)})
    start = base["w"].double()
    each = {"weight": (0.6, 0.3)}
    got = merged(recipe_for(tmp_path, method, models, base=base if method != "linear" else None, each=each))["w"]
    if method == "linear":
        want = (models[0]["w"].double() * 0.6 + models[1]["w"].double() * 0.3) / (0.6 + 0.3)
    else:
        want = start + 0.6 * (models[0]["w"].double() - start) + 0.3 * (models[1]["w"].double() - start)
    right = (got == want.to(dtype)).double().mean()  # by way of float32: wrong once in 65,536
    assert right >= (0.9998 if dtype == torch.bfloat16 else 0.999)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_neither_tiles_nor_threads_change_a_bit(tmp_path, method):
    base, models = random_models(2, dtype=torch.bfloat16, shapes={"big": (1050, 1000), "one": (1,), "empty": (0, 3)})
    recipe = recipe_for(tmp_path, method, models, base=base, each={"weight": (0.6, 0.4)}) if method != "linear" else (
        recipe_for(tmp_path, method, models, each={"weight": (0.6, 0.4)})
    )  # fmt: skip
    usual = merged(recipe)
    for tile, threads in ((10_000, 4), (1 << 21, 1)):
        assert same_bits(merged(recipe, tile=tile, threads=threads), usual)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weight", [(0.3, 0.7), (1.5, -0.5), (-1.0, 3.0)])
def test_elements_that_all_share_keep_their_bits_and_the_donor_stays(dtype, weight):
    noise = torch.Generator().manual_seed(0)
    base = torch.randn(512, generator=noise, dtype=dtype)
    base[:8] = torch.tensor([0.0, -0.0] * 4)
    models = [base.clone(), base.clone()]
    models[1][:2] = torch.tensor([-0.0, 0.0])
    models[1][100:] += 1
    before = base.clone()
    words = torch.int32 if dtype == torch.float32 else torch.int64
    for got in (
        LINEAR.apply(base, models[1].clone(), weight=weight),
        ADD.apply(base, *models, weight=weight, density=(1.0, 1.0)),
    ):
        assert torch.equal(got[:100].view(words), base[:100].view(words))
    assert torch.equal(before.view(words), base.view(words))


def test_parameters_that_mean_nothing_are_a_copy_of_the_donor():
    assert LINEAR.nothing(weight=(2.0, 0.0), normalize=True) and LINEAR.nothing(weight=(1.0,), normalize=False)
    assert not LINEAR.nothing(weight=(2.0, 0.0), normalize=False) and not LINEAR.nothing(weight=(0, 1), normalize=True)
    rest = {"density": (1.0, 1.0), "normalize": False, "rescale": False, "int8_mask": False}
    assert ADD.nothing(weight=(0.0, 0.0), lambda_=1.0, **rest) and ADD.nothing(weight=(1.0, 1.0), lambda_=0.0, **rest)
    assert not ADD.nothing(weight=(0.0, 1e-9), lambda_=1.0, **rest)


def test_weights_that_sum_to_zero_cannot_be_normalized(tmp_path):
    _, models = random_models(2)
    with pytest.raises(PlanError, match=r"sum to zero.*normalize: false"):
        merged(recipe_for(tmp_path, "linear", models, each={"weight": (1.0, -1.0)}))
    got = merged(recipe_for(tmp_path, "linear", models, each={"weight": (1.0, -1.0)}, normalize=False))
    assert torch.allclose(got["matrix"], models[0]["matrix"] - models[1]["matrix"])
