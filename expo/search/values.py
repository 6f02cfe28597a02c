"""The values of one dimension: START:STOP:STEP, a list, or a range that a sampler or a bracket draws from."""

import math
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from expo.search.errors import BadValues

MOST = 1000  # values of one dimension; each costs a whole scoring
_FORMS = "Write START:STOP:STEP, such as 0.1:1.0:0.1, or a list, such as 0.1,0.3,0.5"

Value = float | int | str


@dataclass(frozen=True)
class Dimension:
    """One thing that varies: a grid or list of `values`, or else the range from `low` to `high`."""

    path: str
    values: tuple[Value, ...] = ()
    low: float = math.nan
    high: float = math.nan

    @property
    def is_range(self) -> bool:
        return not self.values

    @property
    def numeric(self) -> bool:
        return self.is_range or all(isinstance(value, float | int) for value in self.values)

    @property
    def ends(self) -> tuple[Value, ...]:
        """Values to look at before all others: every one of a list, both ends of a range."""
        return self.values or (self.low, self.high)

    def record(self) -> dict[str, Any]:
        values = {"from": self.low, "to": self.high} if self.is_range else {"values": list(self.values)}
        return {"path": self.path, **values}


def read_alphas(text: str) -> Dimension:
    """The values of alpha that --alphas names; raises BadValues."""
    found = read_dimension(text, "alpha", f"--alphas {text}")
    if not found.numeric:
        word = next(value for value in found.values if isinstance(value, str))
        raise BadValues(f"--alphas {text}: {word!r} is not a number. {_FORMS}.")
    return found


def read_vary(text: str) -> Dimension:
    """The dimension that --vary PATH=VALUES names; raises BadValues."""
    path, equals, values = text.partition("=")
    if not equals or not path.strip() or not values.strip():
        raise BadValues(f"--vary {text}: write it as PATH=VALUES, such as parameters.weight=0:1:0.1.")
    return read_dimension(values.strip(), path.strip(), f"--vary {text}")


def read_dimension(text: str, path: str, asked: str) -> Dimension:
    """A dimension from its values as text. asked: how the command line put it, for complaints."""
    if not re.fullmatch(r"[^:,]*(:[^:,]*){1,2}", text):
        return Dimension(path, _checked([_value(part.strip(), asked) for part in text.split(",")], asked))
    numbers = [_number(part.strip(), asked) for part in text.split(":")]
    start, stop = numbers[:2]
    if len(numbers) == 2:
        if not start < stop:
            raise BadValues(f"{asked}: {start} to {stop} is no range from a smaller to a larger number.")
        return Dimension(path, low=float(start), high=float(stop))
    step = numbers[2]
    if step == 0 or (stop - start) / step < 0:
        raise BadValues(f"{asked}: no step of {step} leads from {start} to {stop}.")
    n = int((stop - start) / step) + 1
    if n > MOST:
        raise BadValues(f"{asked}: {n:,} values, each a whole scoring; at most {MOST:,} are tried. Take a larger step.")
    return Dimension(path, tuple(_plain(start + i * step) for i in range(n)))


def _checked(values: list[Value], asked: str) -> tuple[Value, ...]:
    twice = {value for value in values if values.count(value) > 1}
    if twice:
        named = ", ".join(str(value) for value in dict.fromkeys(v for v in values if v in twice))
        raise BadValues(f"{asked}: {named} stands there more than once. Name each value once.")
    if len(values) > MOST:
        raise BadValues(f"{asked}: {len(values):,} values; at most {MOST:,} are tried.")
    return tuple(values)


def _value(text: str, asked: str) -> Value:
    """A number, or a word such as `stochastic`."""
    if not text:
        raise BadValues(f"{asked}: a value is empty. {_FORMS}.")
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    if not number.is_finite() or _too_far(number):
        raise BadValues(f"{asked}: {text} is not a number that can be tried.")
    return _plain(number)


def _number(text: str, asked: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite() or _too_far(number):
        raise BadValues(f"{asked}: {text!r} is not a number. {_FORMS}.")
    return number


def _too_far(number: Decimal) -> bool:
    """Whether a number's exponent is beyond all use; one of a million digits would be computed in full."""
    return bool(number) and abs(number.adjusted()) > 100


def _plain(number: Decimal) -> float | int:
    """0.3, not 0.30000000000000004; a whole number that was written as one stays whole."""
    whole = number == number.to_integral_value() and number.as_tuple().exponent >= 0
    return int(number) if whole else float(number) + 0.0  # -0.0 is 0
