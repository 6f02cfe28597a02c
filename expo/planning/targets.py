"""Which output tensors a recipe's modules and slices ask for, and which tensor of each model goes into them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from expo.checkpoint.names import layer_of
from expo.checkpoint.spec import TensorSpec
from expo.methods import Method
from expo.output.layers import PickedLayers
from expo.planning.complaints import Told
from expo.planning.tied import EMBEDDINGS, ends_with
from expo.recipe import Module, Recipe, Slice
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
    """The targets of one recipe; what cannot be is in `problems`."""

    def __init__(self, recipe: Recipe, method: Method, tables: Tables):
        self.recipe, self.method, self.tables = recipe, method, tables
        self.problems: list[str] = []
        self.sliced = any(part.n_layers is not None for module in recipe.parts for part in module.slices)

    def __iter__(self) -> Iterator[Target]:
        taken: set[str] = set()
        for module in self.recipe.parts:
            for target in self._of_module(module):
                taken.add(target.name)
                yield target
        if any(module.name for module in self.recipe.parts):
            left = [name for name in self.tables[self.recipe.donor] if name not in taken]
            if left:
                count = f"{len(left)} tensors, such as {left[0]}" if len(left) > 1 else left[0]
                self.problems.append(
                    f"no module takes {count}. A module takes the tensors whose names have its name as a component."
                )

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
        names = [name for name in self.tables[giver] if _inside(module, name)]
        counts = _counts(names)
        for name in names:
            place = layer_of(name)
            depth = _depth(place[1], counts[place[0]]) if place else 0.0
            sources = tuple((model, name) for model in self._order(part))
            yield Target(name, giver, self.tables[giver][name], sources, depth, module, part, True)

    def _of_slices(self, module: Module) -> Iterator[Target]:
        first, last = module.slices[0], module.slices[-1]
        yield from self._outside(module, first, lambda name: _is_embedding(name))
        at = 0
        for part in module.slices:
            yield from self._layers(module, part, at)
            at += part.n_layers
        yield from self._outside(module, last, lambda name: not _is_embedding(name))

    def _outside(self, module: Module, part: Slice, wanted) -> Iterator[Target]:
        """Tensors outside of the main stack of layers, as one slice merges them."""
        giver = self._giver(part)
        stack = main_stack(self.tables[giver], module)
        for name, spec in self.tables[giver].items():
            place = layer_of(name)
            if _inside(module, name) and not (place and place[0] == stack) and wanted(name):
                sources = tuple((model, name) for model in self._order(part))
                yield Target(name, giver, spec, sources, 0.0, module, part, False)

    def _layers(self, module: Module, part: Slice, at: int) -> Iterator[Target]:
        """The layers of one slice, numbered from `at` on."""
        giver, starts = self._giver(part), self._starts(module, part)
        if starts is None:
            return
        stack = main_stack(self.tables[giver], module)
        rows = [(layer_of(name), name, spec) for name, spec in self.tables[giver].items() if _inside(module, name)]
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
            held = _counts(name for name in self.tables[source.model] if _inside(module, name))
            n_layers = held.get(main_stack(self.tables[source.model], module), 0)
            if source.layers[1] > n_layers:
                text = f"layer_range {list(source.layers)} lies outside of {source.model}, which has {n_layers} layers."
                self._wrong(module, part, text, "sources", i, "layers")
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
            before = _counts(name for name in donor if _inside(module, name))[main_stack(donor, module)]
            found.append(PickedLayers(module.name, before, tuple(sources)))
    return tuple(found)


def main_stack(table: Mapping[str, TensorSpec], module: Module) -> str | None:
    """The layers that slices pick from: of several stacks the one with the most bytes."""
    sizes: Counter[str] = Counter()
    for name, spec in table.items():
        place = layer_of(name)
        if place and _inside(module, name):
            sizes[place[0]] += spec.n_bytes
    return sizes.most_common(1)[0][0] if sizes else None


def numbered(name: str, layer: int) -> str:
    """A tensor's name in another layer."""
    stack, _ = layer_of(name)
    rest = name[len(stack) + 1 :] if stack else name
    tail = rest.partition(".")[2]
    return ".".join(part for part in (stack, str(layer), tail) if part)


def _inside(module: Module, name: str) -> bool:
    return module.name is None or f".{module.name}." in f".{name}."


def _counts(names) -> Counter[str]:
    """Layers of each stack."""
    places = {place for place in map(layer_of, names) if place}
    return Counter(stack for stack, _ in places)


def _depth(i: int, n: int) -> float:
    return i / (n - 1) if n > 1 else 0.0


def _is_embedding(name: str) -> bool:
    """Whether a tensor outside of the layers comes before them."""
    return ends_with(name, EMBEDDINGS) or any(part in name for part in _PARTS_OF_EMBEDDINGS)
