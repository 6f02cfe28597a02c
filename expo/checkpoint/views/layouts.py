"""One checkpoint's tensors under the names and in the layout of another, as views. Reads no tensor data.

Both sides are taken to the model's own names and shapes by transformers' conversions, and from there into the wanted
layout. That going there and back gives a checkpoint its own tensors again is checked, not assumed.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from expo.checkpoint.spec import Checkpoint, TensorSpec
from expo.checkpoint.views.boxes import Boxed, NotExpressible
from expo.checkpoint.views.conversions import Architecture, Loaded, NoSuchModel, architecture
from expo.checkpoint.views.gathered import as_spec
from expo.checkpoint.views.towers import Tower, top_components, tower_of

LAYOUTS = ("separate", "packed")


@dataclass
class Relaid:
    """A table of tensors in a layout, and what could not be brought into it."""

    tensors: dict[str, TensorSpec] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Layout:
    """An output's layout: as a checkpoint is stored, or as transformers saves ("separate") or holds ("packed") it.

    "held" is "packed" for models of every kind, experts or not.

    `problems` says what stands in the way; nothing can be spelled then.
    """

    def __init__(self, donor: Checkpoint, wanted: str | None = None, *, as_named: bool = False):
        """as_named: where transformers has no such model, tensors are taken for the model's own as they are named."""
        self.problems: list[str] = []
        self.turned: dict[str, tuple[str, list[int]]] = {}  # the model's name -> the output's, and its axes' order
        self.architecture, why_none = _architecture_of(donor.config)
        if why_none and not (as_named and wanted is None):
            self.problems.append(why_none)
            return
        self.loaded = _load(self.architecture, donor.tensors)
        self.names = dict(self.loaded.stored)  # the model's name -> the output's, where nothing else differs
        self.conversions = list(self.loaded.used)
        self.problems += self.loaded.problems
        if wanted is not None:
            self._want(wanted, donor)
        elif not self.problems:
            self._check_back(donor)

    def _want(self, wanted: str, donor: Checkpoint) -> None:
        if wanted in LAYOUTS and not self.architecture.merges_experts:
            kind = donor.config.get("model_type")
            self.problems.append(f"transformers knows only one layout of {kind}, so there is none to ask for.")
        if wanted != "separate":
            self.names = {name: name for name in self.loaded.modules}
        else:
            # As transformers saves a model that it has not loaded: a prefix that may be dropped is not put back.
            kept = [one for one in self.architecture.conversions(legacy=False) if not hasattr(one, "prefix_to_add")]
            self.names, self.conversions = {}, kept

    def _check_back(self, donor: Checkpoint) -> None:
        """The donor's own tensors must come out as they went in."""
        changed, problems = self._changed(donor)
        if changed and not problems and self._turn_back(changed):
            changed, problems = self._changed(donor)
        self.problems += problems
        if changed and not problems:
            self.problems.append(f"transformers' conversions do not lead back to {_counted(changed)}")

    def _changed(self, donor: Checkpoint) -> tuple[set[str], list[str]]:
        found = self.spelled(self.loaded, donor.tensors)
        return {name for name, spec in donor.tensors.items() if found.tensors.get(name) is not spec}, found.problems

    def _turn_back(self, changed: set[str]) -> bool:
        """Undo changed axes, which transformers does when it loads, and never when it saves."""
        for module, tensor in self.loaded.modules.items():
            if changed.intersection(self.loaded.sources[module]) and (found := tensor.turned()):
                _, order = found
                self.turned[module] = (self.loaded.sources[module][0], [order.index(k) for k in range(len(order))])
        return bool(self.turned)

    def of_tower(self, other: Checkpoint, tensors: Mapping[str, TensorSpec], tower: str) -> tuple[Relaid, set[str]]:
        """(one tower of another checkpoint in this layout, the output's tensors that lie outside of the tower)."""
        loaded = _load(_architecture_of(other.config)[0], tensors)
        ours, theirs = tower_of(self.loaded.modules, tower), tower_of(loaded.modules, tower)
        problems = [*_several(ours), *_several(theirs, other.source.label)]
        if not ours.prefixes:
            names = ", ".join(top_components(self.loaded.modules)) or "none"
            problems.append(f"the output has no tower {tower!r}: no tensor has that component. There are: {names}.")
        renamed = {name: ours.tensors.get(inner, name) for inner, name in theirs.tensors.items()}
        inside = Loaded(
            modules={new: loaded.modules[name] for name, new in renamed.items()},
            sources={new: loaded.sources[name] for name, new in renamed.items()},
            problems=loaded.problems,
        )
        found = self.spelled(inside, tensors)
        found.problems += problems
        stored = {name for module in ours.tensors.values() for name in self.loaded.sources[module]}
        every = {name for names in self.loaded.sources.values() for name in names} | set(self.loaded.rest)
        return found, every - stored

    def of(self, other: Checkpoint, tensors: Mapping[str, TensorSpec]) -> Relaid:
        """The tensors of another checkpoint, given under the names that the user says they have, in this layout."""
        return self.spelled(self._loaded(other, tensors), tensors)

    def _loaded(self, other: Checkpoint, tensors: Mapping[str, TensorSpec]) -> Loaded:
        config = other.config
        mine = self.architecture.model.config.model_type
        if not config.get("model_type"):
            return self.architecture.load(tensors)
        if config["model_type"] == mine:
            # The class decides the names; the other's own numbers decide what is missing.
            config = {**config, "model_type": mine, "architectures": [type(self.architecture.model).__name__]}
        found, _ = _architecture_of(config)
        return (found or self.architecture).load(tensors)

    def spelled(self, loaded: Loaded, tensors: Mapping[str, TensorSpec]) -> Relaid:
        """What was loaded, in this layout; what the layout's own model lacks keeps its stored names."""
        found = Relaid(problems=list(loaded.problems))
        table: dict[str, Boxed] = {}
        undone: dict[str, Boxed] = {}
        for module, tensor in loaded.modules.items():
            if module in self.turned and len(tensor.shape) == len(self.turned[module][1]):
                name, order = self.turned[module]
                table[name] = tensor.permuted(order)
            elif module in self.names:
                table[self.names[module]] = tensor
            elif module in self.loaded.modules:
                undone[module] = tensor
            else:
                table |= {name: Boxed.whole(tensors[name]) for name in loaded.sources[module]}
        try:
            table |= self.architecture.store(undone, self.conversions) if undone else {}
        except (NotExpressible, ValueError, RuntimeError, KeyError) as error:
            found.problems.append(f"{_counted(undone)}: {str(error).partition(chr(10))[0]}")
        for name in loaded.rest:
            table.setdefault(name, Boxed.whole(tensors[name]))
        for name, tensor in table.items():
            try:
                found.tensors[name] = as_spec(name, tensor)
            except ValueError as error:
                found.problems.append(f"{name}: {error}")
        return found


