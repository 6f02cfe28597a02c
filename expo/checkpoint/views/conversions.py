"""transformers' own tables of names and layouts, carried out on symbolic tensors. Loads transformers late.

A model type's conversions say how stored tensors become a model's own. `Architecture.load` follows them, as loading the
checkpoint would, and `Architecture.store` goes back, as saving would; no data is read, and no model has weights.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from expo.checkpoint.spec import TensorSpec
from expo.checkpoint.strict_json import shown
from expo.checkpoint.views.boxes import Boxed, NotExpressible
from expo.checkpoint.views.symbolic import boxed, symbolic

# The most that a config may ask for, by how the key ends: far above any model's.
_MOST = {
    re.compile(r"(^|_)(layers?|depths?|blocks|stages)$"): 1_024,
    re.compile(r"(^|_)experts$"): 8_192,
    re.compile(r"(^|_)(labels|codebooks)$"): 1_000_000,
}
_NOT_OF_NAMES = {
    "quantization_config", "auto_map", "attn_implementation", "_attn_implementation", "experts_implementation",
    "_experts_implementation",
}  # fmt: skip


@dataclass
class Loaded:
    """Stored tensors as the model's own."""

    modules: dict[str, Boxed] = field(default_factory=dict)  # the model's name -> what is stored of it
    stored: dict[str, str] = field(default_factory=dict)  # the model's name -> the stored one, if only that differs
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)  # the model's name -> the stored ones behind it
    rest: list[str] = field(default_factory=list)  # stored names that are no tensor of the model
    used: list[Any] = field(default_factory=list)  # the conversions that took part
    problems: list[str] = field(default_factory=list)


class Architecture:
    """A model class of transformers, with its conversions; built without memory for weights."""

    def __init__(self, model: Any):
        self.model = model
        self.shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}

    def conversions(self, *, legacy: bool) -> list[Any]:
        """Fresh ones: they remember whether they were used."""
        from transformers.conversion_mapping import get_model_conversion_mapping

        return get_model_conversion_mapping(self.model, add_legacy=legacy)

    @property
    def merges_experts(self) -> bool:
        """Whether one of its conversions stacks a list of modules into one tensor."""
        return any(_stacks(conversion) for conversion in self.conversions(legacy=False))

    def load(self, tensors: Mapping[str, TensorSpec]) -> Loaded:
        """What loading a checkpoint's tensors into the model would make of them."""
        from transformers.core_model_loading import dot_natural_key

        conversions = self.conversions(legacy=True)
        found, groups = Loaded(), {}
        for name in sorted(tensors, key=dot_natural_key):
            renamed, pattern = self._renamed(name, conversions)
            if renamed not in self.shapes:
                found.rest.append(name)
            elif pattern is None:
                found.modules[renamed] = Boxed.whole(tensors[name])
                found.stored[renamed] = name
                found.sources[renamed] = (name,)
            else:
                group = groups.setdefault(renamed, (_owner(conversions, pattern), {}))
                group[1].setdefault(pattern, []).append(name)
        for name, (conversion, collected) in groups.items():
            self._convert(found, tensors, name, conversion, collected)
        found.used = [conversion for conversion in conversions if conversion.was_used()]
        return found

    def store(self, modules: Mapping[str, Boxed], conversions: Sequence[Any]) -> dict[str, Boxed]:
        """What saving some of the model's tensors would write, with these conversions undone."""
        from transformers.core_model_loading import revert_weight_conversion

        self.model._weight_conversions = list(conversions)
        try:
            state = revert_weight_conversion(self.model, {name: symbolic(own) for name, own in modules.items()})
        finally:
            del self.model._weight_conversions
        return {name: boxed(value) for name, value in state.items()}

    def _renamed(self, name: str, conversions: Sequence[Any]) -> tuple[str, str | None]:
        """The model's name for a stored one, and the pattern of the converter that takes it."""
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        prefix = self.model.base_model_prefix
        renamings = [one for one in conversions if isinstance(one, WeightRenaming)]
        converters = [one for one in conversions if isinstance(one, WeightConverter)]
        renamed, pattern = rename_source_key(name, renamings, converters, prefix, self.shapes)
        if renamed not in self.shapes and name in self.shapes:
            renamed, pattern = rename_source_key(name, [], [], prefix, self.shapes)
        return renamed, pattern

    def _convert(
        self,
        found: Loaded,
        tensors: Mapping[str, TensorSpec],
        name: str,
        conversion: Any,
        collected: Mapping[str, list[str]],
    ) -> None:
        """Carry out one conversion on all the tensors that it takes for one of the model's."""
        stored = tuple(own for names in collected.values() for own in names)
        numbers = {pattern: {_number(own) for own in names} for pattern, names in collected.items()}
        uneven = _uneven(numbers, conversion.source_patterns)
        if uneven is None:
            conversion = deepcopy(conversion)
            for pattern, names in collected.items():
                for own in names:
                    conversion.add_tensor(name, own, pattern, symbolic(Boxed.whole(tensors[own])))
            try:
                made = conversion.convert(name, model=self.model, config=self.model.config)
                made = {own: boxed(one[0] if isinstance(one, list) else one) for own, one in made.items()}
                uneven = next((self._misfit(own, one) for own, one in made.items() if self._misfit(own, one)), None)
            except (NotExpressible, ValueError, RuntimeError, IndexError) as error:
                uneven = str(error).partition("\n")[0]
        if uneven:
            found.problems.append(f"{_several(stored)} cannot be put together as {name}: {uneven}")
            found.rest += stored
            return
        for own, one in made.items():
            found.modules[own] = one
            found.sources[own] = stored

    def _misfit(self, name: str, tensor: Boxed) -> str | None:
        wanted = self.shapes.get(name)
        if wanted is None or wanted == tensor.shape:
            return None
        return f"{list(tensor.shape)} is stored, and the config asks for {list(wanted)}"


