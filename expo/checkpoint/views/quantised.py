"""Which numbers of a checkpoint are quantised, and how: float8 with scales becomes views, other formats are named."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from expo.checkpoint.files import read_small
from expo.checkpoint.spec import Checkpoint, TensorSpec, folder_of
from expo.checkpoint.strict_json import parse_object, shown
from expo.checkpoint.views.scaled import SCALE_TYPES, as_scaled, fitting_block
from expo.errors import ExpoError

FLOAT8 = ("F8_E4M3", "F8_E5M2")
ENTRIES = ("quantization_config", "compression_config")  # of config.json, and of the configs inside it
FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")  # beside config.json
_SCALES = ("_scale_inv", "_scale")
_ACTIVATIONS = re.compile(
    r"(^|\.|_proj_)(input_scale(_inv|_ub)?|activation_scale(_inv)?|output_scale|([qkv]|kv|prob)_scale|prob_output_scale"
    r"|scale_input)$"
)  # the last: of FBGEMM's upper bounds, and of experts that are stacked
_OTHERS = (
    ("weight_packed", "compressed-tensors with packed integers"),
    ("weight_scale_2", "NVFP4"),
    ("weight_global_scale", "NVFP4"),
    ("_blocks", "MXFP4"),
    ("quant_state.bitsandbytes__nf4", "bitsandbytes NF4"),
    ("quant_state.bitsandbytes__fp4", "bitsandbytes FP4"),
    ("absmax", "bitsandbytes"),
    ("SCB", "bitsandbytes int8"),
    ("qzeros", "GPTQ or AWQ"),
    ("qweight", "GPTQ or AWQ"),
)
_NAMES = {
    "awq": "AWQ", "gptq": "GPTQ", "bitsandbytes": "bitsandbytes", "mxfp4": "MXFP4", "nvfp4": "NVFP4", "hqq": "HQQ",
    "aqlm": "AQLM", "gguf": "GGUF", "eetq": "EETQ", "torchao": "torchao", "quanto": "Quanto", "vptq": "VPTQ",
    "higgs": "HIGGS", "spqr": "SpQR", "auto-round": "AutoRound", "bitnet": "BitNet",
}  # fmt: skip


@dataclass(frozen=True)
class Quantised:
    """How a checkpoint's numbers are stored, and what stands in the way of reading them."""

    kind: str  # for people: "float8 with block scales", "GPTQ"
    scaled: Mapping[str, TensorSpec]  # weight -> its view; empty where expo cannot read them
    dropped: Mapping[str, TensorSpec] = field(
        default_factory=dict
    )  # scales of activations, which mean nothing beside unquantised weights
    problems: tuple[str, ...] = ()
    powers: frozenset[str] = frozenset()  # weights whose scales are to be powers of two


