"""Several processes of a launcher answer one file of questions: who asks what, and where answers wait to be joined.

The first holds the file of answers and writes its own there; each other appends to OUT.part-K beside it. Whoever opens
the file next takes those in, so that a killed run goes on with any number of processes, or without a launcher.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import xxhash

from expo.errors import Interrupted, OutputError, RankError
from expo.generate.answers import Answer, AnswerFile, part_path
from expo.generate.prompts import Question
from expo.launcher import World, check_rendezvous, place
from expo.rows import Appender
from expo.version import __version__

Found = TypeVar("Found")
Asked = tuple[Question, int]  # and the sample's number


def team() -> World:
    """The processes that answer together: those of a launcher, else this one alone. Raises RankError."""
    check_rendezvous()
    if place().size == 1:
        return World()
    from expo.stream.ranks import world  # loads torch

    return world()


def on_each(ranks: World, act: Callable[[], Found]) -> Found:
    """What this process gets from `act`; what fails on one is raised on all."""
    held: list[Found] = []
    ranks.together(lambda: held.append(act()))
    return held[0]


def agree(ranks: World, output: Path, questions: Sequence[Question], settings: Mapping[str, Any], **more: Any) -> None:
    """Raise RankError where a process was told something else than the first."""
    asked = [[question.id, question.shown()] for question in questions]
    parts = {"version of expo": __version__, "output": str(output), "questions": asked, "settings": settings | more}
    hashes = {name: xxhash.xxh3_128_hexdigest(json.dumps(value, default=str).encode()) for name, value in parts.items()}
    told = ranks.gather((hashes, os.uname().nodename))
    for rank, (own, node) in enumerate(told):
        if other := [name for name in parts if own[name] != told[0][0][name]]:
            raise RankError(
                f"rank {rank} on {node} has another {' and other '.join(other)} than rank 0 on {told[0][1]}. "
                "All processes of a run need the same command, the same expo and the same files."
            )


class SharedAnswers:
    """The file of answers as one process of a run sees it; alone it is the file itself."""

    def __init__(self, ranks: World, path: Path, questions: Sequence[Question], settings: Mapping[str, Any]):
        self.ranks, self.here, self.path = ranks, ranks.here, path
        self.questions, self.settings = list(questions), settings
        self.held = ExitStack()
        self.file: AnswerFile | None = None  # the first process's
        self.part: Appender | None = None  # each other's
        self.stop = ranks.stop()

    def open(self, *, overwrite: bool) -> Self:
        """Take the file in the first process, and a part of it in each other; raises what AnswerFile raises."""
        try:
            self.ranks.first(self._open, overwrite)
            self.ranks.together(lambda: self.here.is_first or self._open_part())
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def _open(self, overwrite: bool) -> None:
        self.file = self.held.enter_context(AnswerFile(self.path, self.questions, self.settings, overwrite=overwrite))

    def _open_part(self) -> None:
        if not self.path.exists():
            raise OutputError(
                f"rank {self.here.rank} on {os.uname().nodename} does not see {self.path}, which rank 0 has opened. "
                "Write into a folder that all processes see."
            )
        self.part = self.held.enter_context(Appender(part_path(self.path, self.here.rank)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.part and not self.part.path.stat().st_size:
            self.part.path.unlink()  # it asked nothing before it was stopped
        self.held.__exit__(kind, error, trace)

    def missing(self, samples: int) -> list[Asked]:
        """What is still to be asked by all processes together."""
        numbers = {question.id: number for number, question in enumerate(self.questions)}
        found = self.ranks.first(lambda: [(numbers[q.id], sample) for q, sample in self.file.missing(samples)])
        return [(self.questions[number], sample) for number, sample in found]

    def mine(self, missing: Sequence[Asked]) -> set[tuple[Any, int]]:
        """(id, sample) of what this process asks: every n-th question, or where those are few, every n-th answer."""
        ids = {question.id: number for number, question in enumerate({q.id: q for q, _ in missing}.values())}
        few = len(ids) < 2 * self.here.size
        return {
            (question.id, sample)
            for number, (question, sample) in enumerate(missing)
            if (number if few else ids[question.id]) % self.here.size == self.here.rank
        }

    def add(self, question: Question, sample: int, answer: Answer) -> None:
        """Append one finished answer; raises Interrupted where another process has stopped the run."""
        if self.file:
            self.file.add(question, sample, answer)
        else:
            self.part.append(AnswerFile.row(question, sample, answer))
        if self.stop is not None and self.stop.is_set():
            raise Interrupted("interrupted")

    def joined(self) -> list[dict[str, Any]]:
        """In the first process, once all have answered: every row, in order."""
        self.file.take_in_parts()
        return self.file.put_in_order()

    def close_part(self) -> None:
        """Let the first process take in what this one has written."""
        if self.part:
            self.held.close()
            self.part = None