class NoSuchModel(Exception):
    """Why a config.json describes no model class of transformers, as a sentence."""


def architecture(config: Mapping[str, Any]) -> Architecture:
    """The model that a config.json describes. Raises NoSuchModel, whatever a stranger wrote into it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise NoSuchModel("its config.json names no model_type, so transformers' conversions cannot be looked up.")
    if kind not in CONFIG_MAPPING:
        raise NoSuchModel(f"transformers has no conversions for its model type {shown(kind)}.")
    model_class = _class_of(config.get("architectures"))
    _check_counts(config)
    return _built(model_class, CONFIG_MAPPING[kind], config)


def _class_of(named: Any) -> type:
    """The model class that `architectures` names; nothing else of transformers is ever called."""
    import transformers

    name = named[0] if isinstance(named, list) and named else None
    if not isinstance(name, str):
        raise NoSuchModel("its config.json names no class under architectures, which says how tensors are called.")
    found = getattr(transformers, name, None) if name.isidentifier() else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise NoSuchModel(f"transformers has no model class {shown(name)}, which its config.json names.")
    return found


def _check_counts(config: Mapping[str, Any]) -> None:
    """NoSuchModel for numbers that no model has: a class is built layer by layer, and labels are named one by one."""
    for key, value in config.items():
        if isinstance(value, dict):
            _check_counts(value)
        for n in value if isinstance(value, list) else [value]:
            if isinstance(n, int | float) and n > next((most for end, most in _MOST.items() if end.search(key)), n):
                raise NoSuchModel(f"its config.json asks for {n:,} {key}, which no model has.")


def _built(model_class: type, config_class: type, config: Mapping[str, Any]) -> Architecture:
    import torch

    with _alone():
        try:
            with torch.device("meta"):
                return Architecture(model_class(config_class.from_dict(_for_names(config))))
        except Exception as error:  # there is no list of what a class may raise for a config that it does not take
            said = f"{type(error).__name__}: {shown(str(error).partition(chr(10))[0])}"
            kind = config["model_type"]
            raise NoSuchModel(f"transformers cannot make the {kind} that its config.json describes ({said}).") from None


def _for_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what decides no name or shape, such as code and kernels to fetch."""
    return {
        key: _for_names(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _NOT_OF_NAMES
    }


def _stacks(conversion: Any) -> bool:
    return any(type(step).__name__ == "MergeModulelist" for step in getattr(conversion, "operations", ()))


def _owner(conversions: Sequence[Any], pattern: str) -> Any:
    """The converter of a pattern; of several, the last one, as in transformers."""
    return [one for one in conversions if hasattr(one, "operations") and pattern in one.source_patterns][-1]


def _number(name: str) -> int | None:
    """The last number among a name's components: of an expert, which one it is."""
    found = [part for part in name.split(".") if part.isdigit()]
    return int(found[-1]) if found else None


def _uneven(numbers: Mapping[str, set[int | None]], patterns: Sequence[str]) -> str | None:
    """What is missing from lists of modules that should be as long as each other, and whole."""
    if not all("*" in pattern for pattern in patterns):
        lost = [pattern for pattern in patterns if pattern not in numbers]
        return f"nothing is stored of {', '.join(map(_plain, lost))}" if lost and len(patterns) > 1 else None
    every = set().union(*numbers.values()) - {None}
    every |= set(range(max(every, default=-1) + 1))
    for pattern in patterns:
        if lost := sorted(every - numbers.get(pattern, set())):
            return f"of {len(every)} {_plain(pattern)}, {_listed(lost)} {'is' if len(lost) == 1 else 'are'} not stored"
    return None


def _plain(pattern: str) -> str:
    return re.sub(r"[\\^$]", "", pattern).strip(".")


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")


def _several(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


@contextmanager
def _alone() -> Iterator[None]:
    """No remarks, which are about running a model, and no connection, whatever a config names."""
    from huggingface_hub import constants

    logger = logging.getLogger("transformers")
    before = logger.level, constants.HF_HUB_OFFLINE
    logger.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        logger.setLevel(before[0])
        constants.HF_HUB_OFFLINE = before[1]
