"""Which models make which part of the output: models | slices | modules of a document -> Modules."""

from collections.abc import Mapping
from typing import Any

from expo.recipe.entries import Entries, Where, shown
from expo.recipe.inputs import Inputs
from expo.recipe.parts import Module, Slice, Source
from expo.recipe.yaml_text import Node, is_nothing

LAYOUTS = ("models", "slices", "modules")
_IGNORED = {"int8_mask": "int8_mask has no effect: masks are not kept in memory."}


class Layout:
    """Reads the parts of one document; keeps where each was written in `entries.places`."""

    def __init__(self, node: Node, entries: Entries, inputs: Inputs):
        self.node, self.entries, self.inputs = node, entries, inputs

    def modules(self, top: Mapping[str, Node]) -> list[Module]:
        given = [key for key in LAYOUTS if key in top]
        if len(given) != 1:
            if isinstance(self.node.content, dict):
                many = f"{' and '.join(given)} are given: keep one of them." if given else "it names no models."
                self.entries.wrong(self.node, f"{many} A recipe has one of models, slices and modules.")
            return []
        if given != ["modules"]:
            module = self._module(self.node, None, 0)
            return [module] if module else []
        rows = self.entries.mapping(top["modules"], "modules")
        found = []
        for name, node in rows.items():
            number = len(found)
            self.entries.places["modules", number] = top["modules"].keys[name]
            self.entries.mapping(node, f"module {name}")
            self.entries.known(node, ("models", "slices", "parameters"), "a module")
            module = self._module(node, name, number)
            found += [module] if module else []
        if not rows and (isinstance(top["modules"].content, dict) or is_nothing(top["modules"])):
            self.entries.wrong(top["modules"], "modules is empty.")
        return found

    def _module(self, node: Node, name: str | None, number: int) -> Module | None:
        """The module in a node that has models or slices."""
        at: Where = ("modules", number)
        entries = node.content if isinstance(node.content, dict) else {}
        given = [key for key in ("models", "slices") if key in entries]
        if len(given) != 1:
            self.entries.wrong(node, f"module {name} needs models or slices, one of them.")
            return None
        self.entries.places.setdefault(at, entries[given[0]].place)
        if given == ["models"]:
            part = self._slice_of_models(entries["models"], at)
            slices = [part] if part else []
        else:
            rows = self._rows(entries["slices"], "slices", "slices is empty: it names no models.")
            slices = []
            for row in rows:
                part = self._slice(row, (*at, "slices", len(slices)))
                slices += [part] if part else []
        parameters = self.parameters(node, at) if name else {}
        return Module(tuple(slices), name, parameters) if slices else None

    def _rows(self, node: Node, what: str, empty: str) -> list[Node]:
        """A list's items; a problem where it has none, or is no list."""
        if is_nothing(node) or node.content == []:
            self.entries.wrong(node, empty)
        return self.entries.list(node, what)

    def _slice_of_models(self, node: Node, at: Where) -> Slice | None:
        where = (*at, "slices", 0)
        self.entries.places[where] = node.place
        rows = self._rows(node, "models", "models is empty: list the models to merge.")
        sources = self._sources(rows, where, ("model", "parameters"))
        return Slice(sources) if sources else None

    def _slice(self, node: Node, at: Where) -> Slice | None:
        self.entries.places[at] = node.place
        entries = self.entries.mapping(node, "a slice")
        known = ("sources", "base_model", "parameters", "residual_weight")
        self.entries.known(node, known, "a slice")
        if "residual_weight" in entries:
            self.entries.note(node.keys["residual_weight"], "residual_weight has no effect, here as in mergekit.")
        if "sources" not in entries:
            self.entries.wrong(node, "a slice without `sources:`. List its models and their layers there.")
            return None
        rows = self._rows(entries["sources"], "sources", "sources is empty: list the models of the slice.")
        sources = self._sources(rows, at, ("model", "layer_range", "parameters"))
        base = entries.get("base_model")
        if base is not None:
            self.entries.places[*at, "base"] = base.place
        base = None if is_nothing(base) else self.inputs.named(base)
        return Slice(sources, base, self.parameters(node, at)) if sources else None

    def _sources(self, rows: list[Node], at: Where, known: tuple[str, ...]) -> tuple[Source, ...]:
        found = []
        for row in rows:
            where = (*at, "sources", len(found))
            self.entries.places[where] = row.place
            source = self._source(row, where, known)
            if source is None:
                self.entries.doubtful.add(at)
            found += [source] if source else []
        return tuple(found)

    def _source(self, node: Node, at: Where, known: tuple[str, ...]) -> Source | None:
        if isinstance(node.content, str) and not is_nothing(node):
            return self.entries.wrong(node, f"must be a mapping: write `model: {node.content[:60]}`.")
        entries = self.entries.mapping(node, "a model's entry")
        self.entries.known(node, known, "a model's entry")
        layers, parameters = None, self.parameters(node, at)
        if "model" not in entries:
            return self.entries.wrong(node, "a model's entry without `model:`. Write its path or Hub id there.")
        name = self.inputs.named(entries["model"])
        if not is_nothing(entries.get("layer_range")):
            self.entries.places[*at, "layers"] = entries["layer_range"].place
            layers = self._layers(entries["layer_range"])
            if layers is None:
                return None
        return None if name is None else Source(name, layers, parameters)

    def _layers(self, node: Node) -> tuple[int, int] | None:
        rows = self.entries.value(node)
        if isinstance(rows, list) and len(rows) == 2 and all(type(row) is int for row in rows):
            return rows[0], rows[1]
        text = "layer_range must be [first, past the last], two whole numbers"
        return self.entries.wrong(node, f"{text}, not {shown(node)}.")

    def parameters(self, node: Node, at: Where) -> dict[str, Any]:
        """The parameters of one scope as plain data."""
        holder = node.content.get("parameters") if isinstance(node.content, dict) else None
        if holder is None:
            return {}
        found = {}
        for name, value in self.entries.mapping(holder, "parameters").items():
            if name in _IGNORED:
                self.entries.note(holder.keys[name], _IGNORED[name])
                continue
            where = (*at, "parameters", name)
            found[name] = self._value(value, where)
            self.entries.places[where] = holder.keys[name]
        return found

    def _value(self, node: Node, where: Where) -> Any:
        """Plain data; keeps the place of everything in it."""
        self.entries.places[where] = node.place
        if isinstance(node.content, list):
            return [self._value(child, (*where, i)) for i, child in enumerate(node.content)]
        if isinstance(node.content, dict):
            return {key: self._value(child, (*where, key)) for key, child in node.content.items()}
        value = self.entries.value(node)
        if value is None and not is_nothing(node):
            self.entries.doubtful.add(where)
        return value
