"""One recipe or more for every registered method, on random tensors of several shapes; and what float64 makes of it.

Run as a program it prints a digest of every output, for a test that starts it under two hash seeds.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import xxhash
from engine import raw
from formulas_float64 import FORMULAS
from merging import merged, recipe_for

from expo.methods import METHODS
from expo.ops import noise_key, noise_over
from expo.recipe import Recipe

SEED = 3
SHAPES = {"matrix": (200, 200), "wide": (50, 1000), "experts": (4, 60, 50), "vector": (513,), "one": (1,), "scalar": ()}
SPECTRAL = {"matrix": (96, 64), "wide": (40, 120), "experts": (3, 24, 20), "vector": (65,), "one": (1,), "scalar": ()}
SMALL = {"matrix": (60, 50), "wide": (9, 999), "experts": (4, 12, 10), "vector": (65,), "one": (1,), "scalar": ()}
RELATIVE = (0.1, 0.03, 0.01)  # each model's step, in units of the weights' spread


@dataclass(frozen=True)
class Case:
    """One method with parameters; each: those of every model."""

    method: str
    each: dict[str, tuple[float, ...]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    n_models: int = 2
    base: bool = True
    relative: tuple[float, ...] = RELATIVE

    @property
    def id(self) -> str:
        said = [f"{key}={value}" for key, value in (self.each | self.options).items()]
        return " ".join([self.method, *(["no base"] if not self.base else []), *said]).replace(", ", ",")

    def recipe(self, folder: Path, tensors: list[dict[str, torch.Tensor]], **fields: Any) -> Recipe:
        """The recipe for tensors as `draw` makes them: the base, then the models."""
        base, models = (tensors[0], tensors[1:]) if self.base else (None, tensors)
        return recipe_for(folder, self.method, models, base=base, each=self.each, seed=SEED, **self.options, **fields)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Small ones where each matrix is decomposed."""
        return SPECTRAL if "spectral" in METHODS[self.method].parameters else SHAPES

    def draw(self, dtype: torch.dtype, shapes: dict | None = None, seed: int = 0) -> list[dict[str, torch.Tensor]]:
        """Random checkpoints: the base first where there is one; every seventh element is the same in all of them."""
        noise, shapes = torch.Generator().manual_seed(seed), shapes or self.shapes
        spread = {name: 1.0 if len(shape) == 1 else 0.02 for name, shape in shapes.items()}
        base = {name: spread[name] * torch.randn(shape, generator=noise) for name, shape in shapes.items()}
        found = [base] if self.base else []
        for i in range(self.n_models):
            steps = {n: self.relative[i] * spread[n] * torch.randn(t.shape, generator=noise) for n, t in base.items()}
            for step in steps.values():
                step.view(-1)[::7] = 0
            found.append({name: tensor + steps[name] for name, tensor in base.items()})
        return [{name: tensor.to(dtype) for name, tensor in tensors.items()} for tensors in found]

    def exact(self, tensors: list[dict[str, torch.Tensor]]) -> dict[str, np.ndarray]:
        """What the formula makes of them in float64, by tensor name; of a model ranked as one, as one."""
        parameters = self.each | {{"lambda": "scale"}.get(key, key): value for key, value in self.options.items()}
        wide = [{name: tensor.double().numpy() for name, tensor in model.items()} for model in tensors]
        if parameters.pop("trim_scope", "tensor") == "model":
            wide = [{"all": np.concatenate([model[n].reshape(-1) for n in sorted(model)])} for model in wide]
        found = {}
        for name in wide[0]:
            arrays = [model[name] for model in wide]
            base, models = (arrays[0], arrays[1:]) if self.base else (None, arrays)
            found[name] = np.asarray(FORMULAS[self.method](base, models, draws_for(name), **parameters))
        return found


def draws_for(name: str):
    """The engine's documented noise as uniform numbers: keyed by seed, purpose, output tensor, model."""

    def draws(model: int, shape: tuple[int, ...]) -> np.ndarray:
        n = int(np.prod(shape))
        noise = noise_over(noise_key(SEED, "mask", name, model), 0, n, bits=16)
        return ((noise.to(torch.int64) + 32768).double() / 65536).numpy().reshape(shape)

    return draws


