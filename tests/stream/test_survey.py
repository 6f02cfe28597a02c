"""A survey finds exactly what numpy finds, whatever the tiles, threads and processes."""

import math

import numpy as np
import pytest
import torch
from engine import streamed
from safetensors.torch import save_file

import expo
from expo.methods.declare import METHODS, method
from expo.methods.survey import Sums, largest
from expo.recipe import Recipe
from expo.stream import workers
from expo.stream.loop import settings_for
from expo.stream.survey import survey

SHAPES = {
    "big": (1100, 1000),
    "ties": (513, 300),
    "small": (7,),
    "one": (1,),
    "scalar": (),
    "empty": (0, 4),
    "zeros": (50,),
}


def magnitudes(base, other, *, keep, together, here=None):
    return [(other - base).abs()]


def kept(tensors):
    size = sum(tensor.n_elements for tensor in tensors)
    cuts = yield from largest(tensors, magnitudes, [int(tensors[0].parameters["keep"] * size)])
    sums = yield Sums(lambda base, other, **_: [base * other, other * other])
    return list(zip(cuts, sums, strict=True))


def register():
    @method(survey=kept, model_scope=lambda keep, together: together, ranges={"keep": (0, 1)})
    def picked(base, other, *, keep: float = 0.5, together: bool = False, here):
        """other where its delta is among the largest, else base."""
        (cut,), _ = here.surveyed
        magnitude = (other - base).abs()
        index = torch.arange(here.start, here.start + len(base))
        return other.where((magnitude > cut.value) | ((magnitude == cut.value) & (index < cut.before)), base)


@pytest.fixture
def pair(tmp_path):
    register()
    noise = torch.Generator().manual_seed(3)
    tensors = {}
    for role in ("base", "other"):
        tensors[role] = {name: torch.randn(shape, generator=noise) for name, shape in SHAPES.items()}
    tensors["other"]["ties"] = tensors["base"]["ties"] + torch.randint(-2, 3, (513, 300), generator=noise) * 0.25
    tensors["other"]["zeros"] = tensors["base"]["zeros"].clone()
    for role, content in tensors.items():
        (tmp_path / role).mkdir()
        save_file({name: t.to(torch.bfloat16) for name, t in content.items()}, tmp_path / role / "model.safetensors")
    yield {role: str(tmp_path / role) for role in tensors}
    METHODS.pop("picked")


def recipe(pair, dtype=None, **parameters):
    return Recipe("picked", pair, parameters, base="base", dtype=dtype)


def read(held, dtype):
    if dtype:
        return np.frombuffer(held, np.float32)
    return (np.frombuffer(held, np.uint16).astype(np.uint32) << 16).view(np.float32)


def wide(pair):
    from safetensors.torch import load_file

    return [
        {n: t.double().numpy().reshape(-1) for n, t in load_file(f"{pair[r]}/model.safetensors").items()} for r in pair
    ]


def expected(base, other, k, dtype=None):
    """other at the k largest |other - base|, the earlier element first among equals; in the engine's own width."""
    computed = np.float64 if dtype else np.float32
    magnitude = np.abs(other.astype(computed) - base.astype(computed))
    order = np.lexsort((np.arange(len(base)), -magnitude))
    result = base.copy()
    result[order[:k]] = other[order[:k]]
    return result


@pytest.mark.parametrize("dtype", [None, "float32"])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.3, 0.5, 0.999, 1.0])
def test_the_largest_elements_are_numpys_with_ties_by_index(pair, keep, dtype):
    held, _ = streamed(recipe(pair, dtype, keep=keep))
    base, other = wide(pair)
    for name in SHAPES:
        k = int(keep * base[name].size)
        assert np.array_equal(read(held[name], dtype), expected(base[name], other[name], k, dtype)), name


@pytest.mark.parametrize("keep", [0.2, 0.7])
def test_the_scope_of_the_model_ranks_all_tensors_as_one(pair, keep):
    plan = expo.plan(recipe(pair, keep=keep, together=True))
    held, _ = streamed(plan)
    base, other = wide(pair)
    names = [job.name for job in plan.jobs]
    whole = expected(
        np.concatenate([base[n] for n in names]), np.concatenate([other[n] for n in names]),
        int(keep * sum(base[n].size for n in names)),
    )  # fmt: skip
    assert np.array_equal(np.concatenate([read(held[n], None) for n in names]), whole)


@pytest.mark.parametrize(("tile", "threads"), [(1000, 1), (4096, 3), (65_536, 2), (1 << 21, 1)])
def test_neither_tiles_nor_threads_change_a_bit_of_what_is_found(pair, tile, threads):
    plan = expo.plan(recipe(pair, keep=0.37))
    usual = survey(plan, settings_for(plan), 1)
    assert survey(plan, settings_for(plan, tile=tile), threads) == usual
    assert streamed(plan, tile=tile, threads=threads)[0] == streamed(plan)[0]


def test_processes_find_the_same_as_threads(pair, monkeypatch):
    plan = expo.plan(recipe(pair, keep=0.37))
    usual = survey(plan, settings_for(plan), 1)
    monkeypatch.setattr(workers, "FORK_ABOVE", 0)
    if not workers.is_safe():
        pytest.skip("another thread runs in this process")
    assert survey(plan, settings_for(plan), 3) == usual


def test_sums_are_those_of_float64_to_seven_digits(pair):
    plan = expo.plan(recipe(pair))
    base, other = wide(pair)
    for name, (_, (mixed, squared)) in survey(plan, settings_for(plan), 1).items():
        scale = np.abs(base[name] * other[name]).sum() or 1.0
        assert math.isclose(mixed, (base[name] * other[name]).sum(), rel_tol=0, abs_tol=1e-7 * scale)
        assert math.isclose(squared, (other[name] ** 2).sum(), rel_tol=1e-6)
