"""Labels and weights of rows, as they may be written. Imports no torch."""

import math
from collections.abc import Mapping
from typing import Any

_LEAST, _MOST = 1e-30, 1e30  # weights whose sums over a step float32 holds


class Unusable(Exception):
    """A row cannot be used, for a kind of reason."""

    def __init__(self, kind: str, what: str):
        super().__init__(what)
        self.kind = kind


def label_of(label: Any, fields: Mapping) -> str | int | list[float]:
    """A label as a name, a class's number or probabilities; Unusable if it is none of them."""
    if label is None:
        raise Unusable("label", f"no label; its fields are {', '.join(map(str, fields)) or 'none'}")
    if isinstance(label, bool | int | str):
        return int(label) if isinstance(label, bool) else label
    if isinstance(label, list) and len(label) > 1 and all(_is_share(value) for value in label):
        if abs(sum(label) - 1) > 1e-3:
            raise Unusable("label", f"the probabilities add up to {sum(label):g}, not to 1")
        return [float(value) for value in label]
    raise Unusable("label", f"a label is a name, a whole number or a list of probabilities, not {label!r}")


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def weight_of(value: Any) -> float:
    """One weight as a number; Unusable if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise Unusable("weights", f"a weight is a number of at least 0, not {value!r}")
    if value and not _LEAST <= value <= _MOST:
        raise Unusable("weights", f"a weight is 0, or from {_LEAST:g} to {_MOST:g} (losses are float32), not {value!r}")
    return float(value)


def weights_of(value: Any) -> list[float] | float:
    """A weight for each token, or one for the row, which may be 0; Unusable where no token of a list has any."""
    found = [weight_of(one) for one in value] if isinstance(value, list) else weight_of(value)
    if found == []:
        raise Unusable("weights", "its list of weights is empty")
    if isinstance(found, list) and not any(found):
        raise Unusable("weights", "all of its weights are 0, so that nothing of it would be learnt")
    return found
