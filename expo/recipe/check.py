"""What a recipe must satisfy before any checkpoint is opened: its models against the method, and its parameters."""

from typing import TYPE_CHECKING, Any

from expo.errors import RecipeError, nearest
from expo.methods.declare import Method
from expo.methods.parameter import REQUIRED
from expo.recipe.parts import Module, Slice
from expo.recipe.values import check_setting

if TYPE_CHECKING:
    from expo.recipe.recipe import Recipe


def check_models(recipe: "Recipe", method: Method) -> None:
    """Raise RecipeError unless every slice has the models that the method needs."""
    if not recipe.models:
        raise RecipeError(f"{method.name} needs models, and the recipe names none.")
    if recipe.base is not None and recipe.base not in recipe.models:
        raise RecipeError(f"base {recipe.base!r} is none of the models.{nearest(recipe.base, recipe.models)}")
    for module in recipe.parts:
        if not module.slices:
            raise RecipeError("a module without slices makes nothing.")
        for part in module.slices:
            _check_slice(recipe, method, part)


def models_of(recipe: "Recipe", method: Method, part: Slice) -> list[int]:
    """Positions in the slice's sources of the method's models, the base aside."""
    base = None if method.base == "none" else part.base or recipe.base
    return [i for i, source in enumerate(part.sources) if source.model != base]


def _check_slice(recipe: "Recipe", method: Method, part: Slice) -> None:
    for source in part.sources:
        if source.model not in recipe.models:
            raise RecipeError(f"{source.model!r} is none of the models.{nearest(source.model, recipe.models)}")
        low, high = source.layers or (0, 1)
        if not 0 <= low < high:
            raise RecipeError(f"{source.model}: layer_range [{low}, {high}] holds no layer.")
    lengths = {source.layers and source.layers[1] - source.layers[0] for source in part.sources}
    if len(lengths) > 1:
        ranges = ", ".join(f"{source.model} {list(source.layers or ())}" for source in part.sources)
        raise RecipeError(f"the sources of one slice must have as many layers: {ranges}.")
    base = part.base or recipe.base
    if method.base == "required" and base is None:
        raise RecipeError(f"{method.name} needs a base model: add base_model.")
    if base is not None and base not in recipe.models:
        raise RecipeError(f"base {base!r} is none of the models.{nearest(base, recipe.models)}")
    fewest, most = method.models
    n_models = len(models_of(recipe, method, part))
    if n_models < fewest or (most is not None and n_models > most):
        wanted = str(fewest) if fewest == most else f"at least {fewest}" if most is None else f"{fewest} to {most}"
        beside = " beside its base" if method.base == "required" else ""
        plural = "" if fewest == 1 and most in (1, None) else "s"
        named = ", ".join(part.sources[i].model for i in models_of(recipe, method, part))
        raise RecipeError(
            f"{method.name} merges {wanted} model{plural}{beside}; the recipe gives {n_models}"
            + (f" ({named})." if named else ".")
        )


def with_defaults(recipe: "Recipe", method: Method) -> dict[str, Any]:
    """The recipe's own parameters, checked, and the defaults of those that are given nowhere."""
    for where, given in scopes(recipe.parts):
        _check(method, given, for_one_model=where == "source")
    _check(method, recipe.parameters, for_one_model=False)
    defaults = {p.name: p.default for p in method.parameters.values() if p.default is not REQUIRED}
    for name, parameter in method.parameters.items():
        if parameter.default is REQUIRED and name not in recipe.parameters:
            _check_given(recipe, method, name)
    given = {n: method.known(n).checked(v) if _single(v) else v for n, v in recipe.parameters.items()}
    return {**defaults, **given}


def scopes(modules: tuple[Module, ...]):
    """(kind, parameters) of each place below the recipe's own."""
    for module in modules:
        yield "module", module.parameters
        for part in module.slices:
            yield "slice", part.parameters
            for source in part.sources:
                yield "source", source.parameters


def _check(method: Method, given: dict[str, Any], *, for_one_model: bool) -> None:
    for name, setting in given.items():
        parameter = method.known(name)
        if for_one_model and not parameter.each:
            raise RecipeError(f"{name} is a parameter of the whole merge, not of one model: write it under parameters.")
        check_setting(parameter, setting)


def _check_given(recipe: "Recipe", method: Method, name: str) -> None:
    """A parameter without a default is given somewhere for every model that needs it."""
    for module in recipe.parts:
        for part in module.slices:
            above = name in module.parameters or name in part.parameters
            lacking = [
                part.sources[i].model
                for i in models_of(recipe, method, part)
                if not above and not (method.parameters[name].each and name in part.sources[i].parameters)
            ]
            if lacking:
                of = f" for {lacking[0]}" if method.parameters[name].each else ""
                raise RecipeError(f"{method.name} needs {name}{of}: add it under parameters.")


def _single(value: Any) -> bool:
    return not isinstance(value, list | tuple | dict)
