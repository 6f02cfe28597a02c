"""run.yaml of a supervision study: where tasks and samples come from, which sets are built, how students learn.

Exactly one of `embedded` (running sums), `released` (the authors' data set or a folder in its layout) and `data`
(files, with a teacher for what is missing) says where supervision comes from.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from expo.weak_to_strong.mistakes import Misplaced
from expo.weak_to_strong.runfile import NAME, Asked, Part, check_trainer
from expo.weak_to_strong.supervision.lengths import PUBLISHED

Rates = tuple[float, ...]


class Slips(Part):
    """A teacher of the embedded task: it errs at each step with the probability `slip`."""

    name: str = Field(pattern=NAME)
    slip: float = Field(ge=0, le=1)
    samples: int = Field(8, ge=1)


class Embedded(Part):
    """Running sums: hard tasks of `terms` numbers, a base that was taught shorter ones, teachers that slip."""

    terms: int = Field(5, ge=4, le=7)
    easy: tuple[int, ...] = (2, 3)  # lengths of the first stage's true answers
    tasks: int = Field(1000, ge=10)
    test: int = Field(2000, ge=10)
    pretraining: int = Field(400, ge=1)  # steps of the first stage
    teachers: tuple[Slips, ...] = Field(min_length=1)
    error: Literal["any", "next"] = "any"  # what a slip writes: any wrong digit, or the next one

    @model_validator(mode="after")
    def _whole(self) -> "Embedded":
        names = [one.name for one in self.teachers]
        if len(set(names)) < len(names):
            raise ValueError("two teachers have one name")
        if not self.easy or any(not 2 <= length < self.terms for length in self.easy):
            raise ValueError(f"`easy` must hold lengths from 2 to {self.terms - 1}, below `terms`")
        return self


class Released(Part):
    """The authors' data: a `datasets` id, or a folder in its layout; the rest are folders or patterns inside."""

    source: str = "hexuan21/weak-to-strong"
    pairs: str = "task_sol_pairs"
    weaker: Mapping[str, str] = Field(default_factory=dict)  # teacher -> folder or pattern of its samples
    paraphrase: str | None = "paraphrase"
    tests: Mapping[str, str] = Field(default_factory=dict)  # name -> pattern of files of {question, ground_truth}
    teacher: str = "gpt-4o-mini"  # who wrote the pairs
    limit: int | None = Field(None, ge=1)  # tasks


class Files(Part):
    """Files of any origin. samples, subtask_samples: teacher -> answers; judged ones are taken as they are."""

    tasks: str
    samples: Mapping[str, str] = Field(default_factory=dict)
    subtasks: str | None = None
    subtask_samples: Mapping[str, str] = Field(default_factory=dict)
    paraphrases: str | None = None  # judged rows: id, teacher and sample of what they paraphrase


class TeacherSettings(Part):
    """Who decomposes, samples and judges what `data` does not hold; see expo w2s decompose."""

    model: str
    endpoint: str | None = None
    samples: int = Field(3, ge=1)
    temperature: float = Field(1.0, ge=0)
    max_tokens: int = Field(4096, ge=1)
    attempts: int = Field(3, ge=1)
    most_failed: float = Field(0.2, ge=0, le=1)
    votes: int = Field(1, ge=1)
    price_prompt: float | None = Field(None, ge=0)  # for a million tokens
    price_answer: float | None = Field(None, ge=0)


class Lengths(Part):
    """The length rule of decomposition, in the tokens of `tokenizer`: folder, Hub id or `words`."""

    tokenizer: str = PUBLISHED
    short: int = 400
    two: int = 1000
    three: int = 1600


class First(Part):
    """The first stage: what makes the base fit to follow instructions, from easy tasks."""

    data: str
    sft: Mapping[str, Any] = Field(default_factory=dict)


class Steps(Part):
    """Sets of one outcome error rate and several step-wise ones."""

    outcome: float = Field(0.9, ge=0, le=1)
    rates: Rates = Field(min_length=1)


class Mixed(Part):
    """Hard + subtask at each pair of outcome error rates."""

    hard: Rates = ()
    subtask: Rates = ()


