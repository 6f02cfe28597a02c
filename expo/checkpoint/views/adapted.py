"""A checkpoint with adapters applied: the same names, shapes and files, some tensors as views. Reads no tensor data."""

import math
from dataclasses import replace
from pathlib import PurePath

from expo.checkpoint.files import DEFAULT_MAX_HEADER
from expo.checkpoint.spec import Checkpoint, TensorSpec
from expo.checkpoint.strict_json import shown
from expo.checkpoint.views.adapter import Adapter, Change, open_adapter
from expo.checkpoint.views.low_rank import AdaptedTensor, LowRank
from expo.errors import AdapterMismatch, nearest

_SHOWN = 8  # problems listed before the rest is counted
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def with_adapters(base: Checkpoint, *, max_header: int = DEFAULT_MAX_HEADER) -> Checkpoint:
    """The base with the adapters of its source applied in order, each to the result of those before it.

    Raises AdapterMismatch with all that does not fit, UnsupportedAdapter, MalformedAdapter, or a HeaderError.
    """
    tensors, files, warnings = dict(base.tensors), {}, list(base.warnings)
    for number, source in enumerate(base.source.adapters, 1):
        adapter = open_adapter(source, prefix=f"+{number}/", max_header=max_header)
        _Fitting(base, adapter, tensors).apply()
        files |= adapter.files
        warnings += [*_other_base(base, adapter), *_other_tokenizer(base, adapter)]
    return replace(base, tensors=tensors, extra_files=files, warnings=tuple(warnings))


class _Fitting:
    """One adapter laid over a table of tensors."""

    def __init__(self, base: Checkpoint, adapter: Adapter, tensors: dict[str, TensorSpec]):
        self.base, self.adapter, self.tensors = base, adapter, tensors
        self.problems: list[str] = []
        wanted = [*adapter.replaced, *(f"{module}.weight" for module in adapter.changes)]
        self.old, self.new = _prefix_rule(wanted, base.tensors)

    def apply(self) -> None:
        """Replace what the adapter stores whole, then change what it has factors of."""
        for name, stored in self.adapter.replaced.items():
            if (spec := self._target(name, stored)) and self._replaceable(spec, stored):
                self.tensors[spec.name] = _as_view(spec, AdaptedTensor(stored))
        for module, change in self.adapter.changes.items():
            if (spec := self._target(f"{module}.weight", change.a)) and (added := self._fitting(module, spec, change)):
                held = spec.view if isinstance(spec.view, AdaptedTensor) else AdaptedTensor(spec)
                self.tensors[spec.name] = _as_view(spec, replace(held, changes=(*held.changes, added)))
        if self.problems:
            more = len(self.problems) - _SHOWN
            listed = self.problems[:_SHOWN] + ([f"... and {more} more"] if more > 0 else [])
            raise AdapterMismatch(
                f"{self.adapter.config.where} does not fit {self.base.source.label}:\n"
                + "\n".join(f"  {line}" for line in listed),
                self._remedy(),
            )

    def _target(self, name: str, stored: TensorSpec) -> TensorSpec | None:
        """The base's tensor of that name, whatever prefix the two sides' names differ by."""
        spec = self.tensors.get(name)
        if spec is None and name.startswith(self.old):
            spec = self.tensors.get(self.new + name[len(self.old) :])
        if spec is None:
            tied = name.endswith("lm_head.weight") and self.base.config.get("tie_word_embeddings")
            hint = " It is tied to the embedding, and stored only there: merge with PEFT." if tied else nearest(name, self.tensors)
            self.problems.append(f"{shown(stored.name)}: the base has no {shown(name)}.{hint}")
        elif not spec.dtype.computed:
            self.problems.append(
                f"{shown(stored.name)}: {shown(spec.name)} is {spec.dtype}, no type that expo computes on (quantised?)."
            )
            return None
        return spec

    def _replaceable(self, spec: TensorSpec, stored: TensorSpec) -> bool:
        if spec.shape == stored.shape:
            return True
        resized = spec.shape[1:] == stored.shape[1:] and len(spec.shape) == 2
        hint = " The vocabulary was resized; merge it with PEFT and name the result." if resized else ""
        self.problems.append(
            f"{shown(stored.name)} {list(stored.shape)} would replace {shown(spec.name)} {list(spec.shape)}.{hint}"
        )
        return False

    def _fitting(self, module: str, spec: TensorSpec, change: Change) -> LowRank | None:
        """The change as a view needs it, or None where the shapes do not fit."""
        transposed = change.embedding or (self.adapter.config.fan_in_fan_out and len(spec.shape) == 2)
        shape = _shape_of(change, transposed)
        fits = len(spec.shape) >= 2 and (spec.shape[0], math.prod(spec.shape[1:])) == shape
        fits = fits and (len(spec.shape) == 2 or change.a.shape[1:] == spec.shape[1:])
        if not fits:
            self.problems.append(
                f"{shown(change.a.name)} {list(change.a.shape)} and lora_B {list(change.b.shape)} change a tensor of "
                f"{list(shape)}; {shown(spec.name)} is {list(spec.shape)}."
            )
            return None
        n_out = change.b.shape[0]
        if change.magnitude is not None and change.magnitude.n_elements != n_out:
            self.problems.append(
                f"{shown(change.magnitude.name)} {list(change.magnitude.shape)} is not one number for each of the "
                f"{n_out} outputs of {shown(spec.name)}."
            )
            return None
        return LowRank(change.a, change.b, self.adapter.scale(module), transposed, change.magnitude)

    def _remedy(self) -> str:
        named = self.adapter.config.base_name
        return f"The adapter says that it was trained on {shown(named)}." if named else ""


