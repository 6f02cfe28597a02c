"""The parameters of every output tensor: scopes looked through, gradients and filters settled, mistakes said once."""

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from expo.errors import nearest
from expo.methods import Method
from expo.methods.parameter import REQUIRED, Parameter
from expo.planning.complaints import Told
from expo.planning.targets import Target
from expo.recipe import Recipe
from expo.recipe.check import models_of, scopes
from expo.recipe.values import matches, value_at

Scope = tuple[tuple, dict[str, Any]]  # (the part of the recipe, its parameters)


def parameters_of_all(
    recipe: Recipe, method: Method, targets: Iterable[Target]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(tensor -> keyword arguments of the method's function, what is wrong with them, each thing once).

    The narrowest scope that has a value decides: source, then slice, module, recipe, and the method's default.
    """
    found: dict[str, dict[str, Any]] = {}
    lacking: dict[tuple[str, tuple], list[str]] = {}
    wrong: dict[tuple[str, tuple], list[str]] = {}
    for target in targets:
        arguments, lacks = _arguments(recipe, method, target)
        found[target.name] = {} if lacks else arguments
        if lacks:
            lacking.setdefault(lacks, []).append(target.name)
        elif text := method.check(**arguments):
            wrong.setdefault((text, _where_of(text, recipe, method, target)), []).append(target.name)
    problems = [_lacking(name, where, names) for (name, where), names in lacking.items()]
    problems += [Told.at(where, f"{_counted(names)}: {text}") for (text, where), names in wrong.items()]
    return found, problems


def _arguments(recipe: Recipe, method: Method, target: Target) -> tuple[dict[str, Any], tuple[str, tuple] | None]:
    """(keyword arguments, the parameter that has no value here and where it is given, if there is one)."""
    shared = _shared_scopes(recipe, target)
    found: dict[str, Any] = {}
    for parameter in method.parameters.values():
        if parameter.each:
            scopes_of = [[own, *shared] for own in _own_scopes(recipe, method, target)]
            values = tuple(_value(parameter, scopes, target) for scopes in scopes_of)
            lacks = [scopes for value, scopes in zip(values, scopes_of, strict=True) if value is REQUIRED]
        else:
            values = _value(parameter, shared, target)
            lacks = [shared] if values is REQUIRED else []
        if lacks:
            return {}, (parameter.name, _given(parameter.name, lacks[0]))
        found[parameter.argument] = values
    return found, None


def _shared_scopes(recipe: Recipe, target: Target) -> list[Scope]:
    m = _place(recipe.modules, target.module)
    s = _place(target.module.slices, target.part)
    return [
        (("modules", m, "slices", s), target.part.parameters),
        (("modules", m), target.module.parameters),
        ((), recipe.parameters),
    ]


def _own_scopes(recipe: Recipe, method: Method, target: Target) -> list[Scope]:
    """One for each of the method's models."""
    around = _shared_scopes(recipe, target)[0][0]
    return [
        ((*around, "sources", i), target.part.sources[i].parameters) for i in models_of(recipe, method, target.part)
    ]


def _place(parts: tuple, part: Any) -> int:
    return next((i for i, other in enumerate(parts) if other is part), 0)  # a recipe of models has none


def _value(parameter: Parameter, scopes: list[Scope], target: Target) -> Any:
    for _, scope in scopes:
        if parameter.name in scope:
            value = value_at(scope[parameter.name], target.name, target.depth)
            if value is not None:
                return parameter.checked(value)
    return parameter.default


def _given(name: str, scopes: list[Scope]) -> tuple:
    """Where the narrowest of the scopes that has a parameter is."""
    return next(((*where, "parameters", name) for where, scope in scopes if name in scope), ())


def _where_of(text: str, recipe: Recipe, method: Method, target: Target) -> tuple:
    """Where the parameter that a method's complaint speaks of is given first."""
    scopes_ = [*_own_scopes(recipe, method, target), *_shared_scopes(recipe, target)]
    places = (_given(name, scopes_) for name in method.parameters if name in text)
    return next((where for where in places if where), ())


def _lacking(parameter: str, where: tuple, names: list[str]) -> Told:
    if len(names) == 1:
        return Told.at(where, f"{names[0]}: no filter of {parameter} takes it. Add a last row without a filter.")
    return Told.at(
        where,
        f"no filter of {parameter} takes {len(names)} tensors, such as {names[0]}: add a last row without a filter.",
    )


def _counted(names: list[str]) -> str:
    more = len(names) - 1
    return names[0] + (f" (and {more} more tensor{'s' if more > 1 else ''})" if more else "")


def idle_filters(recipe: Recipe, targets: list[Target], others: Iterable[str]) -> Iterator[Told]:
    """A warning for each filter that takes no tensor: a slip of the pen, as a rule. others: tensors that are copied."""
    others = list(others)
    for where, given, of_one_model in scopes(recipe):
        inside = [target.name for target in targets if _is_inside(recipe, where, target)] + others
        for name, setting in given.items():
            rows = setting if isinstance(setting, list | tuple) else ()
            for i, row in enumerate(rows):
                pattern = row.get("filter") if isinstance(row, dict) else None
                if pattern is not None and not any(matches(pattern, tensor) for tensor in inside):
                    model = f" of {_source(recipe, where).model}" if of_one_model else ""
                    text = f"parameters.{name}{model}: no tensor matches the filter {pattern!r}"
                    hint = _of_stacked(pattern, targets) or nearest(pattern, _components(inside))
                    yield Told.at((*where, "parameters", name, i), text + ("." + hint if hint else ""))


def _of_stacked(pattern: str, targets: list[Target]) -> str:
    """What to do where a filter asks for one expert, and the experts are stacked."""
    stacked = next((t.name for t in targets if ".experts." in t.name and len(t.spec.shape) == 3), None)
    if not stacked or not re.search(r"experts\W*[\d(\[\\]", pattern):
        return ""
    return f" {stacked} holds all experts of its layer: with `layout: separate` each is a tensor of its own."


def _is_inside(recipe: Recipe, where: tuple, target: Target) -> bool:
    """Whether a scope's parameters are for a tensor."""
    if not where:
        return True
    module = recipe.modules[where[1]]
    return target.module is module and (len(where) < 4 or target.part is module.slices[where[3]])


def _source(recipe: Recipe, where: tuple) -> Any:
    return recipe.modules[where[1]].slices[where[3]].sources[where[5]]


def _components(names: list[str]) -> list[str]:
    """What tensors' names are made of: single components, and two that follow each other."""
    parts = [name.split(".") for name in names]
    single = [part for row in parts for part in row if not part.isdigit()]
    double = [f"{one}.{two}" for row in parts for one, two in pairwise(row)]
    return list(dict.fromkeys(single + double))
