"""The parameters of one output tensor: every scope looked through, gradients and filters settled."""

from typing import Any

from expo.methods import Method
from expo.methods.parameter import REQUIRED, Parameter
from expo.planning.targets import Target
from expo.recipe import Recipe
from expo.recipe.check import models_of
from expo.recipe.values import value_at


def parameters_of(recipe: Recipe, method: Method, target: Target) -> tuple[dict[str, Any], str | None]:
    """(keyword arguments of the method's function, what is wrong with them or None).

    The narrowest scope that has a value decides: source, then slice, module, recipe, and the method's default.
    """
    shared = [target.part.parameters, target.module.parameters, recipe.parameters]
    found: dict[str, Any] = {}
    for parameter in method.parameters.values():
        if parameter.each:
            sources = [target.part.sources[i].parameters for i in models_of(recipe, method, target.part)]
            values = tuple(_value(parameter, [own, *shared], target) for own in sources)
            lacking = any(value is REQUIRED for value in values)
        else:
            values = _value(parameter, shared, target)
            lacking = values is REQUIRED
        if lacking:
            return {}, f"{target.name}: no filter of {parameter.name} takes it. Add a last row without a filter."
        found[parameter.argument] = values
    return found, method.check(**found)


def _value(parameter: Parameter, scopes: list[dict[str, Any]], target: Target) -> Any:
    for scope in scopes:
        if parameter.name in scope:
            value = value_at(scope[parameter.name], target.name, target.depth)
            if value is not None:
                return parameter.checked(value)
    return parameter.default
