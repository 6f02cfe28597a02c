"""adapter_config.json: what PEFT would compute with an adapter's tensors; what cannot be computed here is refused."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from expo.checkpoint.files import DEFAULT_MAX_HEADER, read_small
from expo.checkpoint.spec import WeightFile
from expo.checkpoint.strict_json import parse_object, shown
from expo.errors import MalformedAdapter, UnsupportedAdapter

NAME = "adapter_config.json"
_REFUSED = {
    "target_parameters": "changes parameters that are no module's weight",
    "trainable_token_indices": "trains single rows of an embedding",
    "layer_replication": "repeats layers of the base",
    "alora_invocation_tokens": "is active behind some tokens only",
    "use_qalora": "pools the layer's input",
    "use_bdlora": "stores block-diagonal factors",
    "arrow_config": "chooses between adapters by the layer's input",
    "kasa_config": "changes the base's weights when it is loaded",
    "monteclora_config": "draws its factors at random",
    "lora_bias": "adds a bias of its own",
}
# These set the base's weights to something else before training starts, and the adapter counts from there.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Of a pattern from a stranger's file: more quantifiers, or one on a group, can take for ever.
_QUANTIFIER = re.compile(r"[*+?{]")
_REPEATED_GROUP = re.compile(r"\)[*+?{]")
_MOST_QUANTIFIERS = 2
_LONGEST = 300  # characters of a module's name or a pattern that are matched


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The fields of adapter_config.json that decide what an adapter's tensors mean."""

    where: str  # what messages call the adapter
    rank: int
    alpha: float
    rank_pattern: dict[str, Any] = field(default_factory=dict)
    alpha_pattern: dict[str, Any] = field(default_factory=dict)
    rank_stabilised: bool = False  # rsLoRA: alpha / sqrt(rank)
    fan_in_fan_out: bool = False
    dora: bool = False
    base_name: str = ""  # the model that it was trained on, as PEFT recorded it
    raw: dict[str, Any] = field(default_factory=dict, repr=False)  # all that the file says

    def scale(self, module: str, rank: int) -> float:
        """What B @ A is multiplied by in one module; raises MalformedAdapter where the rank is not the config's."""
        wanted = _number(self, "rank_pattern", _matching(self, self.rank_pattern, module, self.rank))
        if wanted != rank:
            raise MalformedAdapter(
                f"{self.where}: lora_A of {shown(module)} has rank {rank}, {NAME} says {wanted:g} (r, rank_pattern)."
            )
        alpha = _number(self, "alpha_pattern", _matching(self, self.alpha_pattern, module, self.alpha))
        return alpha / (rank**0.5 if self.rank_stabilised else rank)


def read_adapter_config(path: Path, name: str, where: str) -> tuple[AdapterConfig, WeightFile]:
    """The config and what identifies it. name: the file's path inside the checkpoint; where: the adapter in words.

    Raises UnsupportedAdapter for what cannot be computed on stored weights, MalformedAdapter, or a HeaderError.
    """
    text = read_small(path, DEFAULT_MAX_HEADER)
    said = parse_object(text, path, what="config")
    stat = path.stat()
    file = WeightFile(name, path, len(text), stat.st_mtime_ns, xxhash.xxh3_128_hexdigest(text))
    kind = said.get("peft_type", "LORA")
    if kind != "LORA":
        raise UnsupportedAdapter(f"{where}: its peft_type is {shown(kind)}; expo reads LORA.")
    for key, what in _REFUSED.items():
        if said.get(key):
            raise UnsupportedAdapter(f"{where}: {key} is set, which {what}. expo does not compute that.")
    start = str(said.get("init_lora_weights", True)).lower()
    if start.startswith(_CHANGES_BASE):
        raise UnsupportedAdapter(
            f"{where}: init_lora_weights is {shown(start)}, which changes the base's weights before training.",
            "Save it with PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...), which makes it "
            "an adapter of the unchanged base; or merge it with PEFT and name the result.",
        )
    config = AdapterConfig(where, said.get("r", 8), said.get("lora_alpha", 8), base_name=_base_name(said), raw=said)
    return _checked(config, said), file


def _checked(config: AdapterConfig, said: dict[str, Any]) -> AdapterConfig:
    """The config with its remaining fields, each of the kind that it must be."""
    where = config.where
    patterns = {}
    for key in ("rank_pattern", "alpha_pattern"):
        patterns[key] = said.get(key) or {}
        if not isinstance(patterns[key], dict):
            raise MalformedAdapter(f"{where}: {key} is {shown(patterns[key])}, not an object.")
    if type(config.rank) is not int or config.rank < 1:
        raise MalformedAdapter(f"{where}: r is {shown(config.rank)}, not a positive integer.")
    flags = {"rank_stabilised": "use_rslora", "fan_in_fan_out": "fan_in_fan_out", "dora": "use_dora"}
    values = {}
    for name, key in flags.items():
        values[name] = said.get(key, False) or False
        if not isinstance(values[name], bool):
            raise MalformedAdapter(f"{where}: {key} is {shown(values[name])}, neither true nor false.")
    alpha = _number(config, "lora_alpha", config.alpha)
    return AdapterConfig(where, config.rank, alpha, **patterns, **values, base_name=config.base_name, raw=said)


def _base_name(said: dict[str, Any]) -> str:
    name = said.get("base_model_name_or_path")
    return name if isinstance(name, str) else ""


def _number(config: AdapterConfig, key: str, value: Any) -> float:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(float(value)) < 1e30:
            return float(value)
    except OverflowError:  # an integer beyond float64
        pass
    raise MalformedAdapter(f"{config.where}: {key} holds {shown(value)}, not a number that scales a weight.")


def _matching(config: AdapterConfig, patterns: dict[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that fits a module's name as PEFT reads it: the whole name, or its last parts."""
    for pattern, value in patterns.items():
        if module == pattern or module.endswith(f".{pattern}"):
            return value
        if not re.search(r"[^\w.-]", pattern):
            continue  # plain words: a dot stands for itself nearly everywhere, and the comparison above has settled it
        complex_ = len(_QUANTIFIER.findall(pattern)) > _MOST_QUANTIFIERS or _REPEATED_GROUP.search(pattern)
        if complex_ or max(len(pattern), len(module)) > _LONGEST:
            raise UnsupportedAdapter(
                f"{config.where}: the pattern {shown(pattern)} is too complex to be matched safely.",
                "Spell it with module names, or merge the adapter with PEFT and name the result.",
            )
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            raise MalformedAdapter(f"{config.where}: the pattern {shown(pattern)} is none: {error}.") from None
    return default