def _load(model: Architecture | None, tensors: Mapping[str, TensorSpec]) -> Loaded:
    """Stored tensors as a model's own; as they are where there is no such model."""
    if model is not None:
        return model.load(tensors)
    return Loaded(
        modules={name: Boxed.whole(spec) for name, spec in tensors.items()},
        stored={name: name for name in tensors},
        sources={name: (name,) for name in tensors},
    )


def _several(tower: Tower, where: str = "the output") -> list[str]:
    if len(tower.prefixes) < 2:
        return []
    names = ", ".join(prefix.rstrip(".") for prefix in tower.prefixes)
    return [f"{where} has several such towers: {names}. Name one of them whole."]


def fits_as_stored(ours: Mapping[str, TensorSpec], theirs: Mapping[str, TensorSpec]) -> bool:
    """Whether no conversion could help: names differ on one side at most, and shapes by no change of layout."""
    if ours.keys() - theirs.keys() and theirs.keys() - ours.keys():
        return False
    return not any(
        spec.shape != theirs[name].shape and spec.n_elements == theirs[name].n_elements
        for name, spec in ours.items()
        if name in theirs
    )


def _architecture_of(config: Mapping[str, Any]) -> tuple[Architecture | None, str | None]:
    """(the model, nothing), or (nothing, why there is none)."""
    try:
        return architecture(config), None
    except NoSuchModel as error:
        return None, str(error)


def _counted(names: Collection[str]) -> str:
    first = min(names)
    return first if len(names) == 1 else f"{first} and {len(names) - 1} more"
