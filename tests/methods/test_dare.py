"""dare_linear and dare_ties: counter masks, three ways to rescale. Authority: numpy on the masks, and statistics."""

import math

import numpy as np
import pytest
import torch
from formulas import add, agree
from merging import merged, random_models, recipe_for, same_bits

import expo
from expo.errors import RecipeError
from expo.methods import find_method
from expo.methods.sparse import n_passing

WEIGHT, DENSITY = (0.6, 0.5), (0.3, 0.7)
FORMULA = {"dare_linear": add, "dare_ties": agree}


def run(folder, method, models, base, weight=WEIGHT, density=DENSITY, tile=65_536, threads=1, **options):
    each = {"weight": weight, "density": density}
    return merged(recipe_for(folder, method, models, base=base, each=each, **options), tile=tile, threads=threads)


def masks(folder, base, models, density=DENSITY, **options):
    """[model][name] -> which elements stay: those that a merge of this model alone moves."""
    found = []
    for i in range(len(models)):
        weight = tuple(float(i == j) for j in range(len(models)))
        got = run(folder, "dare_linear", models, base, weight, density, rescale=False, **options)
        found.append({n: (got[n] != base[n]).numpy() for n in base})
    return found


@pytest.mark.parametrize("method", FORMULA)
@pytest.mark.parametrize("rescale", [True, False, "density"])
@pytest.mark.parametrize("normalize", [True, False])
def test_it_is_the_formula_of_numpy_on_its_own_masks(tmp_path, method, rescale, normalize):
    base, models = random_models(2)
    kept = masks(tmp_path / "alone", base, models)
    got = run(tmp_path, method, models, base, rescale=rescale, normalize=normalize, **{"lambda": 0.7})
    for name in base:
        start = base[name].double().numpy()
        full = [m[name].double().numpy() - start for m in models]
        deltas = [np.where(mask[name], d, 0) for mask, d in zip(kept, full, strict=True)]
        factors = [1.0, 1.0]
        if rescale is True:
            before, after = ([np.abs(d).sum() for d in ds] for ds in (full, deltas))
            factors = [b / a if min(a, b) > 1e-7 else 1.0 for b, a in zip(before, after, strict=True)]
        if rescale == "density":
            factors = [65536 / round(p * 65536) for p in DENSITY]
        if method == "dare_linear":
            deltas = [f * d for f, d in zip(factors, deltas, strict=True)]
            want = add(start, deltas, WEIGHT, normalize=normalize, scale=0.7)
        else:
            want = agree(start, deltas, WEIGHT, normalize=normalize, scale=0.7, factors=factors)
        assert np.allclose(got[name].numpy(), want, rtol=1e-6, atol=2e-6), name


def test_a_matrix_of_four_by_four_whose_mask_the_hand_reads_off(tmp_path):
    base, model = {"w": torch.zeros(4, 4)}, {"w": torch.ones(4, 4)}
    kept = run(tmp_path, "dare_linear", [model], base, (1.0,), (0.5,), rescale=False)["w"]
    n = int(kept.sum())
    assert set(kept.view(-1).tolist()) == {0.0, 1.0} and 2 <= n <= 14
    assert torch.equal(run(tmp_path, "dare_linear", [model], base, (1.0,), (0.5,))["w"], kept * (16 / n))
    assert torch.equal(run(tmp_path, "dare_ties", [model], base, (1.0,), (0.5,), rescale="density")["w"], kept * 2)


@pytest.mark.parametrize("density", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_each_element_stays_with_the_asked_probability_and_independently(tmp_path, density):
    n = 1_200_000
    base = {"a": torch.zeros(n), "b": torch.zeros(n)}
    model = {name: torch.ones(n) for name in base}
    first, second = masks(tmp_path, base, [model, model], (density, density))
    spread = math.sqrt(density * (1 - density) / n)
    for kept in (*first.values(), *second.values()):
        assert abs(kept.mean() - density) < 4.5 * spread + 1 / 131_072
        assert abs(kept[1:][kept[:-1]].mean() - density) < 4.5 * spread / math.sqrt(density) + 1 / 131_072
    for one, two in ((first["a"], second["a"]), (first["a"], first["b"])):
        both = density * density
        assert abs((one & two).mean() - both) < 4.5 * math.sqrt(both / n) + 1 / 65_536


def test_the_seed_decides_the_masks_and_nothing_else_does(tmp_path):
    base, models = random_models(2, shapes={"w": (300, 70)})
    first = run(tmp_path, "dare_ties", models, base)
    assert same_bits(first, run(tmp_path, "dare_ties", models, base))
    assert not same_bits(first, run(tmp_path, "dare_ties", models, base, seed=1))
    more = {"another": torch.ones(5), **base}
    others = [{"another": torch.zeros(5), **model} for model in models]
    assert torch.equal(run(tmp_path, "dare_ties", others, more)["w"], first["w"])


@pytest.mark.parametrize(("method", "rescale"), [("dare_linear", True), ("dare_ties", True), ("dare_ties", "density")])
def test_neither_tiles_nor_threads_change_a_bit(tmp_path, method, rescale):
    shapes = {"big": (1050, 1000), "odd": (300, 7), "one": (1,), "empty": (0, 3)}
    base, models = random_models(2, dtype=torch.bfloat16, shapes=shapes)
    usual = run(tmp_path, method, models, base, rescale=rescale)
    for tile, threads in ((9_999, 4), (1 << 21, 1)):
        assert same_bits(run(tmp_path, method, models, base, tile=tile, threads=threads, rescale=rescale), usual)


def test_a_density_of_one_keeps_all_and_of_zero_nothing(tmp_path):
    base, models = random_models(2)
    all_kept = run(tmp_path, "dare_linear", models, base, density=(1.0, 1.0))
    assert same_bits(
        all_kept, merged(recipe_for(tmp_path, "task_arithmetic", models, base=base, each={"weight": WEIGHT}))
    )
    assert same_bits(run(tmp_path, "dare_ties", models, base, density=(0.0, 0.0)), base)
    one = run(tmp_path, "dare_linear", models, base, density=(0.0, 1.0), rescale="density")
    assert same_bits(one, run(tmp_path, "task_arithmetic", models, base, (0.0, WEIGHT[1]), (1.0, 1.0)))


def test_probabilities_are_the_nearest_of_65536_but_never_zero_or_one():
    assert [n_passing(p) for p in (0.0, 1e-9, 0.5, 1 - 1e-9, 1.0)] == [0, 1, 32768, 65535, 65536]


def test_elements_that_do_not_move_keep_their_bits(tmp_path):
    base = {"w": torch.tensor([-0.0, 0.0, 1.0, -2.0] * 100)}
    models = [{"w": base["w"].clone()}, {"w": base["w"].clone()}]
    for model in models:
        model["w"][200:] += 1
    for method in FORMULA:
        got = run(tmp_path, method, models, base)
        still = got["w"][:200]
        assert torch.equal(still.view(torch.int32), base["w"][:200].view(torch.int32))


def test_rescale_is_true_false_or_density(tmp_path):
    base, models = random_models(1)
    with pytest.raises(RecipeError, match=r"rescale.*true or false or density"):
        run(tmp_path, "dare_ties", models, base, (1.0,), (0.5,), rescale="densty")
    assert find_method("dare_ties").parameters["rescale"].default is True
    assert expo.plan(recipe_for(tmp_path, "dare_ties", models, base=base, each={"weight": (1.0,)}, rescale=False))
