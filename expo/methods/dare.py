"""What dare_linear and dare_ties share: which elements are dropped, and how the rest makes up for them. Private."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from expo.methods.declare import Each, Here, Surveyed
from expo.methods.sparse import PASSES, Sparse, dropped, n_passing, rescaled


def survey(tensors: Sequence[Surveyed]) -> Generator[Any, Any, list[Sparse]]:
    """The factors that give each dropped delta the L1 norm it had before, where that is asked for."""
    found = [Sparse() for _ in tensors]
    if passes(tensors[0]):
        found = yield from rescaled(tensors, dropped, found)
    return found


def passes(tensor: Surveyed) -> int:
    """How often the survey reads a tensor."""
    return tensor.parameters["rescale"] is True and min(tensor.parameters["density"]) < 1


def factors(rescale: bool | str, density: Each, here: Here) -> tuple[float, ...]:
    """By what each dropped delta is multiplied: "density" is the published 1 / p."""
    if rescale == "density":
        return tuple(PASSES / n_passing(p) if p > 0 else 1.0 for p in density)
    return here.surveyed.factors or (1.0,) * len(density)
