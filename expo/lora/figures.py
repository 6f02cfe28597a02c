"""What an extraction kept of each delta, in numbers. Knows no tensors."""

import math
from dataclasses import dataclass, field
from typing import Any

from expo.checkpoint.names import module_group


@dataclass(frozen=True)
class Approximation:
    """One tensor's delta beside the product of its factors as they are stored."""

    name: str
    rank: int
    lost: float  # |delta - B A|^2
    total: float  # |delta|^2

    @property
    def relative_error(self) -> float:
        """|delta - B A| / |delta|"""
        return math.sqrt(self.lost / self.total)

    @property
    def captured(self) -> float:
        """The share of the delta's energy that the adapter holds."""
        return 1 - self.lost / self.total


@dataclass
class Extraction:
    """What was extracted, and what of the difference the adapter does not hold."""

    output: str
    rank: int
    tensors: list[Approximation] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)  # whole, as modules_to_save or biases
    not_covered: dict[str, float] = field(default_factory=dict)  # tensor -> |delta|^2
    n_bytes: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def relative_error(self) -> float:
        """Of the decomposed tensors together: sqrt(sum of what is lost / sum of what there is)."""
        total = math.fsum(one.total for one in self.tensors)
        return math.sqrt(math.fsum(one.lost for one in self.tensors) / total) if total else 0.0

    @property
    def captured(self) -> float:
        """The share of the decomposed tensors' energy that the adapter holds."""
        return 1 - self.relative_error**2

    def groups(self) -> dict[str, list[Approximation]]:
        """Module group -> its tensors."""
        found: dict[str, list[Approximation]] = {}
        for one in self.tensors:
            found.setdefault(module_group(one.name), []).append(one)
        return found

    def record(self) -> dict[str, Any]:
        """The figures as plain data."""
        rows = [
            {"name": one.name, "rank": one.rank, "captured": _four(one.captured), "relative_error": _four(e)}
            for one in self.tensors
            for e in [one.relative_error]
        ]
        return {
            "output": self.output,
            "rank": self.rank,
            "captured": _four(self.captured),
            "relative_error": _four(self.relative_error),
            "tensors": rows,
            "saved": self.saved,
            "not_covered": sorted(self.not_covered),
            "n_bytes": self.n_bytes,
            "warnings": self.warnings,
        }


def _four(value: float) -> float:
    return float(f"{value:.4g}")
