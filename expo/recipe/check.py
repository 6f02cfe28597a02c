"""What a recipe must satisfy before any checkpoint is opened: its models against the method, and its parameters.

Each error says in `where` which part of the recipe it is about, so that a file's line can be named.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from expo.errors import RecipeError, nearest
from expo.methods.declare import Method
from expo.methods.parameter import REQUIRED
from expo.recipe.parts import Module, Slice
from expo.recipe.values import placed, wrong_in

if TYPE_CHECKING:
    from expo.recipe.recipe import Recipe


def problems(recipe: "Recipe", method: Method) -> Iterator[RecipeError]:
    """Everything that is wrong with a recipe's models and parameters."""
    if not recipe.models:
        yield RecipeError(f"{method.name} needs models, and the recipe names none.")
        return
    if recipe.base is not None and recipe.base not in recipe.models:
        text = f"base {recipe.base!r} is none of the models.{nearest(recipe.base, recipe.models)}"
        yield placed(RecipeError(text), "base")
        return
    for where, module, part in _slices(recipe):
        if part is None:
            yield placed(RecipeError("a module without slices makes nothing."), *where)
        else:
            yield from (placed(error, *where) for error in _wrong_slice(recipe, method, part))
            yield from (placed(error, *where) for error in _lacking(recipe, method, module, part))
    for where, given, of_one_model in scopes(recipe):
        yield from (placed(error, *where) for error in _wrong_parameters(method, given, of_one_model))


def models_of(recipe: "Recipe", method: Method, part: Slice) -> list[int]:
    """Positions in the slice's sources of the method's models, the base aside."""
    base = None if method.base == "none" else part.base or recipe.base
    return [i for i, source in enumerate(part.sources) if source.model != base]


def _slices(recipe: "Recipe") -> Iterator[tuple[tuple, Module, Slice | None]]:
    for m, module in enumerate(recipe.parts):
        if not module.slices:
            yield ("modules", m), module, None
        for s, part in enumerate(module.slices):
            yield ("modules", m, "slices", s), module, part


def _wrong_slice(recipe: "Recipe", method: Method, part: Slice) -> Iterator[RecipeError]:
    for i, source in enumerate(part.sources):
        if source.model not in recipe.models:
            text = f"{source.model!r} is none of the models.{nearest(source.model, recipe.models)}"
            yield placed(RecipeError(text), "sources", i)
        low, high = source.layers or (0, 1)
        if not 0 <= low < high:
            text = f"{source.model}: layer_range [{low}, {high}] holds no layer."
            yield placed(RecipeError(text), "sources", i, "layers")
    if len({source.layers and source.layers[1] - source.layers[0] for source in part.sources}) > 1:
        ranges = ", ".join(f"{s.model} {list(s.layers) if s.layers else 'whole'}" for s in part.sources)
        yield RecipeError(f"the sources of one slice must have as many layers: {ranges}.")
    base = part.base or recipe.base
    if method.base == "required" and base is None:
        yield RecipeError(f"{method.name} needs a base model: add base_model.")
    elif base is not None and base not in recipe.models:
        yield placed(RecipeError(f"base {base!r} is none of the models.{nearest(base, recipe.models)}"), "base")
    else:
        yield from _wrong_count(recipe, method, part)


def _wrong_count(recipe: "Recipe", method: Method, part: Slice) -> Iterator[RecipeError]:
    fewest, most = method.models
    given = [part.sources[i].model for i in models_of(recipe, method, part)]
    if len(given) >= fewest and (most is None or len(given) <= most):
        return
    wanted = str(fewest) if fewest == most else f"at least {fewest}" if most is None else f"{fewest} to {most}"
    beside = " beside its base" if method.base == "required" else ""
    names = f" ({', '.join(given)})" if given else ""
    yield RecipeError(
        f"{method.name} merges {wanted} model{'' if wanted.endswith('1') else 's'}{beside}; "
        f"the recipe gives {len(given)}{names}.{_remedy(recipe, method, part, len(given))}"
    )


def _remedy(recipe: "Recipe", method: Method, part: Slice, n_given: int) -> str:
    """What to do about one model too many, where the base is none of them."""
    base = part.base or recipe.base
    apart = base is not None and base not in [source.model for source in part.sources]
    if method.base == "required" and apart and n_given - 1 == method.models[1]:
        return f" Its base_model, {base}, is none of these: name one of them."
    return ""


def with_defaults(recipe: "Recipe", method: Method) -> dict[str, Any]:
    """The recipe's own parameters, checked, and the defaults of those that are given nowhere."""
    defaults = {p.name: p.default for p in method.parameters.values() if p.default is not REQUIRED}
    given = {n: method.known(n).checked(v) if _single(v) else v for n, v in recipe.parameters.items()}
    return {**defaults, **given}


def scopes(recipe: "Recipe") -> Iterator[tuple[tuple, dict[str, Any], bool]]:
    """(where, parameters, whether they are of one model) of every place that holds parameters, the widest first."""
    yield (), recipe.parameters, False
    for m, module in enumerate(recipe.modules):
        yield ("modules", m), module.parameters, False
        for s, part in enumerate(module.slices):
            yield ("modules", m, "slices", s), part.parameters, False
            for i, source in enumerate(part.sources):
                yield ("modules", m, "slices", s, "sources", i), source.parameters, True


def _wrong_parameters(method: Method, given: dict[str, Any], of_one_model: bool) -> Iterator[RecipeError]:
    for name, setting in given.items():
        try:
            parameter = method.known(name)
        except RecipeError as error:
            yield placed(error, "parameters", name)
            continue
        if of_one_model and not parameter.each:
            text = f"{name} is a parameter of the whole merge, not of one model: write it under parameters."
            yield placed(RecipeError(text), "parameters", name)
        yield from (placed(error, "parameters", name) for error in wrong_in(parameter, setting))


def _lacking(recipe: "Recipe", method: Method, module: Module, part: Slice) -> Iterator[RecipeError]:
    """A parameter without a default is given somewhere for every model that needs it."""
    above = recipe.parameters.keys() | module.parameters.keys() | part.parameters.keys()
    for name, parameter in method.parameters.items():
        if parameter.default is not REQUIRED or name in above:
            continue
        own = [(i, part.sources[i]) for i in models_of(recipe, method, part)]
        lacking = [i for i, source in own if not (parameter.each and name in source.parameters)]
        if lacking and not parameter.each:
            yield RecipeError(f"{method.name} needs {name}: add it under parameters.")
        elif lacking:
            text = f"{method.name} needs {name} for {part.sources[lacking[0]].model}: add it under parameters."
            yield placed(RecipeError(text), "sources", lacking[0])


def _single(value: Any) -> bool:
    return not isinstance(value, list | tuple | dict)
