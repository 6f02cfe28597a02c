"""Tiny merge methods for tests, registered by @method and removed again."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from expo.methods.declare import ALIASES, METHODS, Each, method

if TYPE_CHECKING:
    from torch import Tensor


@contextlib.contextmanager
def registry():
    """What is registered inside is forgotten afterwards."""
    held = dict(METHODS), dict(ALIASES)
    try:
        yield METHODS
    finally:
        for table, old in zip((METHODS, ALIASES), held, strict=True):
            table.clear()
            table.update(old)


def register_fakes() -> None:
    """fake_mean (models, a weight each), fake_step (base, one model, t), fake_ties (base, models), fake_copy (one)."""

    @method(donor="first")
    def fake_mean(*models: Tensor, weight: Each, normalize: bool = True) -> Tensor:
        """sum of weight * model / sum of weight."""
        total = sum(weight) if normalize else 1.0
        return sum(x * (w / total) for x, w in zip(models, weight, strict=True))

    @method(ranges={"t": (0, 1)})
    def fake_step(base: Tensor, model: Tensor, *, t: float) -> Tensor:
        """base + t * (model - base)."""
        return base + (model - base) * t

    @method(ranges={"density": (0, 1)})
    def fake_ties(
        base: Tensor, *models: Tensor, weight: Each, density: Each = 1.0, lambda_: float = 1.0, rescale: bool = False
    ) -> Tensor:
        """base + lambda * sum of weight * density * (model - base)."""
        rows = zip(models, weight, density, strict=True)
        return base + sum((x - base) * (w * d) for x, w, d in rows) * lambda_

    @method(donor="first")
    def fake_copy(model: Tensor, *, scale: float = 1.0) -> Tensor:
        """scale * model."""
        return model * scale


def register_missing(names: dict[str, str]) -> None:
    """Stand-ins for methods that are not there: name -> the kind that it is like (ties, step, mean or copy)."""
    with registry():
        register_fakes()
        fakes = {kind: METHODS["fake_" + kind] for kind in ("ties", "step", "mean", "copy")}
    for name, kind in names.items():
        if name not in METHODS:
            METHODS[name] = fakes[kind]
