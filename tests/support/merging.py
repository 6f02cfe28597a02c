"""Merge a few named tensors through the real engine, for tests of methods."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from engine import streamed
from safetensors.torch import save_file

import expo
from expo.recipe import Module, Recipe, Slice, Source

Tensors = Mapping[str, torch.Tensor]
SHAPES = {"matrix": (48, 37), "tall": (70, 9), "vector": (65,), "scalar": (), "experts": (3, 10, 8), "empty": (0, 4)}


def recipe_for(
    folder: Path,
    method: str,
    models: Sequence[Tensors],
    *,
    base: Tensors | None = None,
    each: Mapping[str, Sequence[float]] = {},
    **settings: Any,
) -> Recipe:
    """Write the models below `folder` and return the recipe; each: a value a model; settings: fields or parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    named = ({} if base is None else {"base": base}) | {f"m{i}": model for i, model in enumerate(models)}
    paths = {}
    for name, tensors in named.items():
        paths[name] = str(folder / f"{name}.safetensors")
        save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, paths[name])
    own = [{key: values[i] for key, values in each.items()} for i in range(len(models))]
    sources = [Source(f"m{i}", parameters=given) for i, given in enumerate(own)]
    if base is not None:
        sources.insert(0, Source("base"))
    fields = {key: settings.pop(key) for key in list(settings) if key in Recipe.__dataclass_fields__}
    modules = (Module((Slice(tuple(sources)),)),)
    return Recipe(method, paths, settings, base and "base", modules=modules, **fields)


def merged(recipe: Recipe, *, tile: int = 65_536, threads: int = 1) -> dict[str, torch.Tensor]:
    """The output's tensors, from a run into memory."""
    plan = expo.plan(recipe)
    held, _ = streamed(plan, tile=tile, threads=threads)
    return {
        job.name: torch.frombuffer(bytearray(held[job.name] or bytes(1)), dtype=torch.uint8)[: len(held[job.name])]
        .view(getattr(torch, job.dtype.torch_name))
        .reshape(job.shape)
        for job in plan.jobs
    }


def random_models(n: int, *, dtype=torch.float32, seed: int = 0, relative: float = 0.3, shapes=SHAPES):
    """(base, n models): the models lie `relative` of a weight away, and share every fifth element with the base."""
    noise = torch.Generator().manual_seed(seed)
    base = {name: torch.randn(shape, generator=noise) for name, shape in shapes.items()}
    models = []
    for _ in range(n):
        model = {name: t + relative * torch.randn(t.shape, generator=noise) for name, t in base.items()}
        for name, tensor in model.items():
            tensor.view(-1)[::5] = base[name].view(-1)[::5]
        models.append({name: tensor.to(dtype) for name, tensor in model.items()})
    return {name: tensor.to(dtype) for name, tensor in base.items()}, models


def worst(got: Tensors, want: Tensors) -> float:
    """The largest error relative to the largest value of its tensor."""
    errors = [
        float((got[name].double() - want[name].double()).abs().max() / want[name].double().abs().max().clamp(min=1e-30))
        for name in want
        if want[name].numel()
    ]
    return max(errors)


def same_bits(a: Tensors, b: Tensors) -> bool:
    """Whether two outputs hold the same bytes."""
    return a.keys() == b.keys() and all(
        torch.equal(a[name].view(-1).view(torch.uint8), b[name].view(-1).view(torch.uint8)) for name in a
    )