class Grid(Part):
    """Which cells there are; rates are of outcome errors. size: rows or tokens of a set; default: twice the tasks."""

    hard: Rates = (0.0, 0.5, 1.0)
    subtask: Rates = (0.0, 0.5, 1.0)
    mixed: Mixed = Mixed()
    paraphrase: Rates = ()
    steps: Steps | None = None
    weaker: bool = False  # a cell for each further teacher's samples as they are
    teacher: str | None = None  # whose samples the outcome error rates are made of; by default the first one's
    only_pairs: bool = True  # only tasks with a correct and an incorrect sample: the same ones at every rate
    equal: Literal["none", "counts", "tokens"] = "none"
    size: int | None = Field(None, ge=2)

    @field_validator("hard", "subtask", "paraphrase")
    @classmethod
    def _rates(cls, found: Rates) -> Rates:
        return checked(found)

    @model_validator(mode="after")
    def _whole(self) -> "Grid":
        for name, found in (("mixed", self.mixed.hard), ("mixed", self.mixed.subtask)):
            _placed(found, name)
        if self.steps:
            _placed(self.steps.rates, "steps", "rates")
        if bool(self.mixed.hard) != bool(self.mixed.subtask):
            raise Misplaced(("mixed",), "needs rates for `hard` and for `subtask`")
        if self.size and self.equal == "none":
            raise Misplaced(("size",), "goes with `equal: counts` or `equal: tokens`")
        if not (self.hard or self.subtask or self.mixed.hard or self.paraphrase or self.steps):
            raise ValueError("has no cell")
        return self


def checked(rates: Rates) -> Rates:
    """Rates in [0, 1], each once; ValueError."""
    wrong = [rate for rate in rates if not 0 <= rate <= 1]
    if wrong:
        raise ValueError(f"{wrong[0]:g} is no rate from 0 to 1 (20 % is 0.2)")
    if len(set(rates)) < len(rates):
        raise ValueError("a rate is given twice")
    return rates


def _placed(rates: Rates, *at: str) -> None:
    try:
        checked(rates)
    except ValueError as error:
        raise Misplaced(at, str(error)) from error


class Sampled(Part):
    """How students answer the tests: greedily, unless told otherwise."""

    samples: int = Field(1, ge=1, le=1)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)


class SupervisionFile(Asked):
    """All settings of one study."""

    shelf: ClassVar[tuple[str, ...]] = ("supervision",)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    embedded: Embedded | None = None
    released: Released | None = None
    data: Files | None = None
    tests: Mapping[str, str] = Field(default_factory=dict)  # name -> file of {id, prompt, gold}
    base: str = ""
    first: First | None = None
    lengths: Lengths = Lengths()
    teacher: TeacherSettings | None = None
    sft: Mapping[str, Any] = Field(default_factory=dict)
    grid: Grid = Grid()
    drawing: Sampled = Sampled()  # type: ignore[assignment]

    @model_validator(mode="after")
    def _whole(self) -> "SupervisionFile":
        given = [name for name in ("embedded", "released", "data") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError("give one of `embedded`, `released` and `data`")
        if len(set(self.seeds)) < len(self.seeds):
            raise Misplaced(("seeds",), "a seed is given twice")
        if not self.embedded and not self.base:
            raise ValueError("`base` names no model")
        if not self.embedded and not self.tests and not (self.released and self.released.tests):
            raise ValueError("`tests` names no file of test questions")
        if "seed" in self.model_fields_set:
            raise Misplaced(("seed",), "a study has several: write `seeds: [0, 1, 2]`")
        if self.data and not self.data.samples and not self.teacher:
            raise ValueError("`data` has no `samples`, and there is no `teacher` to draw them")
        if self.embedded and self.grid.teacher not in (None, *(one.name for one in self.embedded.teachers)):
            raise Misplaced(("grid", "teacher"), f"{self.grid.teacher!r} is none of the embedded teachers")
        return self

    @model_validator(mode="after")
    def _trainers(self) -> "SupervisionFile":
        from expo.train import SftSettings

        check_trainer(SftSettings, self.sft, "sft")
        if self.first:
            check_trainer(SftSettings, self.first.sft, "first", "sft")
        return self

    def seeded(self, seed: int) -> "SupervisionFile":
        """The run as one of its seeds sees it."""
        return self.model_copy(update={"seed": seed})