def _shape_of(change: Change, transposed: bool) -> tuple[int, int]:
    """Rows and columns of the tensor that B @ A changes; (0, 0) where B has more than its rank behind each output."""
    n_out, n_in = change.b.shape[0], math.prod(change.a.shape[1:])
    if math.prod(change.b.shape[2:]) != 1:
        return (0, 0)
    return (n_in, n_out) if transposed else (n_out, n_in)


def _as_view(spec: TensorSpec, view: AdaptedTensor) -> TensorSpec:
    n_bytes = view.dtype.n_bytes(spec.n_elements)
    return TensorSpec(spec.name, view.dtype, spec.shape, spec.file, 0, n_bytes, view, spec.stored_dtype)


def _prefix_rule(wanted: list[str], tensors: dict[str, TensorSpec]) -> tuple[str, str]:
    """A prefix to take from the adapter's names, and one to put before them, so that every one names a tensor.

    GPT-2's own checkpoint lacks the "transformer." that its modules have; others have one more than their modules.
    """
    lost = next((name for name in wanted if name not in tensors), None)
    if lost is None:
        return "", ""
    parts = lost.split(".")
    rules = [(".".join(parts[:k]) + ".", "") for k in range(1, len(parts)) if ".".join(parts[k:]) in tensors]
    rules += [("", name[: -len(lost)]) for name in tensors if name.endswith("." + lost)]
    for old, new in rules:
        if all(name in tensors or (name.startswith(old) and new + name[len(old) :] in tensors) for name in wanted):
            return old, new
    return "", ""


def _other_base(base: Checkpoint, adapter: Adapter) -> list[str]:
    """A sentence where the adapter was trained on a model of another name."""
    named = adapter.config.base_name
    known = {base.source.repo_id, base.source.folder.name, str(base.config.get("_name_or_path", "")), base.source.text}
    known |= {PurePath(name).name for name in known if name}
    if not named or known & {named, PurePath(named).name}:
        return []
    label = replace(base.source, adapters=()).label
    return [
        f"the adapter {adapter.source.label} says that it was trained on {shown(named)}, and is applied to {label}: "
        "its shapes fit, which does not make it that model's adapter."
    ]


def _other_tokenizer(base: Checkpoint, adapter: Adapter) -> list[str]:
    """A sentence where the adapter brings a tokenizer or template that differs from the base's, which is kept."""
    ours, theirs = base.source.folder, adapter.source.folder
    differ = [
        name
        for name in _TOKENIZER
        if (theirs / name).is_file()
        and (not (ours / name).is_file() or (ours / name).read_bytes() != (theirs / name).read_bytes())
    ]
    if not differ:
        return []
    return [
        f"the adapter {adapter.source.label} has another {', '.join(differ)} than its base, whose files the output "
        "takes: copy them over if the adapter was trained with its own."
    ]
