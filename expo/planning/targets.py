"""Which output tensors a recipe's modules and slices ask for, and which tensor of each model goes into them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from expo.checkpoint.names import layer_of
from expo.checkpoint.spec import TensorSpec
from expo.methods import Method
from expo.output.layers import PickedLayers
from expo.planning.complaints import Told
from expo.planning.stacks import free_components, inside, layer_counts, main_stack, rivals, shared_in_first
from expo.planning.tied import EMBEDDINGS, ends_with
from expo.recipe import Module, Recipe, Slice, Source
from expo.recipe.check import models_of

Tables = Mapping[str, Mapping[str, TensorSpec]]  # model -> name in the donor's spelling -> tensor
_PARTS_OF_EMBEDDINGS = ("embed", "wte", "wpe")


@dataclass(frozen=True, slots=True)
class Target:
    """One output tensor, and the tensors that the method takes for it."""

    name: str  # in the output
    giver: str  # the model whose tensor gives it its form
    spec: TensorSpec  # that tensor
    sources: tuple[tuple[str, str], ...]  # (model, name in the donor's spelling), the base first
    depth: float  # 0 at the first layer, 1 at the last; 0 outside of layers
    module: Module
    part: Slice
    whole: bool  # False where layers were picked


class Targets:
    """The targets of one recipe; what cannot be is in `problems`, what should be known in `notes`."""

    def __init__(self, recipe: Recipe, method: Method, tables: Tables, config: Mapping[str, Any]):
        self.recipe, self.method, self.tables, self.config = recipe, method, tables, config  # config: the donor's
        self.problems: list[str] = []
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Target]:
        takers: dict[str, str | None] = {}
        twice: dict[tuple[str | None, str | None], list[str]] = {}
        for module in self.recipe.parts:
            before = len(takers)
            for target in self._of_module(module):
                if target.name in takers:
                    twice.setdefault((takers[target.name], module.name), []).append(target.name)
                takers[target.name] = module.name
                yield target
            if module.name and len(takers) == before and not self.problems:
                self.notes.append(f"module {module.name} takes no tensor: none has that name as a component")
        for (one, other), names in twice.items():
            self.problems.append(f"modules {one} and {other} both take {len(names)} tensors, such as {names[0]}.")
        yield from self._of_no_module()

    def _of_no_module(self) -> Iterator[Target]:
        """Tensors that no module takes: outside of layers they go with the first module, inside they are a problem."""
        first, donor = self.recipe.parts[0], self.tables[self.recipe.donor]
        left = [name for name in donor if not any(inside(module, name) for module in self.recipe.parts)]
        layered = [name for name in left if layer_of(name)]
        if layered:
            free = ", ".join(free_components(donor, layered))
            self.problems.append(
                f"no module takes {len(layered)} tensors of layers, such as {layered[0]}. A module takes the tensors "
                f"whose names have its name as a component{f'; free are: {free}' if free else ''}."
            )
        elif left and first.slices:
            part = first.slices[0]
            self.notes.append(
                f"no module takes {len(left)} tensors outside of layers, such as {left[0]}: they go with the first "
                f"module, {first.name}"
            )
            giver = self._giver(part)
            for name in left:
                role = giver if name in self.tables[giver] else self.recipe.donor
                sources = tuple((model, name) for model in self._order(part))
                yield Target(name, role, self.tables[role][name], sources, 0.0, first, part, part.n_layers is None)

    def _wrong(self, module: Module, part: Slice, text: str, *where: str | int) -> None:
        """A problem with a slice, or with what is at `where` inside of it."""
        m = next(i for i, other in enumerate(self.recipe.parts) if other == module)
        s = next(i for i, other in enumerate(module.slices) if other is part)
        self.problems.append(Told.at(("modules", m, "slices", s, *where), text))

    def _of_module(self, module: Module) -> Iterator[Target]:
        whole = [part for part in module.slices if part.n_layers is None]
        if whole and len(module.slices) > 1:
            self._wrong(
                module, whole[0], "a slice without layer_range merges whole models, so it must be the only one."
            )
        elif whole:
            yield from self._of_whole(module, whole[0])
        else:
            yield from self._of_slices(module)

    def _of_whole(self, module: Module, part: Slice) -> Iterator[Target]:
        giver = self._giver(part)
        names = [name for name in self.tables[giver] if inside(module, name)]
        counts = layer_counts(names)
        for name in names:
            place = layer_of(name)
            depth = _depth(place[1], counts[place[0]]) if place else 0.0
            sources = tuple((model, name) for model in self._order(part))
            yield Target(name, giver, self.tables[giver][name], sources, depth, module, part, True)

    def _of_slices(self, module: Module) -> Iterator[Target]:
        first, last = module.slices[0], module.slices[-1]
        if problem := self._cut_short(module):
            self.problems.append(problem)
            return
        yield from self._outside(module, first, before=True)
        at = 0
        for part in module.slices:
            yield from self._layers(module, part, at)
            at += part.n_layers
        yield from self._outside(module, last, before=False)

    def _cut_short(self, module: Module) -> str | None:
        """What is wrong where layers could be picked from several stacks."""
        for giver in dict.fromkeys([self.recipe.donor, *map(self._giver, module.slices)]):
            stacks = rivals(self.tables[giver], module, self.config)
            if stacks:
                names = [free_components(self.tables[giver], [f"{stack}.0"]) for stack in stacks]
                example = ", ".join(f"{own[0]}: ..." for own in names if own) or "name: ..."
                return (
                    f"layer_range does not say which layers it picks: {giver} has the stacks {', '.join(stacks)}, "
                    "and the others would keep theirs. Give each its own slices or models: "
                    f"modules: {{{example}}}."
                )
        return None

    def _outside(self, module: Module, part: Slice, *, before: bool) -> Iterator[Target]:
        """Tensors before, or else behind, the main stack of layers, as one slice merges them."""
        giver = self._giver(part)
        table = self.tables[giver]
        stack, shared = main_stack(table, module), shared_in_first(table, module)
        for name, spec in table.items():
            place = layer_of(name)
            outside = not (place and place[0] == stack) and _is_embedding(name) == before
            wanted = before if name in shared else outside
            if wanted and inside(module, name):
                sources = tuple((model, name) for model in self._order(part))
                yield Target(name, giver, spec, sources, 0.0, module, part, False)

    def _layers(self, module: Module, part: Slice, at: int) -> Iterator[Target]:
        """The layers of one slice, numbered from `at` on."""
        giver, starts = self._giver(part), self._starts(module, part)
        if starts is None:
            return
        table = self.tables[giver]
        stack, shared = main_stack(table, module), shared_in_first(table, module)
        rows = [(layer_of(n), n, spec) for n, spec in table.items() if inside(module, n) and n not in shared]
        for i in range(part.n_layers):
            for place, name, spec in rows:
                if place == (stack, starts[giver] + i):
                    sources = tuple((model, numbered(name, start + i)) for model, start in self._ordered(part, starts))
                    depth = _depth(i, part.n_layers)
                    yield Target(numbered(name, at + i), giver, spec, sources, depth, module, part, False)

    def _ordered(self, part: Slice, starts: dict[str, int]) -> list[tuple[str, int]]:
        """(model, its first layer) as the method takes them: one model may come twice with other layers."""
        base = self._base(part)
        rows = [(base, starts[base])] if base else []
        positions = models_of(self.recipe, self.method, part)
        return rows + [(part.sources[i].model, part.sources[i].layers[0]) for i in positions]

    def _starts(self, module: Module, part: Slice) -> dict[str, int] | None:
        """Model -> first layer; None, with a problem, where a range lies outside of a model."""
        starts = {}
        for i, source in reversed(list(enumerate(part.sources))):
            starts[source.model] = source.layers[0]
            held = layer_counts(name for name in self.tables[source.model] if inside(module, name))
            n_layers = held.get(main_stack(self.tables[source.model], module), 0)
            if source.layers[1] > n_layers:
                self._wrong(module, part, _out_of_range(source, module, n_layers), "sources", i, "layers")
                return None
        base = self._base(part)
        if base and base not in starts:
            if len({source.layers for source in part.sources}) > 1:
                text = f"the sources take different layers, so {base} must be among them with a layer_range of its own."
                self._wrong(module, part, text)
                return None
            starts[base] = part.sources[0].layers[0]
        return starts

    def _base(self, part: Slice) -> str | None:
        return None if self.method.base == "none" else part.base or self.recipe.base

    def _order(self, part: Slice) -> list[str]:
        """The slice's models as the method takes them."""
        base = self._base(part)
        models = [part.sources[i].model for i in models_of(self.recipe, self.method, part)]
        return [base, *models] if base else models

    def _giver(self, part: Slice) -> str:
        """The model whose names and shapes a slice's tensors take: the donor where it takes part."""
        inside = [source.model for source in part.sources]
        if self.recipe.donor in inside or not self._picks(part):
            return self.recipe.donor
        return inside[0]

    @staticmethod
    def _picks(part: Slice) -> bool:
        return part.n_layers is not None


