"""Every registered method is its formula in float64, rounded once, in the same bits however it is cut and run.

Authority: support/formulas_float64, written from the papers and from mergekit's behaviour, and the statistics of masks.
A method without a case in support/every_method fails here.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from every_method import CASES, SEED, SHAPES, SHIPPED, SMALL, Case, digest, digests
from merging import merged, same_bits
from oracle import rounded, step

from expo.methods import METHODS
from expo.ops import SEGMENT
from expo.stream.tile import ComputedTile

FORMS = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
STRICT = {"extrapolate", "linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "passthrough", "nearswap"}
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
MIXED = [(BF16, F16, F32), (BF16, F32, BF16), (F32, BF16, F16)]  # of the base, of the others, of the output
RANDOM = {"dare_linear": {}, "dare_ties": {}, "della": {"epsilon": 0.0}, "della_linear": {"epsilon": 0.0}}
FIRST = {case.method: case for case in reversed(CASES)}
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def flat(tensors: dict) -> np.ndarray:
    """All elements of all tensors, by name, as one float64 array."""
    ordered = [tensors[name] for name in sorted(tensors)]
    parts = [t.double().numpy() if isinstance(t, torch.Tensor) else t for t in ordered]
    return np.concatenate([part.reshape(-1) for part in parts])


def off(got: np.ndarray, want: np.ndarray, form: str) -> tuple[np.ndarray, np.ndarray]:
    """Where an element is not the correctly rounded one, and where it is further than one step from it.

    float64 cannot tell on which side of a midpoint its last bits lie: there both neighbours are right.
    """
    slack = np.abs(want) * 2.0**-48
    low, high = rounded(want - slack, form), rounded(want + slack, form)
    wrong = (got < low) | (got > high)
    right = rounded(want, form)
    return wrong, np.abs(got - right) > step(np.maximum(np.abs(got), np.abs(right)), form)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_registered_method_has_a_case(name):
    assert name in {case.method for case in CASES}, (
        f"give {name} a formula in formulas_float64 and a Case in every_method"
    )


@pytest.fixture(scope="module", autouse=True)
def the_donor_stays():
    """In every run of this file: no method writes into the donor's tile, which the report is measured against."""
    compute, changed = ComputedTile.call_with, []

    def watched(tile, function, start, **options):
        before = tile.donor.clone()
        found = compute(tile, function, start, **options)
        if isinstance(found, torch.Tensor) and not torch.equal(before, tile.donor):
            changed.append(tile.job.method)
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ComputedTile, "call_with", watched)
        yield
    assert not changed


@pytest.mark.parametrize("dtype", FORMS, ids=FORMS.get)
@each_case
def test_it_is_the_formula_in_float64_rounded_once(tmp_path, case, dtype):
    shapes = {**SMALL, "matrix": (100, 300)} if dtype is not BF16 and case.shapes is SHAPES else case.shapes
    tensors = case.draw(dtype, shapes)
    got, want = flat(merged(case.recipe(tmp_path, tensors))), flat(case.exact(tensors))
    assert np.isfinite(want).all()
    wrong, far_off = off(got, want, FORMS[dtype])
    assert far_off.mean() <= 1e-3
    if case.method in STRICT:
        start = flat(tensors[0])
        small = np.abs(want - start) <= 0.1 * np.abs(start)
        assert small.sum() > 5_000
        assert wrong[small].mean() <= (1e-3 if dtype is F16 else 1e-4)
        assert (wrong & ~small).sum() <= max(1, 1e-3 * (~small).sum())


@pytest.mark.parametrize("types", MIXED, ids=lambda types: " ".join(FORMS[t] for t in types))
@pytest.mark.parametrize("name", SHIPPED)
def test_inputs_of_several_types_are_widened_before_they_meet(tmp_path, name, types):
    own, others, out = types
    case = FIRST[name]
    first, *rest = case.draw(torch.float64, {**SMALL, "matrix": (60, 500)} if case.shapes is SHAPES else SMALL)
    tensors = [{n: t.to(own) for n, t in first.items()}, *({n: t.to(others) for n, t in m.items()} for m in rest)]
    got, want = flat(merged(case.recipe(tmp_path, tensors, dtype=FORMS[out]))), flat(case.exact(tensors))
    assert off(got, want, FORMS[out])[1].mean() <= 1e-3


