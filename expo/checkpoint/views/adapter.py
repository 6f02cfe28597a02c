"""An adapter as PEFT saves it: which of its tensors change which tensor of the model. Reads headers, no tensor data."""

import re
from dataclasses import dataclass, field

from expo.checkpoint.files import DEFAULT_MAX_HEADER
from expo.checkpoint.header import read_header
from expo.checkpoint.spec import Source, TensorSpec, WeightFile
from expo.checkpoint.strict_json import shown
from expo.checkpoint.views.adapter_config import NAME, AdapterConfig, read_adapter_config
from expo.errors import MalformedAdapter, UnsupportedAdapter

_PREFIX = "base_model.model."
# PEFT leaves the adapter's own name out of what it saves; other tools do not.
_SLOTS = {
    "a": re.compile(r"(.+)\.lora_A(?:\.[^.]+)?\.weight"),
    "b": re.compile(r"(.+)\.lora_B(?:\.[^.]+)?\.weight"),
    "embedding_a": re.compile(r"(.+)\.lora_embedding_A(?:\.[^.]+)?"),
    "embedding_b": re.compile(r"(.+)\.lora_embedding_B(?:\.[^.]+)?"),
    "magnitude": re.compile(r"(.+)\.lora_magnitude_vector(?:\.[^.]+)??(?:\.weight)?"),
}
# A module that is trained as a whole, or the base's own copy of one that is adapted.
_WHOLE = re.compile(r"(.+)\.(?:modules_to_save\.[^.]+|modules_to_save|base_layer|original_module)\.([^.]+)")
_FOREIGN = re.compile(r"\.(lora_[^.]*|hada_[^.]*|lokr_[^.]*|ia3_[^.]*|oft_[^.]*|vera_[^.]*|token_adapter)(\.|$)")


@dataclass
class Change:
    """The stored factors of one module."""

    a: TensorSpec | None = None
    b: TensorSpec | None = None
    magnitude: TensorSpec | None = None
    embedding: bool = False

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True)
class Adapter:
    """An adapter's table of contents. Names are the model's own, without PEFT's prefix."""

    source: Source
    config: AdapterConfig
    files: dict[str, WeightFile]  # its weights and its config
    changes: dict[str, Change] = field(default_factory=dict)  # module -> factors
    replaced: dict[str, TensorSpec] = field(default_factory=dict)  # tensor -> what is stored in its place

    def scale(self, module: str) -> float:
        """What B @ A of one module is multiplied by."""
        return self.config.scale(module, self.changes[module].rank)


def open_adapter(source: Source, *, prefix: str = "", max_header: int = DEFAULT_MAX_HEADER) -> Adapter:
    """Every tensor of an adapter under the name of what it changes; none is left out.

    source: from `resolve_adapter`. prefix: what the names of its files start with in a checkpoint of several.
    Raises UnsupportedAdapter, MalformedAdapter, or a HeaderError.
    """
    config, config_file = read_adapter_config(source.folder / NAME, prefix + NAME, source.text)
    (name,) = source.weights
    file, specs = _read_table(source, name, prefix + name, max_header)
    adapter = Adapter(source, config, {file.name: file, config_file.name: config_file})
    for spec in specs:
        _sort_in(adapter, spec)
    _check_whole(adapter)
    return adapter


def _read_table(source: Source, name: str, key: str, max_header: int) -> tuple[WeightFile, list[TensorSpec]]:
    if name.endswith(".bin"):
        from expo.checkpoint.pickled import read_pickled  # loads torch

        return read_pickled(source.folder / name, key, max_header=max_header)
    return read_header(source.folder / name, key, max_header=max_header)


def _sort_in(adapter: Adapter, spec: TensorSpec) -> None:
    """Put one stored tensor where it belongs."""
    where, name = adapter.config.where, spec.name.removeprefix(_PREFIX)
    if not spec.dtype.computed:
        raise UnsupportedAdapter(f"{where}: {shown(spec.name)} is {spec.dtype}, no type that expo computes on.")
    for slot, pattern in _SLOTS.items():
        if found := pattern.fullmatch(name):
            change = adapter.changes.setdefault(found[1], Change())
            field_name = slot.removeprefix("embedding_")
            if getattr(change, field_name) is not None:
                other = getattr(change, field_name).name
                raise UnsupportedAdapter(
                    f"{where}: {shown(other)} and {shown(spec.name)} are two adapters' factors of one module.",
                    "Save one adapter a folder, and name them one after the other: BASE+FIRST+SECOND.",
                )
            setattr(change, field_name, spec)
            change.embedding |= slot.startswith("embedding_")
            return
    if _FOREIGN.search("." + name):
        raise UnsupportedAdapter(f"{where}: {shown(spec.name)} is no tensor of a LoRA that expo knows.")
    whole = _WHOLE.fullmatch(name)
    target = f"{whole[1]}.{whole[2]}" if whole else name
    if target in adapter.replaced:
        raise MalformedAdapter(
            f"{where}: {shown(adapter.replaced[target].name)} and {shown(spec.name)} both replace {shown(target)}."
        )
    adapter.replaced[target] = spec


def _check_whole(adapter: Adapter) -> None:
    """Each module has both factors, of one rank, and a magnitude exactly where DoRA wants one."""
    where = adapter.config.where
    if not adapter.changes and not adapter.replaced:
        raise MalformedAdapter(f"{where}: it holds no tensor.")
    for module, change in adapter.changes.items():
        if change.a is None or change.b is None:
            held, lost = ("lora_A", "lora_B") if change.b is None else ("lora_B", "lora_A")
            if change.a is None and change.b is None:
                held = "a magnitude"
            raise MalformedAdapter(f"{where}: {shown(module)} has {held} and no {lost}.")
        a, b = change.a, change.b
        if len(a.shape) < 2 or len(b.shape) < 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
            raise MalformedAdapter(
                f"{where}: {shown(a.name)} {list(a.shape)} and {shown(b.name)} {list(b.shape)} do not multiply: "
                "the first axis of A and the second of B are the rank."
            )
        if (change.magnitude is not None) != adapter.config.dora:
            said = "says use_dora, and" if adapter.config.dora else "does not say use_dora, but"
            has = "has no" if adapter.config.dora else "has a"
            raise MalformedAdapter(f"{where}: {NAME} {said} {shown(module)} {has} lora_magnitude_vector.")