def picked_layers(recipe: Recipe, method: Method, tables: Tables) -> tuple[PickedLayers, ...]:
    """For each module whose layers are picked: which layer of the donor each layer of the output is."""
    donor = tables[recipe.donor]
    found = []
    for module in recipe.parts:
        sources: list[int] = []
        for part in module.slices:
            if part.n_layers is None:
                break
            named = {source.model: source.layers for source in reversed(part.sources)}
            layers = named.get(recipe.donor, part.sources[0].layers)
            sources += range(*layers)
        else:
            stack = main_stack(donor, module)
            before = layer_counts(name for name in donor if inside(module, name))[stack]
            found.append(PickedLayers(stack, before, tuple(sources)))
    return tuple(found)


def numbered(name: str, layer: int) -> str:
    """A tensor's name in another layer."""
    stack, _ = layer_of(name)
    rest = name[len(stack) + 1 :] if stack else name
    tail = rest.partition(".")[2]
    return ".".join(part for part in (stack, str(layer), tail) if part)


def _out_of_range(source: Source, module: Module, n_layers: int) -> str:
    where = f" in {module.name}" if module.name else ""
    said = f"layer_range {list(source.layers)} lies outside of {source.model}, which has {n_layers} layers{where}"
    return (
        f"{said}: [0, {n_layers}] takes them all, and the second number is at most {n_layers}."
        if n_layers
        else f"{said}."
    )


def _depth(i: int, n: int) -> float:
    return i / (n - 1) if n > 1 else 0.0


def _is_embedding(name: str) -> bool:
    """Whether a tensor outside of the layers comes before them."""
    return ends_with(name, EMBEDDINGS) or any(part in name for part in _PARTS_OF_EMBEDDINGS)