@pytest.mark.parametrize("name", SHIPPED)
def test_neither_tiles_nor_threads_change_a_bit(tmp_path, name):
    case = FIRST[name]
    # One tensor lies across two segments, save where each is decomposed whole.
    shapes = {"big": (SEGMENT // 250 + 1, 250), **SMALL} if case.shapes is SHAPES else case.shapes
    recipe = case.recipe(tmp_path, case.draw(BF16, shapes))
    whole = merged(recipe, tile=1 << 30)
    assert same_bits(merged(recipe, tile=65_536, threads=4), whole)
    small = case.recipe(tmp_path / "small", case.draw(BF16, SMALL))
    assert same_bits(merged(small, tile=1000, threads=4), merged(small, tile=1 << 30))


def test_no_hash_seed_changes_a_bit():
    support = Path(__file__).parent.parent / "support"
    path = os.pathsep.join([str(support), str(support.parent.parent), os.environ.get("PYTHONPATH", "")])
    seed = "1" if os.environ.get("PYTHONHASHSEED") == "0" else "0"  # this process has another one
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    run = [sys.executable, str(support / "every_method.py")]
    theirs = json.loads(subprocess.run(run, capture_output=True, text=True, env=environment, check=True).stdout)
    assert theirs == digests()
    assert len(set(theirs.values())) == len(CASES)  # no two cases are the same merge


EXCHANGEABLE = [case for case in CASES if case.n_models > 1 and case.method not in RANDOM]


@pytest.mark.parametrize("case", EXCHANGEABLE, ids=lambda case: case.id)
def test_models_exchanged_with_their_parameters_give_the_same_merge(tmp_path, case):
    tensors = case.draw(F32, SMALL)
    base, models = ([tensors[0]], tensors[1:]) if case.base else ([], tensors)
    turned = Case(case.method, {k: v[::-1] for k, v in case.each.items()}, case.options, case.n_models, case.base)
    got = flat(merged(case.recipe(tmp_path / "a", tensors)))
    back = flat(merged(turned.recipe(tmp_path / "b", [*base, *models[::-1]])))
    assert off(back, got, "F32")[1].mean() <= 1e-3


# --- masks ------------------------------------------------------------------------------------------------------------

N = 400 * 500


def kept_by(
    method: str, folder: Path, density: float, seed: int = SEED, position: int = 0, **each: float
) -> np.ndarray:
    """Which elements of a model stay, as its merge alone shows them; the model is the second where position is 1."""
    base = {"w": torch.zeros(400, 500)}
    noise = torch.Generator().manual_seed(1)
    model = {"w": torch.randn(400, 500, generator=noise).abs() + 0.1}
    weight = tuple(float(i == position) for i in range(position + 1))
    each = {"weight": weight, **{key: (value,) * len(weight) for key, value in (each | {"density": density}).items()}}
    case = Case(method, each, {"rescale": False, "normalize": False}, len(weight))
    recipe = case.recipe(folder, [base, *[model] * len(weight)])
    return (merged(replace(recipe, seed=seed))["w"] != 0).numpy().reshape(-1)


def near_chance(share: float, chance: float, n: int) -> bool:
    """Whether a share of n draws lies within five standard deviations of its chance."""
    return abs(share - chance) <= 5 * math.sqrt(chance * (1 - chance) / n)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.astype(float), b.astype(float))[0, 1])


@pytest.mark.parametrize("method", [name for name in RANDOM if name in METHODS])
def test_masks_keep_their_share_and_know_nothing_of_each_other(tmp_path, method):
    kept = kept_by(method, tmp_path / "a", 0.3, **RANDOM[method])
    assert near_chance(kept.mean(), 0.3, N)
    others = {
        "another model": kept_by(method, tmp_path / "b", 0.3, position=1, **RANDOM[method]),
        "another seed": kept_by(method, tmp_path / "c", 0.3, seed=SEED + 1, **RANDOM[method]),
        "the next element": np.roll(kept, 1),
        "the next but one": np.roll(kept, 2),
        "the row above": np.roll(kept, 500),
    }
    for name, other in others.items():
        assert near_chance(other.mean(), 0.3, N), name
        assert abs(correlation(kept, other)) < 5 / math.sqrt(N), name


@pytest.mark.parametrize("method", [name for name in ("della", "della_linear") if name in METHODS])
def test_della_keeps_by_rank_in_the_row(tmp_path, method):
    kept = kept_by(method, tmp_path, 0.5, epsilon=0.3).reshape(400, 500)
    noise = torch.Generator().manual_seed(1)
    magnitude = (torch.randn(400, 500, generator=noise).abs() + 0.1).numpy()
    by_rank = np.take_along_axis(kept, np.argsort(magnitude, axis=1, kind="stable"), axis=1)
    for tenth in range(10):
        share = by_rank[:, 50 * tenth : 50 * (tenth + 1)].mean()
        middle = 0.2 + 0.6 * (50 * tenth + 24.5) / 499
        assert near_chance(share, middle, 400 * 50), tenth


def test_digests_see_every_byte():
    one = {"a": torch.zeros(3), "b": torch.ones(2)}
    assert digest(one) == digest({name: tensor.clone() for name, tensor in one.items()})
    assert digest(one) != digest({"a": torch.tensor([0.0, -0.0, 0.0]), "b": torch.ones(2)})
