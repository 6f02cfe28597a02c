"""The rows of supervision files: tasks, their subtasks, and judged samples, each checked with file and line.

task      {id, prompt, completion: the reference solution, gold: its final answer}
subtask   the same, with `task`: the id of the task it comes from, and `part`: its number from 1
judged    {id, sample, teacher, prompt, response, pred, gold, result: right or not, steps: [right or not, ...]}
A training set is a selection of judged rows; trainers read its prompt and response.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expo.errors import nearest
from expo.weak_to_strong.answers import PROMPT, RESPONSE, Id, field, identity
from expo.weak_to_strong.keyed import Keyed
from expo.weak_to_strong.supervision.errors import Stranger

_SHOWN = 4


class Task(NamedTuple):
    """A task, or with `task` a subtask of it."""

    id: Id
    prompt: str
    completion: str
    gold: str
    task: Id | None = None
    part: int | None = None

    def row(self) -> dict[str, Any]:
        """The task as a JSON object."""
        return {name: value for name, value in self._asdict().items() if value not in (None, "")}


class Judged(NamedTuple):
    """One sample with its verdicts; `steps` is None where its steps were not judged."""

    id: Id
    sample: int
    prompt: str
    response: str
    result: bool
    steps: tuple[bool, ...] | None = None
    teacher: str = ""
    pred: str = ""
    gold: str = ""
    task: Id | None = None

    @property
    def n_steps(self) -> int:
        return len(self.steps or ())

    @property
    def n_errors(self) -> int:
        return self.n_steps - sum(self.steps or ())

    @property
    def key(self) -> tuple[Id, str, int]:
        """What tells samples apart."""
        return (self.id, self.teacher, self.sample)

    def row(self) -> dict[str, Any]:
        """The sample as a JSON object."""
        found = self._asdict() | {"steps": None if self.steps is None else list(self.steps)}
        return {name: value for name, value in found.items() if value not in (None, "") or name == "response"}


def open_tasks(path: str | Path) -> Keyed[Task]:
    """Tasks or subtasks by id; RowError with file and line."""
    return Keyed(path, parse_task)


def open_judged(path: str | Path, teacher: str = "") -> Keyed[Judged]:
    """Judged samples by (id, teacher, sample). teacher: of rows that name none."""
    return Keyed(path, lambda row: parse_judged(row, teacher), key=lambda one: one.key)


def parse_task(row: dict) -> Task:
    """The task in one object; ValueError says what is wrong with it."""
    part = row.get("part")
    if part is not None and (isinstance(part, bool) or not isinstance(part, int) or part < 1):
        raise ValueError(f"'part' must be a whole number from 1, not {part!r}")
    return Task(identity(row), field(row, PROMPT, str), completion(row), gold(row), origin(row), part)


def parse_judged(row: dict, teacher: str = "") -> Judged:
    """The judged sample in one object; ValueError says what is wrong with it."""
    result = row.get("result")
    if not isinstance(result, bool):
        raise ValueError(f"'result' must be true or false, not {result!r}. To judge samples: expo w2s judge")
    steps = row.get("steps")
    if steps is not None and not (isinstance(steps, list) and steps and all(isinstance(one, bool) for one in steps)):
        raise ValueError(f"'steps' must be a list of true and false, not {steps!r:.60}")
    sample = row.get("sample", 0)
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        raise ValueError(f"'sample' must be a whole number from 0, not {sample!r}")
    prompt, response = field(row, PROMPT, str), field(row, RESPONSE, str)
    told = {"teacher": row.get("teacher") or teacher, "pred": row.get("pred") or "", "gold": row.get("gold") or ""}
    if not all(isinstance(text, str) for text in told.values()):
        raise ValueError("'teacher', 'pred' and 'gold' must be texts")
    found = None if steps is None else tuple(steps)
    return Judged(identity(row), sample, prompt, response, result, found, **told, task=origin(row))


def completion(row: dict) -> str:
    """A task's reference solution."""
    return field(row, ("completion", "solution", "output"), str)


def gold(row: dict) -> str:
    """A task's final answer, as text; "" where none is known."""
    if "gold" not in row:
        return ""
    found = row["gold"]
    if isinstance(found, int | float) and not isinstance(found, bool):
        return str(found)
    if not isinstance(found, str) or not found.strip():
        raise ValueError(f"'gold', the final answer, must be text, not {found!r}")
    return found


def origin(row: dict) -> Id | None:
    """The id of the task that a subtask comes from; None where the row is no subtask's."""
    found = row.get("task")
    if found is not None and (isinstance(found, bool) or not isinstance(found, int | str)):
        raise ValueError(f"'task' must be the id of a task, not {found!r:.60}")
    return found


def belong(subtasks: Iterable[Any], tasks: Iterable[Id], where: object, of: object) -> None:
    """Raise Stranger where a subtask names no task, or one that is not there."""
    known = set(tasks)
    lost = [one for one in subtasks if one.task is None or one.task not in known]
    if lost:
        shown = "; ".join(f"{one.id!r} of task {one.task!r}" for one in lost[:_SHOWN])
        more = f" and {len(lost) - _SHOWN:,} more" if len(lost) > _SHOWN else ""
        offer = nearest(str(lost[0].task), map(str, known)) if lost[0].task is not None else ""
        raise Stranger(
            f"{where}: subtasks that belong to no task of {of}: {shown}{more}.{offer}\n"
            "A subtask names its task in the field `task`. Leave these rows out, or pass the tasks that they come from."
        )


def grouped(samples: Sequence[Judged]) -> dict[Id, list[Judged]]:
    """The samples of each id, in order of first appearance; within an id by teacher and number."""
    found: dict[Id, list[Judged]] = {}
    for one in samples:
        found.setdefault(one.id, []).append(one)
    return {key: sorted(held, key=lambda one: (one.teacher, one.sample)) for key, held in found.items()}
