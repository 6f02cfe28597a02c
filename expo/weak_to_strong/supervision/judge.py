"""Samples judged: the outcome by answer equivalence, the steps by the embedded task's rule or by a model.

A model sees problem, reference solution and numbered steps, and says RIGHT or WRONG of each; of several votes the
majority counts. People annotated the paper's steps (50 problems); what a model says here is a judge's opinion.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expo.weak_to_strong.answers import RESPONSE, Id, field, identity
from expo.weak_to_strong.errors import RowError
from expo.weak_to_strong.keyed import Keyed, write_rows
from expo.weak_to_strong.provenance import hash_of
from expo.weak_to_strong.supervision import embedded
from expo.weak_to_strong.supervision.errors import BadNumber, Stranger, TeacherFailed
from expo.weak_to_strong.supervision.rates import NOTE, by_teacher, rates
from expo.weak_to_strong.supervision.records import Judged, Task, open_tasks
from expo.weak_to_strong.supervision.votes import StepJudge, by_model

NO_STEPS = "none"
_SHOWN = 4


@dataclass(frozen=True)
class Outcome:
    """How a final answer is found and compared; most_empty: share of samples that may be empty."""

    extraction: str = "default"
    equivalence: str = "numeric"
    seconds: float | None = None
    most_empty: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.most_empty <= 1:
            raise BadNumber("most_empty", self.most_empty, "a share from 0 to 1")


BY_NUMBER = Outcome()


def judge(
    samples: Mapping[str, str | Path] | Sequence[str | Path],
    tasks: Sequence[str | Path],
    output: str | Path,
    *,
    outcome: Outcome = BY_NUMBER,
    steps: str | StepJudge = NO_STEPS,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Write every sample with its verdicts; the report with both error rates.

    samples: files of {id, sample, response, teacher?}, or teacher -> file. tasks: files of tasks and subtasks, which
    give references. steps: none, running-sum, or a model as the judge. Empty samples are left out.
    dry_run: judge outcomes, say what a judge of steps would be asked; ask and write nothing.
    Raises RowError, Stranger, TeacherFailed, JudgeUnsteady.
    """
    files = list(samples.values()) if isinstance(samples, Mapping) else list(samples)
    names = list(samples) if isinstance(samples, Mapping) else [""] * len(files)
    known = references(tasks)
    read = [outcomes(path, known, outcome, name) for name, path in zip(names, files, strict=True)]
    found, empty = [one for held, _ in read for one in held], sum(left_out for _, left_out in read)
    _check_keys(found)
    _check_empty(empty, len(found) + empty, outcome)
    told: dict[str, Any] = {"steps by": steps} if isinstance(steps, str) else {"steps by": "model"}
    if steps == embedded.RULE:
        found = [one._replace(steps=_by_rule(one)) for one in found]
    elif isinstance(steps, StepJudge):
        how = steps if steps.work else replace(steps, work=f"{output}.work")
        found, more = by_model(found, known, how, dry_run=dry_run)
        told |= more
    if not dry_run:
        write_rows(output, (one.row() for one in found))
    return {"inputs": {str(path): hash_of(path) for path in (*files, *tasks)}, **_told(found, empty, outcome), **told}


def _told(found: Sequence[Judged], empty: int, outcome: Outcome) -> dict[str, Any]:
    """The report of what was judged."""
    teachers = by_teacher(found)
    return {
        "samples": len(found),
        "empty, left out": empty,
        "without a final answer, wrong": sum(one.pred == "" for one in found),
        "scoring": {"extraction": outcome.extraction, "equivalence": outcome.equivalence},
        "rates": rates(found),
        **({"teachers": teachers} if teachers else {}),
        "note": NOTE,
    }


