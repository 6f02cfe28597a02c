"""@method: a merge method's signature is its declaration. Reads roles and parameters from a pure function."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from expo.errors import BadParameter, UnknownMethod, UnknownParameter, nearest

METHODS: dict[str, "Method"] = {}


@dataclass(frozen=True)
class Method:
    """One merge method: a pure function on tiles and what it needs."""

    name: str
    apply: Callable[..., Any]  # (*tiles in the order of roles, **parameters) -> tile
    roles: tuple[str, ...]  # the positional arguments: which input each tile comes from
    parameters: dict[str, float | bool]  # keyword arguments and their defaults
    reads: Literal["tile", "row", "tensor"]  # the smallest piece it is exact on
    exact: Literal["everywhere", "per device"]
    donor: str  # the role whose names, config and storage the output takes
    nothing: Callable[..., bool] = field(repr=False)  # parameters for which the result is the donor, bit for bit
    paper: str = ""

    @property
    def formula(self) -> str:
        """The first line of the function's docstring."""
        return inspect.getdoc(self.apply).splitlines()[0]

    def checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters with defaults filled in; raises on unknown names and on values that are not finite."""
        for name, value in given.items():
            if name not in self.parameters:
                raise UnknownParameter(self.name, name, self.parameters)
            if isinstance(value, bool) != isinstance(self.parameters[name], bool) or not _is_finite(value):
                raise BadParameter(name, value)
        return {**self.parameters, **given}


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an int beyond float64
        return False


def method(
    *,
    donor: str,
    reads: Literal["tile", "row", "tensor"] = "tile",
    exact: Literal["everywhere", "per device"] = "everywhere",
    nothing: Callable[..., bool] = lambda **_: False,
    paper: str = "",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a merge method under its own name.

    Positional arguments are tensors in roles; keyword-only arguments are parameters with a default.
    """

    def register(apply: Callable[..., Any]) -> Callable[..., Any]:
        arguments = inspect.signature(apply).parameters.values()
        roles = tuple(a.name for a in arguments if a.kind is a.POSITIONAL_OR_KEYWORD)
        parameters = {a.name: a.default for a in arguments if a.kind is a.KEYWORD_ONLY}
        METHODS[apply.__name__] = Method(apply.__name__, apply, roles, parameters, reads, exact, donor, nothing, paper)
        return apply

    return register


def find_method(name: str) -> Method:
    """The registered method of that name; raises UnknownMethod with the nearest one."""
    if name not in METHODS:
        raise UnknownMethod(name, nearest(name, METHODS))
    return METHODS[name]