def dequantised(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with float8 tensors and their scales as views; `quantised` says what was found.

    A checkpoint without scales or a quantisation entry stays as it is.
    """
    found = find(checkpoint)
    if found is None:
        return checkpoint
    if not found.scaled:
        return replace(checkpoint, quantised=found)
    scales = {spec.view.scale.name for spec in found.scaled.values()}
    tensors = {
        name: found.scaled.get(name, spec)
        for name, spec in checkpoint.tensors.items()
        if name not in scales and name not in found.dropped
    }
    return replace(checkpoint, tensors=tensors, quantised=found)


def find(checkpoint: Checkpoint) -> Quantised | None:
    """What a checkpoint's configs, side files and tensors say of quantisation; None for nothing."""
    folders: dict[str, dict[str, TensorSpec]] = {}
    for name, spec in checkpoint.tensors.items():
        folders.setdefault(folder_of(spec.file) if checkpoint.configs else "", {})[name] = spec
    found = []
    for folder, tensors in folders.items():
        if own := _find(checkpoint.part(folder, tensors)):
            found.append(replace(own, kind=f"{own.kind} in {folder}") if folder and not own.scaled else own)
    return _joined(found) if len(found) > 1 else next(iter(found), None)


def _joined(found: Sequence[Quantised]) -> Quantised:
    """What is said of several folders; a format that cannot be read decides."""
    if unread := next((own for own in found if not own.scaled and not own.problems), None):
        return unread
    return Quantised(
        " and ".join(dict.fromkeys(own.kind for own in found)),
        {name: spec for own in found for name, spec in own.scaled.items()},
        {name: spec for own in found for name, spec in own.dropped.items()},
        tuple(text for own in found for text in own.problems),
        frozenset().union(*(own.powers for own in found)),
    )


def _find(checkpoint: Checkpoint) -> Quantised | None:
    """The same for one config."""
    stated = stated_quantisation(checkpoint)
    other = _other_format(stated or {}, checkpoint.tensors)
    if other:
        return Quantised(other, {})
    wide = {name: spec for name, spec in checkpoint.tensors.items() if spec.dtype.name in FLOAT8}
    paired = {name: scale for name in wide if (scale := _scale_of(name, checkpoint.tensors))}
    if paired:
        return _paired(checkpoint, wide, paired, stated or {})
    alone = next((name for name in checkpoint.tensors if _is_scale(name)), None)
    if stated is None:
        return Quantised(f"it holds scales, such as {alone}", {}) if alone else None
    lacks = f", and {next(iter(wide))} has no scale" if wide else ""
    return Quantised(f"its config says quantization_config: {stated.get('quant_method', 'unknown')}{lacks}", {})


def _paired(
    checkpoint: Checkpoint, wide: Mapping[str, TensorSpec], paired: Mapping[str, TensorSpec], stated: Mapping[str, Any]
) -> Quantised:
    """Float8 weights and their scales, each pair checked."""
    scaled, wrong = {}, Wrong()
    block = stated.get("weight_block_size")
    block = tuple(block) if _is_block(block) else None
    for name, weight in wide.items():
        scale = paired.get(name)
        if scale is None:
            wrong.add("no scale", f"{name} is {weight.dtype} and has no scale, which other tensors have.")
        elif scale.dtype.name not in SCALE_TYPES:
            types = ", ".join(SCALE_TYPES)
            wrong.add("type", f"{scale.name} is {scale.dtype}, no type that scales have ({types}).")
        elif (size := fitting_block(weight, scale, block)) is None:
            wrong.add("shape", _misshapen(weight, scale, block))
        else:
            scaled[name] = as_scaled(weight, scale, size)
    used = {scale.name for scale in paired.values()}
    dropped = {name: spec for name, spec in checkpoint.tensors.items() if _ACTIVATIONS.search(name)}
    for name in checkpoint.tensors:
        if _is_scale(name) and name not in used and name not in dropped:
            wrong.add("no weight", f"{name} is the scale of no float8 tensor.")
    kinds = sorted({_grain(spec) for spec in scaled.values()})
    powers = frozenset(scaled if stated.get("scale_fmt") == "ue8m0" else ())
    return Quantised(f"float8 with {' and '.join(kinds)} scales", scaled, dropped, wrong.sentences, powers)


class Wrong:
    """What is wrong with tensors, by kind: one mistake of a writer is in thousands of them, and is said once."""

    def __init__(self):
        self._of_kind: dict[str, list[str]] = {}

    def add(self, kind: str, sentence: str) -> None:
        """One tensor's complaint."""
        self._of_kind.setdefault(kind, []).append(sentence)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The first complaint of each kind, with the number of the others."""
        more = ("" if len(own) == 1 else f" {len(own) - 1} more are like it." for own in self._of_kind.values())
        return tuple(own[0] + rest for own, rest in zip(self._of_kind.values(), more, strict=True))


def _misshapen(weight: TensorSpec, scale: TensorSpec, stated: tuple[int, int] | None) -> str:
    tail = "" if stated else ", and the config states no other weight_block_size"
    return (
        f"{scale.name} {list(scale.shape)} is no scale of {weight.name} {list(weight.shape)}: neither one for all, "
        f"nor one a row, nor one for each block of {'x'.join(map(str, stated or (128, 128)))}{tail}."
    )


def _grain(spec: TensorSpec) -> str:
    view = spec.view
    if view.grid == (1, 1):
        return "per-tensor"
    return "per-channel" if view.block[0] == 1 and view.grid[1] == 1 else "block"


def stated_quantisation(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The quantisation entry of config.json, of a config inside it, or of a file beside it."""
    inner = [part for part in checkpoint.config.values() if isinstance(part, dict)]
    for part in (checkpoint.config, *inner):
        for key in ENTRIES:
            if isinstance(part.get(key), dict):
                return part[key]
    for name in FILES:
        if name in checkpoint.source.side_files:
            path = checkpoint.source.folder / name
            try:
                found = parse_object(read_small(path, 1 << 20), path, what="config")
            except ExpoError:
                continue
            own = found.get("quantization")
            return own if isinstance(own, dict) else found
    return None


def without_entries(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without any quantisation entry."""
    return {
        key: without_entries(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in ENTRIES
    }


def _other_format(stated: Mapping[str, Any], tensors: Mapping[str, TensorSpec]) -> str | None:
    """The name of a format that is not float8 with scales."""
    method = str(stated.get("quant_method", "")).lower()
    said = " ".join(str(stated.get(key, "")) for key in ("quant_algo", "format", "fmt")).lower()
    if "nvfp4" in said or "nvfp4" in method:
        return "NVFP4"
    if "pack-quantized" in said:
        return f"compressed-tensors with packed integers ({stated.get('format')})"
    if "int-quantized" in said or "w4a16" in said or "int4" in said:
        return f"integers with scales ({said.strip()})"
    if method in _NAMES:
        bits = stated.get("bits") or (stated.get("load_in_4bit") and 4) or (stated.get("load_in_8bit") and 8)
        return f"{_NAMES[method]}{f', {bits} bits' if bits else ''}"
    for ending, kind in _OTHERS:
        if named := next((name for name in tensors if name.endswith(ending)), None):
            return f"{kind} (it holds {shown(named)})"
    return None


def _scale_of(name: str, tensors: Mapping[str, TensorSpec]) -> TensorSpec | None:
    """The scale that is stored for a weight, in whatever shard it lies."""
    names = [name + ending for ending in _SCALES] + [re.sub(r"(^|\.)weight$", r"\1scale_weight", name)]
    return next((tensors[own] for own in names if own != name and own in tensors), None)


def _is_scale(name: str) -> bool:
    return name.endswith(("weight_scale_inv", "weight_scale", "scale_weight", "_proj_scale_inv", "_proj_scale"))


def _is_block(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(n) is int and n > 0 for n in value)
