"""The paper's three claims as differences between cells, and what a study's own figures say about each.

A claim is held to the differences that the cells allow; "for" and "against" mean that the 95 % interval lies on one
side of 0, anything else is undecided. A study's figures speak of its own task and models, not of the paper's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from expo.weak_to_strong.supervision.cells import Cell
from expo.weak_to_strong.supervision.mix import BOTH, HARD, PARAPHRASE, SUBTASK
from expo.weak_to_strong.supervision.seeds import Scores, accuracies, difference, over_seeds, verdict

Values = Mapping[str, Scores]  # cell -> the answers of each seed
HARD_BEATS = "hard tasks with many wrong outcomes teach more than easy subtasks without an error"
STEPS_MATTER = "at one outcome error rate, fewer wrong steps teach more; and more so than fewer wrong outcomes"
SUBTASKS_ADD = "subtasks added to hard tasks help more than paraphrases added to them"


def claims(cells: Sequence[Cell], values: Values, sets: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each claim with its differences, in points of accuracy between 0 and 1, and their verdicts."""
    found = (
        (HARD_BEATS, _hard_beats(cells, values)),
        (STEPS_MATTER, _steps_matter(cells, values)),
        (SUBTASKS_ADD, _subtasks_add(cells, values)),
    )
    return [{"claim": text, "evidence": evidence} for text, evidence in found]


def _hard_beats(cells: Sequence[Cell], values: Values) -> list[dict[str, Any]]:
    """Hard tasks at each rate of one half and more, against subtasks at their lowest rate."""
    easy = [cell for cell in cells if cell.kind == SUBTASK]
    if not easy:
        return []
    best = min(easy, key=lambda cell: cell.subtask)
    hard = [cell for cell in cells if cell.kind == HARD and cell.steps is None and cell.hard >= 0.5]
    return [_told(cell, best, values) for cell in hard]


def _steps_matter(cells: Sequence[Cell], values: Values) -> list[dict[str, Any]]:
    """The fewest wrong steps against the most at one outcome error rate; then that gap against the outcomes' own."""
    steps = sorted((cell for cell in cells if cell.steps is not None), key=lambda cell: cell.steps)
    outcomes = sorted((cell for cell in cells if cell.kind == HARD and cell.steps is None), key=lambda cell: cell.hard)
    if len(steps) < 2:
        return []
    found = [_told(steps[0], steps[-1], values)]
    if len(outcomes) > 1:
        gap = _gap(values, steps[0], steps[-1], outcomes[0], outcomes[-1])
        first = f"({steps[0].name} - {steps[-1].name})"
        text = f"{first} - ({outcomes[0].name} - {outcomes[-1].name})"
        found.append({"what": text, "difference": gap, "says": verdict(gap)})
    return found


def _subtasks_add(cells: Sequence[Cell], values: Values) -> list[dict[str, Any]]:
    """Hard + subtask against hard + paraphrase at the same rate of the hard tasks."""
    return [
        _told(one, other, values)
        for other in cells
        if other.kind == PARAPHRASE
        for one in cells
        if one.kind == BOTH and one.hard == other.hard
    ]


def _told(one: Cell, other: Cell, values: Values) -> dict[str, Any]:
    gap = difference(values[other.name], values[one.name])
    means = {cell.name: over_seeds(accuracies(values[cell.name])) for cell in (one, other)}
    told = {name: found and found["value"] for name, found in means.items()}
    return {"what": f"{one.name} - {other.name}", "accuracy": told, "difference": gap, "says": verdict(gap)}


def _gap(values: Values, *cells: Cell) -> dict[str, Any] | None:
    """(first - second) - (third - fourth), seed by seed."""
    each = [accuracies(values[cell.name]) for cell in cells]
    if any(None in found for found in each):
        return None
    return over_seeds([(a - b) - (c - d) for a, b, c, d in zip(*each, strict=True)])  # type: ignore[operator]
