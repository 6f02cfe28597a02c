"""What a comparison with a published checkpoint found: plain records, in numbers and for JSON."""

import functools
from dataclasses import dataclass, field
from typing import Any

from expo.analysis.steps import Apart
from expo.stream.report import Fidelity


@dataclass(frozen=True)
class Beside:
    """One tensor, ours and the published one."""

    name: str
    apart: Apart | None  # None: another type, so that neither bits nor steps can be compared
    fidelity: Fidelity

    @property
    def identical(self) -> bool:
        return self.apart is not None and self.apart.n_identical == self.apart.n_elements

    def record(self, alpha: float | None) -> dict[str, Any]:
        """The figures as plain data."""
        found = self.apart
        return {
            "name": self.name,
            "identical": self.identical,
            "n_elements": found and found.n_elements,
            "n_identical": found and found.n_identical,
            "most_steps": found and found.most_steps,
            "worst_element": found.worst if found and found.worst >= 0 else None,
            "n_uncomparable": found and found.n_uncomparable,
            **_held(self.fidelity, alpha),
        }


@dataclass
class Against:
    """A result beside a published checkpoint."""

    ours: str
    published: str
    alpha: float | None = None  # what was asked
    tensors: list[Beside] = field(default_factory=list)
    only_ours: list[str] = field(default_factory=list)
    only_published: list[str] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)  # of another shape or type, in words
    fidelity: Fidelity = field(default_factory=lambda: Fidelity(None, None))  # of the published file
    groups: dict[str, Fidelity] = field(default_factory=dict)
    no_alpha: str | None = None  # why the published file's effective alpha is not known
    n_left_out: int = 0  # elements of the published file that are not finite, of which the alpha knows nothing
    notes: list[str] = field(default_factory=list)  # how the published tensors were brought beside ours
    seconds: float = 0.0

    @property
    def n_identical(self) -> int:
        """Tensors of the same bits."""
        return sum(tensor.identical for tensor in self.tensors)

    @property
    def together(self) -> Apart:
        """All elements that could be compared."""
        return functools.reduce(Apart.joined, (t.apart for t in self.tensors if t.apart), Apart())

    @property
    def worst(self) -> Beside | None:
        """The tensor with the element that is farthest away; None where every value is the same."""
        far = max(self.tensors, key=lambda t: t.apart.most_steps if t.apart else -1, default=None)
        return far if far and far.apart and far.apart.most_steps else None

    @property
    def is_same(self) -> bool:
        """Whether the published checkpoint holds exactly these tensors."""
        rest = self.only_ours or self.only_published or self.unlike
        return not rest and self.n_identical == len(self.tensors)

    def record(self) -> dict[str, Any]:
        """The comparison as one JSON object."""
        every, worst = self.together, self.worst
        return {
            "ours": self.ours,
            "published": self.published,
            "same": self.is_same,
            "n_tensors": len(self.tensors),
            "n_tensors_identical": self.n_identical,
            "n_elements": every.n_elements,
            "n_elements_identical": every.n_identical,
            "most_steps": every.most_steps,
            "worst_tensor": worst and worst.name,
            "n_uncomparable": every.n_uncomparable,
            "only_ours": self.only_ours,
            "only_published": self.only_published,
            "unlike": self.unlike,
            "notes": self.notes,
            "asked_alpha": self.alpha,
            **_held(self.fidelity, self.alpha),
            "no_alpha": self.no_alpha,
            "n_left_out": self.n_left_out,
            "groups": {name: _held(fidelity, self.alpha) for name, fidelity in self.groups.items()},
            "tensors": [tensor.record(self.alpha) for tensor in self.tensors],
            "seconds": round(self.seconds, 4),
        }


def _held(fidelity: Fidelity, alpha: float | None) -> dict[str, float | None]:
    held = None if alpha is None or fidelity.multiple is None else float(f"{alpha * fidelity.multiple:.4g}")
    return {"effective_alpha": held, "multiple": fidelity.multiple, "cosine": fidelity.cosine}
