"""Answers against references: matched by id, extracted, compared. Knows no model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from expo.evaluate.equivalence import SECONDS, Pair, judge
from expo.evaluate.extract import Extract, extractor, normaliser
from expo.generate.answers import read_answers
from expo.rows import Row, RowsError, as_rows

GOLD_FIELDS = ("gold", "answer", "solution", "completion")


class Reference(NamedTuple):
    """A question's true answer, as the file gives it."""

    id: Any
    gold: str
    question: str | None
    where: str


class Grade(NamedTuple):
    """One answer with its verdict."""

    id: Any
    sample: int
    pred: str
    gold: str
    correct: bool
    decided: bool


@dataclass(frozen=True)
class Graded:
    """Every answer's grade, by question in the references' order, then by sample."""

    grades: list[Grade]
    extraction: str
    equivalence: str
    by_question: dict[Any, list[Grade]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found: dict[Any, list[Grade]] = {}
        for one in self.grades:
            found.setdefault(one.id, []).append(one)
        object.__setattr__(self, "by_question", found)

    @property
    def shares(self) -> dict[Any, float]:
        """The share of right samples of each question."""
        return {key: sum(g.correct for g in grades) / len(grades) for key, grades in self.by_question.items()}


def grade(
    answers: str | Path | Iterable[Mapping[str, Any]],
    references: str | Path | Iterable[Mapping[str, Any]] | Sequence[Reference],
    *,
    extraction: str | Extract = "default",
    gold_extraction: Extract | None = None,
    equivalence: str = "numeric",
    seconds: float = SECONDS,
    gold_field: str | None = None,
) -> Graded:
    """Grade every answer {id, sample, response} against the reference of its id.

    extraction: a name that `extractor` knows, or a function from a response to its answer; a gold text then goes
    through `gold_extraction`, by default through the same function where it holds a whole solution.
    Raises RowsError where ids do not match, samples are missing or repeated; JudgeError.
    """
    names = str(extraction) if isinstance(extraction, str) else getattr(extraction, "__name__", "a function")
    find = extractor(extraction) if isinstance(extraction, str) else extraction
    compare = judge(equivalence, seconds=seconds)
    if not isinstance(references, Sequence) or isinstance(references, str) or not _are_references(references):
        references = read_references(references, gold_field=gold_field)
    clean = gold_extraction or _gold_side(extraction, find)
    golds = {reference.id: (clean(reference.gold), reference.question) for reference in references}
    _check_golds(references, golds)
    rows = read_answers(answers)
    _check_ids(rows, references)
    rows = _ordered(rows, references)
    pairs = []
    for row in rows:
        gold, question = golds[row["id"]]
        pairs.append(Pair(find(row["response"]), gold, row["id"], row["sample"], question, row["response"]))
    verdicts = compare(pairs)
    grades = [Grade(p.id, p.sample, p.pred, p.gold, *v) for p, v in zip(pairs, verdicts, strict=True)]
    return Graded(grades, names, equivalence)


def read_references(
    source: str | Path | Iterable[Mapping[str, Any]], *, gold_field: str | None = None
) -> list[Reference]:
    """The true answers of a test file; rows without any id are numbered from 0.

    The answer is in `gold_field`, else in the first of gold, answer, solution, completion that a row has.
    Raises RowsError with file and line.
    """
    from expo.generate.prompts import check_ids, question_text

    rows = as_rows(source)
    ids, problems = check_ids(rows)
    found = []
    for row, key in zip(rows, ids, strict=True):
        gold = _gold(row, gold_field)
        if gold is None:
            wanted = gold_field or " or ".join(GOLD_FIELDS)
            problems.append(f"{row.where}: no true answer; the row has no text or number in {wanted}.")
        else:
            found.append(Reference(key, gold, question_text(row.values), row.where))
    if not rows:
        problems.append(f"{source}: no rows.")
    if problems:
        raise RowsError(problems, "To name the field with the answer: --gold-field NAME.")
    return found


def _are_references(references: Sequence) -> bool:
    return bool(references) and isinstance(references[0], Reference)


def _gold(row: Row, gold_field: str | None) -> str | None:
    for name in (gold_field,) if gold_field else GOLD_FIELDS:
        value = row.values.get(name)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    return None


def _gold_side(extraction: str | Extract, find: Extract) -> Extract:
    """Gold texts are answers, or whole solutions that end in one, as GSM8K's."""
    if not isinstance(extraction, str):
        return lambda gold: find(gold)
    plain = normaliser(extraction)
    if extraction == "whole":
        return plain
    if extraction.startswith("regex:"):
        return lambda gold: find(gold) or plain(gold)
    return lambda gold: find(gold) if "####" in gold or "\n" in gold or "\\boxed" in gold else plain(gold)


def _check_golds(references: Sequence[Reference], golds: Mapping[Any, tuple[str, Any]]) -> None:
    empty = [f"{r.where}: no answer found in {r.gold[-80:]!r}." for r in references if not golds[r.id][0]]
    if empty:
        raise RowsError(empty, "To name the field with the answer: --gold-field NAME; see also --extraction.")


def _check_ids(rows: Sequence[Mapping[str, Any]], references: Sequence[Reference]) -> None:
    """Both sides speak of the same questions, and every question has the same samples."""
    known = {reference.id: reference for reference in references}
    samples: dict[Any, set[int]] = {}
    for row in rows:
        samples.setdefault(row["id"], set()).add(row["sample"])
    strangers = [f"answers for id {key!r}, which the questions do not have." for key in samples if key not in known]
    missing = [f"{r.where}: id {key!r} has no answer." for key, r in known.items() if key not in samples]
    most = max((len(held) for held in samples.values()), default=0)
    fewer = [f"id {key!r} has {len(held)} of {most} samples." for key, held in samples.items() if len(held) < most]
    if strangers or missing or fewer:
        raise RowsError(
            strangers + missing + fewer,
            f"{len(known):,} questions, {len(samples):,} answered: pass the questions that the answers were made for, "
            "and finish the answers (run `expo generate` again: it continues).",
        )


def _ordered(rows: Sequence[Mapping[str, Any]], references: Sequence[Reference]) -> list[Mapping[str, Any]]:
    position = {reference.id: number for number, reference in enumerate(references)}
    return sorted(rows, key=lambda row: (position[row["id"]], row["sample"]))
