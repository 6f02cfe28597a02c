"""Numbers as exact fractions: 0.50, 1/2 and 50/100 are one number; what is no number is compared as text."""

import re
from fractions import Fraction

_LONGEST = 4_000  # digits; Python's own limit lies a little higher, and no answer has as many
_DECIMAL = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d*)(?:\.\d*)?(?:[eE][-+]?\d{1,3})?")
_MIXED = re.compile(r"(-?)(\d{1,18}) +(\d{1,18})/(\d{1,18})")
_APART = re.compile(r"^([-+])\s+(?=[\d.\\])")  # a sign and its number, as in - 3
_LATEX_FRACTION = re.compile(r"(-?)\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}")


def same_number(one: str, other: str) -> bool:
    """Equal as exact numbers where both are numbers, else equal as text."""
    if one == other:
        return True
    numbers = number(one), number(other)
    return None not in numbers and numbers[0] == numbers[1]


def number(text: str) -> Fraction | None:
    """The number that a text spells, None where it spells none; 50% is 50, as in the published normalisation."""
    text = text.strip().replace("$", "").removesuffix("%").removesuffix("\\").strip()
    text = _APART.sub(r"\1", text)
    if mixed := _MIXED.fullmatch(text):
        whole, above, below = map(int, mixed.groups()[1:])
        return (-1 if mixed[1] else 1) * (whole + Fraction(above, below)) if below else None
    if latex := _LATEX_FRACTION.fullmatch(text):
        text = f"{latex[1]}{latex[2]}/{latex[3]}"
    above, slash, below = text.partition("/")
    numerator = _decimal(above.strip())
    denominator = _decimal(below.strip()) if slash else Fraction(1)
    return numerator / denominator if numerator is not None and denominator else None


def _decimal(text: str) -> Fraction | None:
    if len(text) > _LONGEST or not any(c.isdigit() for c in text) or not text.isascii() or not _DECIMAL.fullmatch(text):
        return None
    return Fraction(text.replace(",", ""))
