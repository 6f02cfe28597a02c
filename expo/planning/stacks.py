"""Stacks of layers: which ones a model has, which one slices pick from, and which others make that a guess."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from expo.checkpoint.names import layer_of
from expo.checkpoint.spec import TensorSpec
from expo.output.layers import SIDED, side_of, tower_of
from expo.recipe import Module


def inside(module: Module, name: str) -> bool:
    """Whether a module takes a tensor: the module's name is a component of the tensor's."""
    return module.name is None or f".{module.name}." in f".{name}."


def layer_counts(names: Iterable[str]) -> Counter[str]:
    """Layers of each stack."""
    places = {place for place in map(layer_of, names) if place}
    return Counter(stack for stack, _ in places)


def main_stack(table: Mapping[str, TensorSpec], module: Module) -> str | None:
    """The layers that slices pick from: of several stacks the one with the most bytes."""
    sizes = _sizes(table, module)
    return sizes.most_common(1)[0][0] if sizes else None


def shared_in_first(table: Mapping[str, TensorSpec], module: Module) -> set[str]:
    """What the first layer of the main stack has beyond every other layer's tensors, as T5's position bias.

    It serves the whole stack. Empty where another layer has what the first one lacks: then layers are of several kinds.
    """
    stack = main_stack(table, module)
    layers: dict[int, dict[str, str]] = {}
    for name in table:
        place = layer_of(name)
        if place and place[0] == stack and inside(module, name):
            tail = name[len(stack) :].lstrip(".").partition(".")[2]
            layers.setdefault(place[1], {})[tail] = name
    first = layers.pop(0, {})
    others = set().union(*layers.values())
    return {name for tail, name in first.items() if tail not in others} if others and others <= first.keys() else set()


def rivals(table: Mapping[str, TensorSpec], module: Module, config: Mapping[str, Any]) -> list[str]:
    """The stacks that slices could mean, in the table's order; none where only one can be meant."""
    main, sizes = main_stack(table, module), _sizes(table, module)
    others = [stack for stack in sizes if stack != main and _is_rival(stack, main, sizes, config)]
    return [stack for stack in sizes if stack == main or stack in others] if others else []


def free_components(table: Mapping[str, TensorSpec], names: Iterable[str]) -> list[str]:
    """Components of the names' stacks that a module can be called after: no other stack's tensors have them."""
    stacks = {layer_of(name)[0] for name in names}
    places = {name: layer_of(name) for name in table}
    others = {part for name, place in places.items() if place and place[0] not in stacks for part in name.split(".")}
    return list(dict.fromkeys(part for stack in sorted(stacks) for part in stack.split(".") if part not in others))


def _sizes(table: Mapping[str, TensorSpec], module: Module) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for name, spec in table.items():
        place = layer_of(name)
        if place and inside(module, name):
            sizes[place[0]] += spec.n_bytes
    return sizes


def _is_rival(other: str, main: str, sizes: Mapping[str, int], config: Mapping[str, Any]) -> bool:
    """Whether layers may just as well be picked from another stack; a tower such as vision_tower stays whole."""
    tower, own = tower_of(config, other), tower_of(config, main)
    if tower != own:
        return own is not None  # the largest stack is a tower itself
    has_sides = bool(config.get("is_encoder_decoder")) or any(key in config for key in SIDED)
    return (has_sides and side_of(other) is not None) or 2 * sizes[other] >= sizes[main]
