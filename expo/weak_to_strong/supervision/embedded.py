"""The embedded task's supervision, exact throughout: running sums cut into subtasks, teachers that slip, verdicts.

A hard task is `31475=` with the solution `34850`; a step is one digit of it, wrong where it does not follow from the
digit before and the next term. Cut in two, it is `314=` -> `348` and `875=` -> `850`: the second begins with the first
one's result. A teacher errs at each step with a fixed probability and goes on from the wrong sum. A paraphrase is the
same task in another form, `=31475=`, with the same solution.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from expo.weak_to_strong.provenance import text_hash
from expo.weak_to_strong.supervision.records import Judged, Task

RULE = "running-sum"


def is_running_sum(prompt: str) -> bool:
    """Whether a prompt is the embedded task's: digits and an equals sign, perhaps one before them."""
    terms = prompt.removeprefix("=").removesuffix("=")
    return prompt.endswith("=") and terms.isascii() and terms.isdigit()


def terms_of(prompt: str) -> list[int]:
    """The numbers of a question; ValueError where it is no running sum."""
    if not is_running_sum(prompt):
        raise ValueError(f"{prompt!r:.60} is no running sum, such as '31475='")
    return [int(digit) for digit in prompt.strip("=")]


def cut(task: Task, parts: int) -> list[Task]:
    """The task as `parts` subtasks, about equally long; each but the first begins with the result of the one before.

    ValueError where the task is no running sum, or has fewer terms than parts.
    """
    terms = terms_of(task.prompt)
    if len(terms) < parts:
        raise ValueError(f"{task.prompt!r} has {len(terms)} terms, too few for {parts} subtasks")
    sizes = [len(terms) // parts + (number < len(terms) % parts) for number in range(parts)]
    found, start, carried = [], 0, []
    for number, size in enumerate(sizes, start=1):
        prompt, solution = _solved([*carried, *terms[start : start + size]])
        found.append(Task(f"{task.id}/{number}", prompt, solution, solution[-1], task.id, number))
        start, carried = start + size, [int(solution[-1])]
    return found


def _solved(terms: Sequence[int]) -> tuple[str, str]:
    from expo import toy

    return tuple(toy.solve(terms))


def verdicts(prompt: str, response: str) -> tuple[bool, ...]:
    """Whether each written step follows from the one before it."""
    terms, before, found = terms_of(prompt), 0, []
    for number, letter in enumerate(response.strip()):
        digit = int(letter) if letter in "0123456789" else None
        found.append(digit is not None and number < len(terms) and digit == (before + terms[number]) % 10)
        before = digit if digit is not None else before
    return tuple(found)


def sample(task: Task, teacher: str, slip: float, number: int, seed: int, error: str = "any") -> dict[str, Any]:
    """One solution by a teacher that errs at each step with probability `slip`; the draws belong to seed and id.

    error: "any" writes any of the nine wrong digits, "next" the one above the right digit.
    """
    draws = _draws(seed, teacher, task.id, number)
    before, written = 0, ""
    for term in terms_of(task.prompt):
        before = (before + term) % 10
        if next(draws) < slip:
            before = (before + (1 if error == "next" else 1 + int(9 * next(draws)))) % 10
        written += str(before)
    told = {"id": task.id, "sample": number, "teacher": teacher, "prompt": task.prompt, "response": written}
    return told | ({"task": task.task} if task.task is not None else {})


def _draws(*key: object) -> Iterator[float]:
    """Numbers from 0 to below 1 that depend on the key alone."""
    number = 0
    while True:
        raw = text_hash(*map(str, key), str(number))
        yield from (int.from_bytes(raw[at : at + 8], "big") / 2**64 for at in (0, 8))
        number += 1


def paraphrase(one: Judged) -> Judged:
    """The same task and solution in another form."""
    return one._replace(prompt=f"={one.prompt}")