# No small multiples of one number: on the coarse grid of bfloat16 those make exact draws, which float32 cannot tell.
W2, W3 = {"weight": (0.7131, 0.4279)}, {"weight": (0.5219, 0.3137, 0.4051)}
ALL = [
    Case("extrapolate", {}, {"alpha": 0.3}, 1),
    Case("extrapolate", {"weight": (1.0, 3.0)}, {"alpha": 0.5}),
    Case("linear", W3, {}, 3, base=False),
    Case("linear", W2, {"normalize": False}, base=False),
    Case("task_arithmetic", {"weight": (1.3,)}, {}, 1),
    Case("task_arithmetic", W3, {"lambda": 0.8}, 3),
    Case("task_arithmetic", W2, {"normalize": True}),
    Case("ties", W3 | {"density": (0.2, 0.5, 1.0)}, {}, 3),
    Case("ties", {"weight": (1.0, -0.5), "density": (0.3, 0.7)}, {"lambda": 1.5, "normalize": False}),
    Case("ties", W2 | {"density": (0.3, 0.7)}, {"rescale": True}),
    Case("ties", W2 | {"density": (0.1, 0.4)}, {"trim_scope": "model"}),
    Case("dare_linear", W2 | {"density": (0.3, 0.7)}, {"rescale": "density"}),
    Case("dare_linear", W2 | {"density": (0.5, 1.0)}, {"normalize": True, "lambda": 1.1}),
    Case("dare_ties", W3 | {"density": (0.53, 0.5, 0.08)}, {}, 3),
    Case("dare_ties", W2 | {"density": (0.3, 0.7)}, {"rescale": False, "normalize": True}),
    Case("breadcrumbs", W2 | {"density": (0.6, 0.9), "gamma": (0.01, 0.05)}),
    Case("breadcrumbs", W2 | {"density": (0.995, 0.3), "gamma": (0.01, 0.0)}, {"rescale": True}),
    Case("breadcrumbs_ties", W2 | {"density": (0.6, 0.9), "gamma": (0.01, 0.05)}, {"lambda": 0.9}),
    Case("della", W2 | {"density": (0.6, 0.5), "epsilon": (0.1, 0.35)}, {}),
    Case("della", W3 | {"density": (0.6, 0.5, 1.0), "epsilon": (0.1, 0.2, 0.0)}, {"rescale": False}, 3),
    Case("della_linear", W2 | {"density": (0.8, 0.7), "epsilon": (0.1, 0.25)}),
    Case("della_linear", W2 | {"density": (0.3, 0.5), "epsilon": (0.2, 0.1)}, {"rescale": "density", "lambda": 0.9}),
    Case("slerp", {}, {"t": 0.3}, 1),
    Case("slerp", {}, {"t": 0.7}, 1, relative=(0.02,)),
    Case("nuslerp", W2, {}, base=False),
    Case("nuslerp", W2, {}),
    Case("nuslerp", W2, {"nuslerp_flatten": False}),
    Case("nuslerp", W2, {"nuslerp_flatten": False, "nuslerp_row_wise": True}, base=False),
    Case("multislerp", W3, {}, 3, base=False),
    Case("multislerp", W3, {}, 3),
    Case("multislerp", W2, {"normalize_weights": False}),
    Case("karcher", {}, {}, 3, base=False),
    Case("model_stock", {}, {}, 3),
    Case("model_stock", {}, {"filter_wise": True}),
    Case("sce", {}, {"select_topk": 0.25}, 3),
    Case("sce", {}, {"select_topk": 1.0}),
    Case("nearswap", {}, {"t": 0.001}, 1),
    Case("arcee_fusion", {}, {}, 1),
    Case("ram", {}, {"epsilon": 1e-4}, 3),
    Case("ramplus_tl", {}, {"epsilon": 1e-3, "r": 0.2, "alpha": 0.5}, 3),
    Case("passthrough", {}, {}, 1, base=False),
    Case("passthrough", {"scale": (0.9,)}, {}, 1, base=False),
    Case("tsv_m", {}, {"lambda": 0.8}, 3),
    Case("iso_c", {}, {"lambda": 1.2}, 3),
]
SHIPPED = [name for name, method in METHODS.items() if method.apply.__module__.startswith("expo.methods.")]
CASES = [case for case in ALL if case.method in METHODS]


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """One hash of all tensors' names and bytes."""
    found = xxhash.xxh3_128()
    for name, tensor in tensors.items():
        found.update(name.encode())
        found.update(raw(tensor))
    return found.hexdigest()


def digests() -> dict[str, str]:
    """Case -> the digest of its output for bfloat16 inputs."""
    found = {}
    with TemporaryDirectory() as folder:
        for i, case in enumerate(CASES):
            recipe = case.recipe(Path(folder) / str(i), case.draw(torch.bfloat16, SMALL))
            found[case.id] = digest(merged(recipe, threads=2))
    return found


if __name__ == "__main__":
    json.dump(digests(), sys.stdout)
