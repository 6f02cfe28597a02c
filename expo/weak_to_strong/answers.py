"""Answers: what a model wrote to a question, under the names that this and other tools give to the fields."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from expo.errors import nearest
from expo.weak_to_strong.keyed import Keyed

Extract = Callable[[str], str]  # the final answer in a response; "" where there is none
Id = int | str

PROMPT = ("prompt", "content", "instruction")
RESPONSE = ("response", "output", "completion")


class Answer(NamedTuple):
    """One response to one question."""

    id: Id
    prompt: str
    response: str
    pred: str  # the final answer, "" where there is none
    gold: str | None = None
    result: bool | None = None  # whether it was scored as right
    sample: int = 0


Same = Callable[[Answer, Answer], bool]  # whether the final answers to one question are the same


def same_text(one: Answer, other: Answer) -> bool:
    """Whether two final answers are spelled alike, as the published code asks."""
    return one.pred == other.pred


def open_answers(path: str | Path, extract: Extract | None = None) -> Keyed[Answer]:
    """One answer a question; final answers are taken from `pred`, or extracted where the rows have none."""
    return Keyed(path, lambda row: parse_answer(row, extract))


def open_samples(path: str | Path, extract: Extract | None = None) -> Keyed[Answer]:
    """Several answers a question, told apart by their field `sample`."""
    return Keyed(path, lambda row: parse_answer(row, extract), key=lambda row: (row.id, row.sample))


def parse_answer(row: dict, extract: Extract | None = None) -> Answer:
    """The answer in one object; ValueError says what is wrong with it."""
    response = field(row, RESPONSE, str)
    pred = row.get("pred")
    if pred is None:
        if extract is None:
            raise ValueError("has no field 'pred'. To extract final answers from the responses: --extraction default")
        pred = extract(response)
    elif not isinstance(pred, str):
        raise ValueError(f"'pred' must be text, not {pred!r}")
    gold, result = row.get("gold"), row.get("result")
    return Answer(
        id=identity(row),
        prompt=field(row, PROMPT, str),
        response=response,
        pred=pred,
        gold=gold if isinstance(gold, str) else None,
        result=result if isinstance(result, bool) else None,
        sample=_whole(row, "sample"),
    )


def identity(row: dict) -> Id:
    """The id of an object; ValueError where there is none that can tell rows apart."""
    found = field(row, ("id",), (int, str))
    if isinstance(found, bool):
        raise ValueError(f"'id' must be a whole number or text, not {found!r}")
    return found


def field(row: dict, names: tuple[str, ...], kind: Any) -> Any:
    """The first of `names` that an object has, checked for its type."""
    for name in names:
        if name in row:
            if not isinstance(row[name], kind):
                wanted = "text" if kind is str else "a whole number or text" if kind == (int, str) else kind.__name__
                raise ValueError(f"{name!r} must be {wanted}, not {row[name]!r:.60}")
            return row[name]
    spelled = " or ".join(map(repr, names))
    raise ValueError(f"has no field {spelled}; it has: {', '.join(row) or 'none'}.{nearest(names[0], row)}".rstrip("."))


def share(row: dict, name: str) -> float:
    """A number from 0 to 1."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 1:
        raise ValueError(f"{name!r} must be a number from 0 to 1, not {value!r}")
    return float(value)


def _whole(row: dict, name: str) -> int:
    value = row.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name!r} must be a whole number from 0, not {value!r}")
    return value


def accuracy(right: list[bool | None]) -> dict[str, Any] | None:
    """How many of the answers were scored as right, or None where any was not scored."""
    if not right or any(one is None for one in right):
        return None
    return {"correct": sum(right), "n": len(right), "accuracy": sum(right) / len(right)}
