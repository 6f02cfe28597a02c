"""A parameter's setting in a recipe: a value, a gradient over depth, or one of these by tensor name."""

import re
from collections.abc import Iterator
from typing import Any

from expo.errors import BadParameter, RecipeError
from expo.methods.parameter import Parameter

Setting = Any  # number, bool or text; [number, ...]: a gradient; [{"filter": text, "value": one of these}, ...]


def value_at(setting: Setting, name: str, t: float) -> Any:
    """The setting's value for the tensor `name` at depth t in [0, 1]; None where no filter matches.

    A filter is a part of the name, or after `re:` a regular expression; the first that matches decides.
    """
    if not isinstance(setting, list | tuple):
        return setting
    if setting and isinstance(setting[0], dict):
        for row in setting:
            if matches(row.get("filter"), name):
                return value_at(row["value"], name, t)
        return None
    return _interpolated(setting, t)


def matches(pattern: str | None, name: str) -> bool:
    """Whether a filter takes a tensor."""
    if pattern is None or pattern == "*":
        return True
    if pattern.startswith("re:"):
        return re.search(pattern[3:], name) is not None
    return pattern in name


def wrong_in(parameter: Parameter, setting: Setting) -> Iterator[RecipeError]:
    """Every value that the setting can take and that does not fit the parameter; `where` says which it is."""
    if isinstance(setting, list | tuple) and setting and isinstance(setting[0], dict):
        for i, row in enumerate(setting):
            if error := _wrong_row(parameter, row):
                yield placed(error, i)
            else:
                yield from (placed(error, i, "value") for error in wrong_in(parameter, row["value"]))
        return
    if isinstance(setting, list | tuple):
        if not setting:
            yield RecipeError(f"{parameter.name}: the gradient is empty. Give it one value or more.")
        for i, value in enumerate(setting):
            yield from (placed(error, i) for error in _wrong_value(parameter, value))
        return
    yield from _wrong_value(parameter, setting)


def placed(error: RecipeError, *where: str | int) -> RecipeError:
    """The error, found inside of one more part of the recipe."""
    error.where = (*where, *error.where)
    return error


def all_values(setting: Setting) -> Iterator[Any]:
    """Every single value in a setting."""
    if isinstance(setting, list | tuple):
        for part in setting:
            yield from all_values(part["value"] if isinstance(part, dict) else part)
    else:
        yield setting


def _wrong_value(parameter: Parameter, value: Any) -> Iterator[RecipeError]:
    if isinstance(value, dict | list | tuple):
        yield BadParameter(parameter.name, value, "a value, a list of values, or a list of {filter, value}")
        return
    try:
        parameter.checked(value)
    except RecipeError as error:
        yield error


def _wrong_row(parameter: Parameter, row: Any) -> RecipeError | None:
    if not isinstance(row, dict) or "value" not in row or set(row) - {"filter", "value"}:
        return BadParameter(parameter.name, row, "rows of {filter: part of a tensor's name, value: ...}")
    pattern = row.get("filter")
    if not isinstance(pattern, str | None):
        return BadParameter(f"{parameter.name}'s filter", pattern, "a part of a tensor's name")
    if pattern and pattern.startswith("re:"):
        try:
            re.compile(pattern[3:])
        except re.error as error:
            return RecipeError(f"{parameter.name}: {pattern!r} is no regular expression: {error}.")
    return None


def _interpolated(values: list[Any], t: float) -> Any:
    """Linear between neighbours for numbers; the nearest for what has no between."""
    at = t * (len(values) - 1)
    if isinstance(values[0], bool | str):
        return values[min(int(at + 0.5), len(values) - 1)]
    low = min(int(at), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)