def _check_empty(empty: int, n: int, outcome: Outcome) -> None:
    """Raise TeacherFailed where the teacher answered nothing too often."""
    if empty > outcome.most_empty * n or empty == n:
        raise TeacherFailed(
            f"{empty:,} of {n:,} samples are empty; at most {outcome.most_empty:.0%} may be.\n"
            "Generate them anew, or allow more: --most-empty."
        )


def references(paths: Sequence[str | Path]) -> dict[Id, Task]:
    """Tasks and subtasks of several files by id. RowError where an id stands in two of them."""
    known: dict[Id, Task] = {}
    where: dict[Id, Keyed] = {}
    for path in paths:
        rows = open_tasks(path)
        for key in rows.numbers:
            if key in known:
                raise RowError(
                    rows.where(key), f"id {key!r} is also in {where[key].where(key)}.", "Rename one of them."
                )
            known[key], where[key] = rows[key], rows
    return known


def _needed(known: Mapping[Id, Task], ids: Sequence[Id], path: object) -> None:
    """Raise Stranger where a sample has no task, or one without a final answer."""
    lost = [key for key in ids if key not in known]
    if lost:
        shown = ", ".join(map(repr, lost[:_SHOWN]))
        raise Stranger(
            f"{path}: {len(lost):,} ids belong to no task that is given: {shown}.\n"
            "Pass the tasks, and the subtasks too where there are samples of them: --tasks FILE."
        )
    bare = [key for key in ids if not known[key].gold.strip()]
    if bare:
        raise Stranger(f"{path}: task {bare[0]!r} has no `gold`, its final answer, to judge samples by.")


def outcomes(path: str | Path, known: Mapping[Id, Task], how: Outcome, teacher: str) -> tuple[list[Judged], int]:
    """The samples of one file with their outcome, and how many were empty."""
    from expo.evaluate import Pair, extractor
    from expo.evaluate import judge as comparison
    from expo.evaluate.extract import normaliser

    rows = Keyed(path, lambda row: _raw(row, teacher), key=lambda raw: raw[:3])
    _needed(known, list(dict.fromkeys(raw[0] for raw in rows)), path)
    find, plain = extractor(how.extraction), normaliser(how.extraction)
    full = [raw for raw in rows if raw[3].strip()]
    pairs = [
        Pair(find(text), plain(known[key].gold), key, number, known[key].prompt, text) for key, _, number, text in full
    ]
    same = comparison(how.equivalence, **({"seconds": how.seconds} if how.seconds else {}))(pairs)
    made = [
        Judged(
            key, number, known[key].prompt, text.strip(), verdict.correct,
            teacher=name, pred=pair.pred, gold=known[key].gold, task=known[key].task,
        )
        for (key, name, number, text), pair, verdict in zip(full, pairs, same, strict=True)
    ]  # fmt: skip
    return made, len(rows) - len(full)


def _raw(row: dict, teacher: str) -> tuple[Id, str, int, str]:
    """(id, teacher, number, response) of a row that was not judged yet."""
    number = row.get("sample", 0)
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError(f"'sample' must be a whole number from 0, not {number!r}")
    name = row.get("teacher") or teacher
    if not isinstance(name, str):
        raise ValueError(f"'teacher' must be text, not {name!r:.60}")
    return identity(row), name, number, field(row, RESPONSE, str)


def _check_keys(found: Sequence[Judged]) -> None:
    """The same sample of the same teacher must not stand in two files."""
    twice = [key for key, count in Counter(one.key for one in found).items() if count > 1]
    if twice:
        key, name, number = twice[0]
        raise RowError(
            "samples",
            f"sample {number} of id {key!r}{f' by {name}' if name else ''} stands in two files.",
            "Give each file its teacher: NAME=FILE.",
        )


def _by_rule(one: Judged) -> tuple[bool, ...]:
    if not embedded.is_running_sum(one.prompt):
        raise RowError(
            f"id {one.id!r}", f"{one.prompt!r:.60} is no running sum, so its steps cannot be judged by rule."
        )
    return embedded.verdicts(one.prompt, one.response)
