"""Hard tasks into 2 or 3 subtasks: how many by the solution's length, which ones by a teacher or the embedded rule.

hard task with its solution -> number of parts -> subtasks {id: TASK/PART, task, part, prompt, completion, gold}
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from expo.weak_to_strong.errors import RowError
from expo.weak_to_strong.keyed import Keyed, write_rows
from expo.weak_to_strong.provenance import hash_of
from expo.weak_to_strong.questions import ask as zero_shot
from expo.weak_to_strong.supervision import embedded
from expo.weak_to_strong.supervision.errors import TeacherFailed
from expo.weak_to_strong.supervision.lengths import PUBLISHED_RULE, UNPRICED, Count, LengthRule, Prices
from expo.weak_to_strong.supervision.prompts import Found, ask_decompose, read_decompose
from expo.weak_to_strong.supervision.records import Task, open_tasks
from expo.weak_to_strong.supervision.teacher import Teacher, ask, planned

FREE = 0  # the teacher chooses between 2 and 3


def decompose(
    tasks: str | Path,
    output: str | Path,
    *,
    count: Count,
    rule: LengthRule = PUBLISHED_RULE,
    parts: int | None = None,
    teacher: Teacher | None = None,
    prices: Prices = UNPRICED,
    work: str | Path | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Write the subtasks of every task that the length rule keeps; the report.

    count: tokens of a solution. parts: 2 or 3 for all, FREE for the teacher's choice, None by the length rule, which
    drops tasks in any case. teacher: None cuts running sums by their own rule. work: folder of the teacher's answers.
    dry_run: say what would be asked; ask and write nothing.
    Raises RowError, TeacherFailed.
    """
    rows = open_tasks(tasks)
    if teacher is None:
        _check_running_sums(rows)
    numbers = {task.id: rule.parts(count(task.completion)) for task in rows}
    kept = {key: number if parts is None else parts for key, number in numbers.items() if number}
    told: dict[str, Any] = {
        "inputs": {"tasks": hash_of(tasks)},
        "tasks": len(rows),
        "dropped by length": len(rows) - len(kept),
        "parts asked for": dict(Counter("2 or 3" if n == FREE else str(n) for n in kept.values())),
    }
    if not kept:
        fault = f"no solution has {rule.short + 1:,} to {rule.three:,} tokens, so no task is left."
        raise RowError(tasks, fault, "The length rule is changed by --lengths SHORT TWO THREE.")
    if dry_run and teacher:
        requests = {key: ask_decompose(rows[key], number or None) for key, number in kept.items()}
        return told | {"teacher": teacher.record(), "would ask": planned(requests, count, prices)}
    if teacher is None:
        found = by_rule(rows, kept)
    else:
        found, more = by_teacher(rows, kept, teacher, Path(work or f"{output}.work"), count, prices)
        told |= more
    made = write_rows(output, (one.row() for one in found))
    return told | {"subtasks": made, "tasks with subtasks": len({one.task for one in found})}


def _check_running_sums(rows: Keyed[Task]) -> None:
    for key in rows.numbers:
        try:
            embedded.terms_of(rows[key].prompt)
        except ValueError as error:
            remedy = "Only the embedded task is cut by a rule; for others name a teacher: --teacher MODEL."
            raise RowError(rows.where(key), f"{error}.", remedy) from error


def by_rule(rows: Keyed[Task], kept: dict[Any, int]) -> list[Task]:
    """Running sums cut by their partial results. RowError names one that is too short."""
    found: list[Task] = []
    for key, number in kept.items():
        try:
            found += embedded.cut(rows[key], number or 2)
        except ValueError as error:
            raise RowError(rows.where(key), f"{error}.", "Ask for fewer: --parts 2, or other --lengths.") from error
    return found


def by_teacher(
    rows: Keyed[Task], kept: dict[Any, int], teacher: Teacher, work: Path, count: Count, prices: Prices
) -> tuple[list[Task], dict[str, Any]]:
    """Subtasks as a teacher writes them, in the order of the tasks, and facts about the asking."""
    requests = {key: ask_decompose(rows[key], number or None) for key, number in kept.items()}

    def read(key: Any, text: str) -> list[Found]:
        return read_decompose(text, rows[key], kept[key] or None)

    asked = ask(teacher, requests, read, work, count=count, prices=prices, what="tasks")
    if not asked.found:
        raise TeacherFailed(f"{teacher.model}: no task has subtasks. Its answers are kept in {work}.")
    made = [one for key in kept if key in asked.found for one in subtasks_of(rows[key], asked.found[key])]
    return made, {"teacher": teacher.record(), **asked.record(), "answers": str(work)}


def subtasks_of(task: Task, found: Sequence[Found]) -> Iterable[Task]:
    """What a teacher wrote as rows of the pipeline; framed as the task's own prompt is."""
    framed = task.prompt.startswith("Question:") and task.prompt.endswith("Answer:")
    for number, one in enumerate(found, start=1):
        prompt = zero_shot(one.problem) if framed else one.problem
        solution = one.solution if one.answer == one.solution else f"{one.solution} The answer is: {one.answer}"
        yield Task(f"{task.id}/{number}", prompt, solution, one.answer, task.id, number)
