"""The cells of a grid: which training set each student learns from, and what that set is called."""

from collections.abc import Iterator
from typing import NamedTuple

from expo.weak_to_strong.supervision.corrupt import shown
from expo.weak_to_strong.supervision.mix import BOTH, HARD, PARAPHRASE, SUBTASK
from expo.weak_to_strong.supervision.runfile import Grid

WEAKER = "weaker"


class Cell(NamedTuple):
    """One training set. hard, subtask: outcome error rates of its parts; steps: the step-wise one of its hard part."""

    kind: str
    hard: float | None = None
    subtask: float | None = None
    steps: float | None = None
    teacher: str = ""

    @property
    def name(self) -> str:
        """Its folder: hard-0.5, hard-0.5+subtask-0, hard-0.5+paraphrase, hard-0.9-steps-0.4, weaker-NAME."""
        if self.kind == WEAKER:
            return f"{WEAKER}-{self.teacher}"
        parts = []
        if self.hard is not None:
            parts.append(set_name(HARD, self.hard, self.steps))
        if self.subtask is not None:
            parts.append(set_name(SUBTASK, self.subtask))
        return "+".join(parts) + ("+paraphrase" if self.kind == PARAPHRASE else "")


def set_name(part: str, outcome: float, steps: float | None = None) -> str:
    """What a corrupted set is called."""
    return f"{part}-{shown(outcome)}" + ("" if steps is None else f"-steps-{shown(steps)}")


def cells_of(grid: Grid, teachers: tuple[str, ...] = ()) -> list[Cell]:
    """All cells of a grid, each once. teachers: all that have samples, the main one first."""
    return list(dict.fromkeys(_cells(grid, teachers)))


def _cells(grid: Grid, teachers: tuple[str, ...]) -> Iterator[Cell]:
    yield from (Cell(HARD, hard=rate) for rate in grid.hard)
    yield from (Cell(SUBTASK, subtask=rate) for rate in grid.subtask)
    for hard in grid.mixed.hard:
        yield from (Cell(BOTH, hard=hard, subtask=rate) for rate in grid.mixed.subtask)
    yield from (Cell(PARAPHRASE, hard=rate) for rate in grid.paraphrase)
    if grid.steps:
        yield from (Cell(HARD, hard=grid.steps.outcome, steps=rate) for rate in grid.steps.rates)
    if grid.weaker:
        yield from (Cell(WEAKER, teacher=name) for name in teachers[1:])
