"""What a teacher and a judge are asked, in our own words, and how their answers are read.

A teacher writes each subtask as a marked block; a judge one verdict a step. What does not fit the form is refused with
the reason, which is counted.
"""

import re
from typing import NamedTuple

from expo.weak_to_strong.supervision.records import Task

DECOMPOSE = """\
You are given a hard problem and its reference solution. Write {wanted} easier problems that each cover one stage of \
that solution.

Rules:
- Each new problem can be solved on its own: it states every value it needs, and does not mention the others or the \
original.
- No new problem is the original in other words, and none is a one-step triviality.
- Each new solution uses only what stands in the reference solution, step by step, and ends with its final answer.

Write exactly in this form, and nothing after the last line:

[SUBTASK 1]
PROBLEM: the first new problem
SOLUTION: its solution, step by step
ANSWER: its final answer alone
[SUBTASK 2]
PROBLEM: ...
SOLUTION: ...
ANSWER: ...
[END]

Problem:
{problem}

Reference solution:
{solution}
"""

JUDGE = """\
Below are a problem, a reference solution, and the numbered steps of another solution. Judge each step: WRONG where it \
holds a mistake of its own (a false statement, a slip in a calculation, a conclusion that does not follow from what \
was written before it, or a misreading of the problem), RIGHT otherwise. A step that only carries on correctly from an \
earlier mistake is RIGHT.

Write one line a step, in this form, and nothing else:

STEP 1: RIGHT
STEP 2: WRONG

Problem:
{problem}

Reference solution:
{solution}

Steps to judge:
{steps}
"""

_BLOCK = re.compile(r"^\[SUBTASK (\d+)\][ \t]*$", re.MULTILINE)
_END = re.compile(r"^\[END\]", re.MULTILINE)
_FIELDS = re.compile(r"\s*PROBLEM:(.*?)^SOLUTION:(.*?)^ANSWER:(.*)", re.DOTALL | re.MULTILINE)
_VERDICT = re.compile(r"^\W*STEP\s+(\d+)\W*:\W*(RIGHT|WRONG)\b", re.MULTILINE | re.IGNORECASE)


class BadForm(ValueError):
    """An answer breaks the form; the message is the kind of fault, the same for all such answers."""


class Found(NamedTuple):
    """One subtask that a teacher wrote."""

    problem: str
    solution: str
    answer: str


def ask_decompose(task: Task, parts: int | None) -> str:
    """The request for `parts` subtasks; None leaves the choice between 2 and 3 to the teacher."""
    wanted = str(parts) if parts else "2 or 3 (whichever fits the stages better)"
    return DECOMPOSE.format(wanted=wanted, problem=_bare(task.prompt), solution=task.completion)


def read_decompose(text: str, task: Task, parts: int | None) -> list[Found]:
    """The subtasks in a teacher's answer. Raises BadForm."""
    if not text.strip():
        raise BadForm("empty answer")
    end = _END.search(text)
    if not end:
        raise BadForm("no [END]")
    pieces = _BLOCK.split(text[: end.start()])
    numbers, bodies = [int(number) for number in pieces[1::2]], pieces[2::2]
    if numbers != list(range(1, len(numbers) + 1)) or len(numbers) not in ((parts,) if parts else (2, 3)):
        raise BadForm("wrong number of subtasks")
    found = [_subtask(body) for body in bodies]
    problems = [_folded(one.problem) for one in found]
    if _folded(_bare(task.prompt)) in problems:
        raise BadForm("a subtask repeats the task")
    if len(set(problems)) < len(problems):
        raise BadForm("two subtasks are the same")
    return found


def _subtask(body: str) -> Found:
    fields = _FIELDS.fullmatch(body)
    if not fields or not all(part.strip() for part in fields.groups()):
        raise BadForm("a subtask lacks its problem, solution or answer")
    found = Found(*(part.strip() for part in fields.groups()))
    if _folded(found.answer) not in _folded(found.solution):
        raise BadForm("an answer is not in its solution")
    return found


def ask_judge(task: Task, steps: list[str]) -> str:
    """The request for a verdict on each step."""
    numbered = "\n".join(f"Step {number}: {step}" for number, step in enumerate(steps, start=1))
    return JUDGE.format(problem=_bare(task.prompt), solution=task.completion, steps=numbered)


def read_judge(text: str, n_steps: int) -> tuple[bool, ...]:
    """Whether each step is right, as a judge says. Raises BadForm."""
    if not text.strip():
        raise BadForm("empty answer")
    said = [(int(number), word.upper() == "RIGHT") for number, word in _VERDICT.findall(text)]
    if [number for number, _ in said] != list(range(1, n_steps + 1)):
        raise BadForm("not one verdict a step")
    return tuple(right for _, right in said)


def _bare(prompt: str) -> str:
    """A problem without the frame of a zero-shot prompt."""
    return prompt.removeprefix("Question:").removesuffix("Answer:").strip()


def _folded(text: str) -> str:
    return re.sub(r"\W+", " ", text).casefold().strip() or text.strip()
