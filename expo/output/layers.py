"""config.json of a model whose layers were picked: their number, and the lists that have one entry a layer."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclass(frozen=True)
class PickedLayers:
    """The layers of one part of the output, by their number in the donor's own model."""

    module: str | None  # such as "encoder"; None for the whole model
    before: int  # how many the donor has
    sources: tuple[int, ...]  # for each layer of the output


def with_layers(config: str, picked: Sequence[PickedLayers]) -> str:
    """The text of config.json for the picked layers."""
    content = json.loads(config)
    for part in picked:
        relayer(content, part)
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def relayer(config: dict[str, Any], picked: PickedLayers) -> bool:
    """Change the config in place; False where it states no such number of layers."""
    stated = [(part, key) for part, key in _stated(config, picked.module) if part[key] == picked.before]
    if not stated:
        return False
    part, key = stated[0]
    part[key] = len(picked.sources)
    for name, value in part.items():
        if isinstance(value, list) and len(value) == picked.before and name != "architectures":
            part[name] = [value[layer] for layer in picked.sources if layer < len(value)]
    return True


def _stated(config: dict[str, Any], module: str | None) -> Iterator[tuple[dict[str, Any], str]]:
    """(object, key) of each number that may be the layers of a module, the likeliest first."""
    inner = [value for name, value in config.items() if isinstance(value, dict) and _belongs(name, module)]
    last = module.split(".")[-1] if module else ""
    named = [f"{last}_layers", f"num_{last}_layers", *_COUNTS] if module else list(_COUNTS)
    for part in [config, *inner]:
        yield from ((part, key) for key in named if isinstance(part.get(key), int))


def _belongs(name: str, module: str | None) -> bool:
    """Whether an inner config such as text_config describes the module."""
    if module is None:
        return name in ("text_config", "llm_config", "language_config")
    return name.removesuffix("_config") in module
