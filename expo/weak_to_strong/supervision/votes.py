"""A model's verdicts on steps, one vote or several a sample, and how far the votes agree with each other."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from expo.weak_to_strong.answers import Id
from expo.weak_to_strong.supervision.errors import BadNumber, JudgeUnsteady
from expo.weak_to_strong.supervision.lengths import UNPRICED, Count, Prices
from expo.weak_to_strong.supervision.prompts import ask_judge, read_judge
from expo.weak_to_strong.supervision.records import Judged, Task
from expo.weak_to_strong.supervision.teacher import Teacher, ask, planned

Split = Literal["lines", "sentences"]
SPLITS = ("lines", "sentences")
Verdicts = tuple[bool, ...]
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\\$(])|\n+")


@dataclass(frozen=True)
class Votes:
    """How often each sample is judged; most_disagreement: share of steps on which the votes may differ."""

    number: int = 1
    most_disagreement: float = 0.2

    def __post_init__(self) -> None:
        if self.number < 1 or self.number % 2 == 0:
            raise BadNumber("votes", self.number, "an odd number, so that there is a majority")
        if not 0 <= self.most_disagreement <= 1:
            raise BadNumber("most_disagreement", self.most_disagreement, "a share from 0 to 1")


ONE_VOTE = Votes()


@dataclass(frozen=True)
class StepJudge:
    """A model that judges steps. work: the folder of its answers. count, prices: for what it costs."""

    teacher: Teacher
    votes: Votes = ONE_VOTE
    split: Split = "lines"
    count: Count | None = None
    prices: Prices = UNPRICED
    work: str | Path | None = None

    def __post_init__(self) -> None:
        if self.votes.number > 1 and self.teacher.temperature == 0:
            raise BadNumber("temperature", 0, "above 0 with several votes, which would else be the same")

    def record(self) -> dict[str, Any]:
        """What is asked, for a report."""
        return {"judge": self.teacher.record(), "split": self.split, "votes": self.votes.number}


def steps_of(response: str, split: Split) -> list[str]:
    """A solution's steps: its lines, or its sentences; what holds no letter and no digit is no step."""
    pieces = response.splitlines() if split == "lines" else _SENTENCE.split(response)
    return [piece.strip() for piece in pieces if any(c.isalnum() for c in piece)]


def by_model(
    samples: Sequence[Judged], tasks: Mapping[Id, Task], how: StepJudge, *, dry_run: bool = False
) -> tuple[list[Judged], dict[str, Any]]:
    """The samples with the verdicts of a model on their steps, and facts. dry_run: asks nothing.

    Raises TeacherFailed, JudgeUnsteady.
    """
    pieces = [steps_of(one.response, how.split) for one in samples]
    requests = {
        f"{number}/{vote}": ask_judge(tasks[one.id], steps)
        for number, (one, steps) in enumerate(zip(samples, pieces, strict=True))
        if steps
        for vote in range(how.votes.number)
    }
    if dry_run:
        return list(samples), {**how.record(), "would ask": planned(requests, how.count, how.prices)}

    def read(key: str, text: str) -> Verdicts:
        return read_judge(text, len(pieces[_number(key)]))

    work = Path(how.work or "work")
    asked = ask(how.teacher, requests, read, work, count=how.count, prices=how.prices, what="judgements")
    said: list[list[Verdicts]] = [[] for _ in samples]
    for key, verdicts in asked.found.items():
        said[_number(key)].append(verdicts)
    told = {**how.record(), **asked.record(), "answers": str(work), **_agreement(said, how, work)}
    return [
        one._replace(steps=majority(votes)) if votes else one for one, votes in zip(samples, said, strict=True)
    ], told


def _number(key: str) -> int:
    """Which sample a request is about."""
    return int(key.partition("/")[0])


def _agreement(said: Sequence[Sequence[Verdicts]], how: StepJudge, work: Path) -> dict[str, float]:
    """On how many steps the votes differ. Raises JudgeUnsteady where these are too many."""
    differ = disagreement(said)
    if differ is None:
        return {}
    if differ > how.votes.most_disagreement:
        raise JudgeUnsteady(
            f"{how.teacher.model}: its {how.votes.number} votes differ on {differ:.1%} of the steps; at most "
            f"{how.votes.most_disagreement:.0%} may.\nThe answers are kept in {work}. Take a better judge or a lower "
            "--temperature, or allow more: --most-disagreement."
        )
    return {"steps on which votes differ": differ, "agreement": 1 - differ}


def majority(votes: Sequence[Verdicts]) -> Verdicts:
    """Step by step what most votes say; a tie, left by a vote without an answer, is wrong."""
    return tuple(2 * sum(said) > len(said) for said in zip(*votes, strict=True))


def disagreement(said: Sequence[Sequence[Verdicts]]) -> float | None:
    """The share of steps on which two votes or more are not all the same; None where no step has two."""
    steps = [step for votes in said if len(votes) > 1 for step in zip(*votes, strict=True)]
    return sum(len(set(step)) > 1 for step in steps) / len(steps) if steps else None
