"""How a recipe's models make up the output: modules of slices of sources. Plain records."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Source:
    """One model in one slice."""

    model: str  # its name in the recipe
    layers: tuple[int, int] | None = None  # first layer and the one past the last; None: the whole model
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """Consecutive layers of the output, merged from as many layers of each source."""

    sources: tuple[Source, ...]
    base: str | None = None  # instead of the recipe's base
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def n_layers(self) -> int | None:
        """Layers of the output that it makes; None for whole models."""
        layers = self.sources[0].layers
        return None if layers is None else layers[1] - layers[0]


@dataclass(frozen=True)
class Module:
    """One part of the model, such as an encoder: the tensors whose names have its name as a component."""

    slices: tuple[Slice, ...]
    name: str | None = None  # None: the whole model
    parameters: dict[str, Any] = field(default_factory=dict)
