"""config.json of a model whose layers were picked: their number, and the lists that have one entry a layer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SIDED = ("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers")
_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_OF_TOWERS = ("depth", "encoder_layers")
_TEXT = ("text_config", "llm_config", "language_config")


@dataclass(frozen=True)
class PickedLayers:
    """The layers of one stack of the output, by their number in the donor's own model."""

    stack: str | None  # such as "model.encoder.layers", in the donor
    before: int  # how many the donor has
    sources: tuple[int, ...]  # for each layer of the output

    @property
    def are_all(self) -> bool:
        """Whether the output has the donor's layers in the donor's order."""
        return self.sources == tuple(range(self.before))


def with_layers(config: str, picked: Sequence[PickedLayers]) -> str:
    """The text of config.json for the picked layers."""
    content = json.loads(config)
    for part in picked:
        relayer(content, part)
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def relayer(config: dict[str, Any], picked: PickedLayers) -> bool:
    """Change the config in place; False where it states no such number of layers."""
    stated = [(part, key) for part, key in _stated(config, picked.stack or "") if part[key] == picked.before]
    if not stated:
        return False
    part, key = stated[0]
    side = side_of(picked.stack or "") if _has_sides(part) else None
    if key == "num_layers" and side:  # T5's: the encoder's number, and the decoder's where that has none
        _relayer_shared(part, side, picked)
    else:
        part[key] = len(picked.sources)
    if key == "encoder_layers" and part.get("num_hidden_layers") == picked.before:  # BART's and Whisper's copy
        part["num_hidden_layers"] = len(picked.sources)
    for name, value in part.items():
        if isinstance(value, list) and len(value) == picked.before and _follows(name, side):
            part[name] = [value[layer] for layer in picked.sources if layer < len(value)]
    return True


def side_of(stack: str) -> str | None:
    """ "encoder" or "decoder", where a stack's name says so."""
    return next((part for part in stack.split(".") if part in ("encoder", "decoder")), None)


def tower_of(config: Mapping[str, Any], stack: str) -> str | None:
    """The key of the inner config that is about the stack, such as vision_config; none for the language model."""
    for part in stack.split("."):
        for name, value in config.items():
            if isinstance(value, dict) and name not in _TEXT and _is_named(part, name.removesuffix("_config")):
                return name
    return None


def _is_named(component: str, tower: str) -> bool:
    return component.startswith(tower) or (tower == "vision" and component.startswith("visual"))


def _stated(config: dict[str, Any], stack: str) -> Iterator[tuple[dict[str, Any], str]]:
    """(object, key) of each number that may be the layers of a stack, the likeliest first."""
    tower = tower_of(config, stack)
    parts = [config[tower]] if tower else [config, *(config[name] for name in _TEXT if name in config)]
    for part in parts:
        if isinstance(part, dict):
            keys = [*_keys(part, side_of(stack)), *(_OF_TOWERS if tower else ())]
            yield from ((part, key) for key in keys if isinstance(part.get(key), int))


def _keys(part: Mapping[str, Any], side: str | None) -> Sequence[str]:
    """The names under which a config may state the number of layers of one side."""
    if side is None or not _has_sides(part):
        return _COUNTS
    own = [key for key in (f"{side}_layers", f"num_{side}_layers") if part.get(key) is not None]
    return own or (_COUNTS if side == "encoder" else ("num_layers",))


def _relayer_shared(part: dict[str, Any], side: str, picked: PickedLayers) -> None:
    n_layers = len(picked.sources)
    if side == "decoder":
        part["num_decoder_layers"] = n_layers
        return
    if part.get("num_decoder_layers") is None:
        part["num_decoder_layers"] = part["num_layers"]
    part["num_layers"] = n_layers


def _has_sides(part: Mapping[str, Any]) -> bool:
    return bool(part.get("is_encoder_decoder")) or any(key in part for key in SIDED)


def _follows(name: str, side: str | None) -> bool:
    """Whether a list as long as the layers has one entry a layer: token ids and classes do not, by their names."""
    if name == "architectures" or "token" in name or name.endswith("_ids"):
        return False
    return side is None or (side == "decoder") == ("decoder" in name)
