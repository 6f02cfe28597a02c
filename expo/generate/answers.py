"""The file of answers: one row for each (question, sample), continued after a kill, put in order at the end."""

import glob
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from expo.errors import ExpoError
from expo.generate.prompts import Question
from expo.rows import Appender, Row, RowsError, as_rows, replace_file, write_rows

FINISHES = ("stop", "length", "context", "too long")


class OtherSettings(ExpoError):
    """A file of answers was begun with other settings."""


class Answer(NamedTuple):
    """What a model wrote; finish: stop | length | context (its window was full) | too long (it was not asked).

    n_prompt_tokens: of the request, where a server says so.
    """

    response: str
    n_tokens: int | None
    finish: str
    n_prompt_tokens: int | None = None

    def row(self) -> dict[str, Any]:
        """The answer as part of a row."""
        found = self._asdict()
        if self.n_prompt_tokens is None:
            del found["n_prompt_tokens"]
        return found


def read_answers(source: str | Path | Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows {id, sample, response, ...} of a file or from memory; `sample` is 0 where it is absent, and
    rows without any id are numbered from 0. Raises RowsError with file and line for what else is missing or repeated.
    """
    rows = as_rows(source)
    found, problems, first = [], [], {}
    numbered = not any("id" in row.values for row in rows)
    for number, row in enumerate(rows):
        values = {**({"id": number} if numbered else {}), **row.values}
        values.setdefault("sample", 0)
        problem = _problem(values)
        key = (values.get("id"), values["sample"])
        if problem is None and key in first:
            problem = f"id {key[0]!r}, sample {key[1]}, stands already at {first[key]}"
        if problem:
            problems.append(f"{row.where}: {problem}.")
            continue
        first[key] = row.where
        found.append(values)
    if problems:
        raise RowsError(problems, "An answer is {id, sample, response}, each (id, sample) once.")
    return found


def _problem(values: Mapping[str, Any]) -> str | None:
    key, sample = values.get("id"), values["sample"]
    if not isinstance(key, str | int) or isinstance(key, bool):
        return f"the id is {key!r}; it must be a text or an integer"
    if not isinstance(sample, int) or isinstance(sample, bool) or sample < 0:
        return f"the sample is {sample!r}; it must be 0 or a positive integer"
    if not isinstance(values.get("response"), str):
        return "no response"
    return None


def settings_path(path: Path) -> Path:
    """Where the settings of a file of answers stand."""
    return path.with_name(path.name + ".settings.json")


def part_path(path: Path, rank: int) -> Path:
    """Where a further process of a run keeps its answers until they are taken in."""
    return path.with_name(f"{path.name}.part-{rank}")


def parts_of(path: Path) -> list[Path]:
    """The parts that stand beside a file of answers, by rank."""
    found = path.parent.glob(f"{glob.escape(path.name)}.part-*")
    return sorted((part for part in found if part.suffix[6:].isdigit()), key=lambda part: int(part.suffix[6:]))


class AnswerFile:
    """An open file of answers, beside which its settings stand; knows which answers it has."""

    def __init__(self, path: Path, questions: Sequence[Question], settings: Mapping[str, Any], *, overwrite: bool):
        self.path = path
        self.questions = {question.id: question for question in questions}
        self.beside = settings_path(path)
        if overwrite:
            for old in (path, *parts_of(path)):
                old.unlink(missing_ok=True)
        begun = any(file.exists() and file.stat().st_size > 0 for file in (path, *parts_of(path)))
        if begun:
            self._check_settings(settings)
        self.file = Appender(path, check=partial(self._check_found, path))
        self.done = {(row.values["id"], row.values["sample"]) for row in self.file.found}
        try:
            if not begun:
                replace_file(self.beside, (json.dumps(settings, indent=1, ensure_ascii=False) + "\n").encode())
            self.take_in_parts()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.__exit__(kind, error, trace)
        if error is not None and not self.done and not parts_of(self.path):  # before the first answer: leave no trace
            self.path.unlink(missing_ok=True)
            self.beside.unlink(missing_ok=True)

    def missing(self, samples: int) -> list[tuple[Question, int]]:
        """What is still to be asked, in the order of questions, then samples."""
        wanted = ((question, sample) for question in self.questions.values() for sample in range(samples))
        return [(question, sample) for question, sample in wanted if (question.id, sample) not in self.done]

    def add(self, question: Question, sample: int, answer: Answer) -> None:
        """Append one finished answer."""
        self.file.append(self.row(question, sample, answer))
        self.done.add((question.id, sample))

    @staticmethod
    def row(question: Question, sample: int, answer: Answer) -> dict[str, Any]:
        """An answer as the file holds it."""
        return {"id": question.id, "sample": sample, **question.shown(), **answer.row()}

    def take_in_parts(self) -> None:
        """Append what other processes have left beside the file, and remove it there."""
        for path in parts_of(self.path):
            with Appender(path, check=partial(self._check_found, path)) as part:
                for row in part.found:
                    key = (row.values["id"], row.values["sample"])
                    if key not in self.done:
                        self.file.append(row.values)
                        self.done.add(key)
                path.unlink()

    def put_in_order(self) -> list[dict[str, Any]]:
        """Rewrite the file, whole or not at all, in the order of the questions, then samples; its rows."""
        position = {key: number for number, key in enumerate(self.questions)}
        rows = read_answers(self.path)
        ordered = sorted(rows, key=lambda row: (position[row["id"]], row["sample"]))
        if ordered != rows:
            write_rows(self.path, ordered)
        return ordered

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        try:
            held = json.loads(self.beside.read_text())
        except (OSError, ValueError):
            held = {}
        if not isinstance(held, dict) or not held:
            raise OtherSettings(
                f"{self.path} exists, and {self.beside.name} does not say what it was made with.\n"
                "To replace it: --overwrite."
            )
        names = list({**held, **settings})
        if "fingerprint" in settings and held.get("fingerprint") == settings["fingerprint"]:
            names.remove("model")  # the same weights under another name
        other = [
            f"  {name}: {json.dumps(held.get(name))} there, {json.dumps(settings.get(name))} now"
            for name in names
            if held.get(name) != settings.get(name)
        ]
        if other:
            raise OtherSettings(
                "\n".join([f"{self.path} was begun with other settings:", *other, "To start it again: --overwrite."])
            )

    def _check_found(self, path: Path, rows: list[Row]) -> None:
        """What an earlier run left answers these questions, as they are now."""
        read_answers(path)
        problems = []
        for row in rows:
            question = self.questions.get(row.values["id"])
            if question is None:
                problems.append(f"{row.where}: answers id {row.values['id']!r}, which the questions do not have.")
            elif any(row.values.get(name) != value for name, value in question.shown().items()):
                problems.append(f"{row.where}: id {question.id!r} was asked differently than {question.where} asks it.")
        if problems:
            raise RowsError(problems, "To start the file again: --overwrite.")
