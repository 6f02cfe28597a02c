"""How long a plan will take at given rates. No rate is guessed: what has none is named, and not counted.

Reading, copying, computing and writing overlap, so a phase takes as long as the slowest of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from expo.planning.budget import size
from expo.planning.traffic import Traffic

# part -> what people call it, and the option that gives its rate
_PARTS = {
    "network": ("the network", "--network-rate"),
    "disk": ("the disk", "--disk-rate"),
    "gpu": ("copies to the GPU", "--gpu-rate"),
    "compute": ("computing", "--compute-rate"),
}


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes a second; None where nobody said."""

    network: float | None = None  # from the Hub
    disk: float | None = None  # read and written together
    gpu: float | None = None  # to the GPU or from it, each way
    compute: float | None = None  # inputs once and output, as a run on inputs in memory states it; all passes inside


@dataclass(frozen=True, slots=True)
class Part:
    """What one resource has to move in one phase of a run."""

    name: str
    n_bytes: int
    rate: float | None

    @property
    def seconds(self) -> float | None:
        return self.n_bytes / self.rate if self.rate else None


@dataclass(frozen=True, slots=True)
class Phase:
    """Parts that go on at the same time."""

    name: str
    parts: tuple[Part, ...]

    @property
    def slowest(self) -> Part | None:
        """The part that the phase takes as long as, of those whose rate is known."""
        known = [part for part in self.parts if part.rate]
        return max(known, key=lambda part: part.seconds, default=None)


def phases(moved: Traffic, n_bytes_once: int, rates: Rates, *, gpu: bool) -> list[Phase]:
    """The phases of a run and what each has to move.

    n_bytes_once: all inputs, read once, and the output; what the rate of computing is told for.
    """
    run = [Part("disk", moved.disk, rates.disk), Part("compute", n_bytes_once, rates.compute)]
    if gpu:
        run.insert(1, Part("gpu", max(moved.to_gpu, moved.from_gpu), rates.gpu))
    if moved.from_hub:
        run.insert(0, Part("network", moved.from_hub, rates.network))
    before = []
    if n := moved.to_download:
        before = [Phase("download", (Part("network", n, rates.network), Part("disk", n, rates.disk)))]
    return [*before, Phase("run", tuple(run))]


def together(stages: Iterable[Sequence[Phase]]) -> dict[str, Any]:
    """The expected time of stages that run one after the other, for programs; seconds is None without any rate."""
    found = [phase for stage in stages for phase in stage]
    limits = [phase.slowest for phase in found]
    seconds = [limit.seconds for limit in limits if limit]
    return {
        "seconds": sum(seconds) if seconds else None,
        "not_counted": list(
            dict.fromkeys(part.name for phase in found for part in phase.parts if part.n_bytes and not part.rate)
        ),
        "phases": [
            {
                "name": phase.name,
                "limit": limit and limit.name,
                "parts": {part.name: {"n_bytes": part.n_bytes, "seconds": part.seconds} for part in phase.parts},
            }
            for phase, limit in zip(found, limits, strict=True)
        ],
    }


def in_words(found: Sequence[Phase]) -> str:
    """The expected time in some lines for people: what each part takes, which of them decides."""
    lines = []
    for phase in found:
        parts = [
            f"{_PARTS[part.name][0]} {size(part.n_bytes)}" + (f" in {duration(part.seconds)}" if part.rate else "")
            for part in phase.parts
        ]
        decides = f"; {_PARTS[phase.slowest.name][0]} decides" if phase.slowest and len(phase.parts) > 1 else ""
        lines.append((f"{phase.name}: " if len(found) > 1 else "") + ", ".join(parts) + decides)
    lines.append(total_in_words(together([found])))
    return "\n".join(f"  {'' if number else 'time':<8} {line}" for number, line in enumerate(lines))


def total_in_words(total: dict[str, Any]) -> str:
    """The sum of `together`, and what it leaves out."""
    names, options = (
        zip(*(_PARTS[name] for name in total["not_counted"]), strict=True) if total["not_counted"] else ((), ())
    )
    if total["seconds"] is None:
        return f"not known without rates: {', '.join(options)}"
    if not names:
        return f"about {duration(total['seconds'])}"
    return f"at least {duration(total['seconds'])}; not counted: {', '.join(names)} ({', '.join(options)})"


def duration(seconds: float) -> str:
    """Seconds for a person: 95 s, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
