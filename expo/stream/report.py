"""What a run found: how much of the asked-for change the written file really holds, and what it cost."""

import math
import resource
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from expo.forks import status_bytes
from expo.planning.jobs import Plan

_STOCHASTIC = " To keep the right multiple, with more noise: --rounding stochastic."
WARN_BEYOND = 0.10  # deviation of the written multiple that is worth a warning


@dataclass(frozen=True, slots=True)
class Fidelity:
    """The written change against the exact one, by least squares over some tensors.

    multiple: 1.0 when the file holds exactly what was asked; None where nothing was to change.
    cosine: between the written change and the exact one.
    """

    multiple: float | None
    cosine: float | None

    @classmethod
    def of(cls, sums: np.ndarray | Sequence[tuple[float, float, float]]) -> "Fidelity":
        """From (exact . written, exact . exact, written . written) of each segment, (n, 3)."""
        mixed, exact, written = map(total, np.asarray(sums, np.float64).reshape(-1, 3).T)
        if not (exact > 0 and math.isfinite(mixed + exact + written)):
            return cls(None, None)  # nothing was to change, or the squares are beyond float64
        cosine = mixed / math.sqrt(exact * written) if written > 0 else 0.0
        return cls(_rounded(mixed / exact), _rounded(cosine))


def peak_rss() -> int:
    """The most memory that this process has held, in bytes."""
    found = status_bytes("VmHWM")
    if found is None:
        # Not first: what getrusage says of a new process is never less than its parent held.
        unit = 1 if sys.platform == "darwin" else 1024
        found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return found


def total(parts: Iterable[float]) -> float:
    """The exactly rounded sum; NaN where a part, or the sum, is beyond float64."""
    try:
        return math.fsum(parts)
    except (OverflowError, ValueError):
        return math.nan


def _rounded(x: float) -> float:
    # Four digits: float32 sums taken on another device agree to more than that.
    return float(f"{x:.4g}")


@dataclass
class Report:
    """One run's results. Times in seconds, sizes in bytes."""

    output: str | None
    tensors: int = 0
    n_bytes_read: int = 0
    n_bytes_written: int = 0
    seconds: float = 0.0  # of streaming
    fsync_seconds: float = 0.0
    segments_resumed: int = 0
    peak_rss: int = 0
    alpha: float | None = None  # what was asked, for methods that take one
    fidelity: Fidelity = field(default_factory=lambda: Fidelity(None, None))
    groups: dict[str, Fidelity] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)  # output tensor -> xxh3-128 over its segments' digests
    published: Any = None  # what came of a push to the Hub
    passed: bool = False  # it went to the Hub alone

    @property
    def effective_alpha(self) -> float | None:
        """The multiple of the delta that the written file holds."""
        return self._effective(self.fidelity)

    def _effective(self, fidelity: Fidelity) -> float | None:
        if self.alpha is None or fidelity.multiple is None:
            return None
        return _rounded(self.alpha * fidelity.multiple)

    def effective(self) -> dict[str, Any]:
        """The figures that belong to the result, and so into its manifest and card."""
        groups = {
            name: {"alpha": self._effective(fidelity), "multiple": fidelity.multiple, "cosine": fidelity.cosine}
            for name, fidelity in self.groups.items()
            if fidelity.multiple is not None
        }
        return {
            "alpha": self.effective_alpha,
            "multiple": self.fidelity.multiple,
            "cosine": self.fidelity.cosine,
            "groups": groups,
        }

    def fidelity_warnings(self, rounding: str) -> list[str]:
        """A warning with the ways out where the file holds too little or too much of the change."""
        multiple = self.fidelity.multiple
        if multiple is None or abs(multiple - 1) <= WARN_BEYOND:
            return []
        if self.alpha is not None:
            held = f"alpha {self.alpha:g} was asked, and the written file holds {self.effective_alpha:g}"
        else:
            held = f"the written file holds {multiple:.0%} of the change that was asked"
        return [
            f"{held} (cosine {self.fidelity.cosine:.3f}): the output's grid is coarser than the change. "
            "To keep it exactly: --dtype float32." + ("" if rounding == "stochastic" else _STOCHASTIC)
        ]

    def record(self) -> dict[str, Any]:
        """The run as one JSON object."""
        moved = self.n_bytes_read + self.n_bytes_written
        return {
            "output": self.output,
            "tensors": self.tensors,
            "n_bytes_read": self.n_bytes_read,
            "n_bytes_written": self.n_bytes_written,
            "seconds": round(self.seconds, 4),
            "fsync_seconds": round(self.fsync_seconds, 4),
            "gb_per_second": round(moved / 1e9 / self.seconds, 3) if self.seconds else None,
            "peak_rss_mib": round(self.peak_rss / 2**20, 1),
            "segments_resumed": self.segments_resumed,
            "asked_alpha": self.alpha,
            "effective_alpha": self.effective_alpha,
            "cosine": self.fidelity.cosine,
            "groups": self.effective()["groups"],
            "warnings": self.warnings,
            **({"published": self.published.record()} if self.published else {}),
        }


def report_of_manifest(plan: Plan, label: str, manifest: Mapping[str, Any]) -> Report:
    """The report of a result that is there: its figures are those of its manifest."""
    effective = manifest["effective"]
    return Report(
        output=label,
        tensors=len(plan.jobs),
        n_bytes_written=plan.n_bytes_written,
        alpha=plan.recipe.asked_alpha,
        fidelity=Fidelity(effective["multiple"], effective["cosine"]),
        groups={name: Fidelity(g["multiple"], g["cosine"]) for name, g in effective["groups"].items()},
    )
