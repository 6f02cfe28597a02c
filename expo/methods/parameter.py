"""One parameter of a method: its kind, range and default, and whether a value from a recipe fits."""

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

from expo.errors import BadParameter


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED: Final = _Required()


@dataclass(frozen=True, slots=True)
class Parameter:
    """A keyword argument of a method, under the name that recipes use."""

    name: str
    argument: str  # as the function spells it: `lambda_` for `lambda`
    kind: Literal["float", "int", "bool", "choice"]
    each: bool  # one value a model, rather than one for the merge
    default: Any  # REQUIRED where a recipe must give it
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()  # of a bool: what it may be beside true and false

    def checked(self, value: Any) -> Any:
        """A single value in the parameter's type; raises BadParameter where it cannot be."""
        if self.kind == "bool":
            if isinstance(value, bool) or value in self.choices:
                return value
            raise BadParameter(self.name, value, " or ".join(("true", "false", *self.choices)))
        if self.kind == "choice":
            if value in self.choices:
                return value
            raise BadParameter(self.name, value, " or ".join(self.choices))
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise BadParameter(self.name, value)
        if self.kind == "int" and value != int(value):
            raise BadParameter(self.name, value, "a whole number")
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            raise BadParameter(self.name, value, f"between {self.low:g} and {self.high:g}")
        return int(value) if self.kind == "int" else float(value)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond float64
        return False
