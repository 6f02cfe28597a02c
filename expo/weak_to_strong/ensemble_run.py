"""run.yaml of EnsemW2S: experts that are boosted, the ensemble's labels, the student that learns from them.

    kind: classification | generation
    data: {pool: FILE | dataset: allenai/sciq}   or   embedded: {...}

Paths are relative to the current directory, as in every run file.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from expo.errors import nearest
from expo.weak_to_strong.boosting import PRIORS
from expo.weak_to_strong.choices import DATA_SETS
from expo.weak_to_strong.mistakes import Misplaced
from expo.weak_to_strong.runfile import NAME, Asked, Part, check_trainer

Kind = Literal["classification", "generation"]
PARTS = ("pool", "train", "validation", "easy", "hard_train", "hard", "hardest")


class Boost(Part):
    """How experts are made and weighed."""

    rounds: int = Field(5, ge=1, le=100)  # experts, the first one unweighted
    prior: str | float | None = None  # a name of PRIORS or an error; None: binary for two classes, else see `prior`
    weighting: Literal["loss", "resample"] = "loss"  # of tokens and rows, or of the draw of rows
    combine: Literal["probabilities", "discrete"] = "probabilities"
    not_better: Literal["skip", "stop"] = "skip"  # what an expert with eps at or above the prior means
    patience: int = Field(2, ge=0)  # rounds without a better ensemble on validation before boosting ends; 0: never

    @field_validator("prior", mode="before")
    @classmethod
    def _known(cls, found: Any) -> Any:
        if isinstance(found, str) and found not in PRIORS:
            raise ValueError(f"{found!r} is none of {', '.join(PRIORS)}, nor an error.{nearest(found, PRIORS)}")
        if isinstance(found, int | float) and not 0 < found < 1:
            raise ValueError(f"{found:g} is no error; it must lie between 0 and 1")
        return found


class Difficulty(Part):
    """What is easy: experts of other folds, the length, a column of numbers, a file, or chance."""

    by: Literal["experts", "length", "column", "file", "random"] = "experts"
    column: str = ""
    file: str = ""  # one number a line, in the pool's order; or JSONL {id, difficulty}
    folds: int = Field(5, ge=2)

    @model_validator(mode="after")
    def _whole(self) -> "Difficulty":
        for name in ("column", "file"):
            if (self.by == name) != bool(getattr(self, name)):
                raise ValueError(f"`{name}` goes with `by: {name}`, and that needs it")
        return self


class Split(Part):
    """The pool, the easiest first: easy, hard, and the hardest as out of distribution."""

    easy: float = Field(0.5, gt=0, lt=1)  # of what is not out of distribution
    ood: float = Field(0.1, ge=0, lt=1)  # of the pool; 0: none
    validation: int = Field(1000, ge=1)  # of the easy part; chooses the round
    test: int = Field(1000, ge=1)  # of each part


class Source(Part):
    """Where the questions are: one pool, and more test sets."""

    pool: str = ""
    dataset: str = ""  # a `datasets` id whose columns are known
    ood: Mapping[str, str] = Field(default_factory=dict)  # name -> file, tested beside the pool's own hardest

    @model_validator(mode="after")
    def _one(self) -> "Source":
        if bool(self.pool) == bool(self.dataset):
            raise ValueError("give either `pool`, a file, or `dataset`")
        if self.dataset and self.dataset not in DATA_SETS:
            known = ", ".join(DATA_SETS)
            raise ValueError(
                f"the columns of {self.dataset!r} are not known.{nearest(self.dataset, DATA_SETS)} Known: {known}; "
                "others go into a file: `pool`"
            )
        for name in self.ood:
            if name in PARTS:
                raise ValueError(f"ood: the name {name!r} is one of the pool's own parts")
            if not re.fullmatch(NAME, name):
                raise ValueError(f"ood: {name!r} names files; take letters, digits, '.', '_' and '-'")
        return self


class EmbeddedPool(Part):
    """The embedded task: a third of the pool (of classes: a quarter) is easier; the hardest are beyond it."""

    terms: int = Field(5, ge=4, le=6)
    pool: int = Field(12_000, ge=40)  # questions that are not the hardest
    hardest: int = Field(1000, ge=0)
    weak_pretraining: int = Field(0, ge=0)  # steps; 0: random weights
    strong_pretraining: int = Field(300, ge=1)


class Merging(Part):
    """The same experts merged in weight space, by `expo merge`, one row each."""

    methods: tuple[Literal["linear", "ties"], ...] = ("linear", "ties")
    density: float = Field(0.5, gt=0, le=1)  # of ties


class BoostRun(Asked):
    """What `expo w2s boost` needs."""

    kind: Kind
    weak: str = ""
    labels: tuple[str, ...] = ("0", "1")  # names of the classes, in their order
    boost: Boost = Boost()
    expert: Mapping[str, Any] = Field(default_factory=dict)  # the experts' training

    @field_validator("labels", mode="before")
    @classmethod
    def _names(cls, found: Any) -> Any:
        return [str(one) for one in found] if isinstance(found, list) else found

    @model_validator(mode="after")
    def _trainer(self) -> "BoostRun":
        check_trainer(self.settings_kind(), self.expert, "expert")
        if self.kind == "classification" and (len(self.labels) < 2 or len(set(self.labels)) < len(self.labels)):
            raise ValueError("`labels` needs the names of at least two different classes")
        if self.kind == "generation" and self.boost.combine == "discrete":
            raise ValueError("`combine: discrete` counts votes for classes; tokens are joined by their probabilities")
        if self.boost.prior == "binary" and self.kind == "classification" and len(self.labels) > 2:
            raise ValueError(f"`prior: binary` is for two classes; there are {len(self.labels)}: take samme")
        if self.boost.prior == "pretrained" and self.kind == "classification":
            raise ValueError("`prior: pretrained` needs a model that answers before it is trained; a new head does not")
        if self.expert.get("too_long") == "truncate" and self.kind == "generation":
            raise Misplaced(("expert", "too_long"), "cut answers cannot be weighted token by token; use error or drop")
        return self

    def settings_kind(self) -> Any:
        """The trainer's settings for this kind of task."""
        from expo.train import ClassifySettings, SftSettings

        return ClassifySettings if self.kind == "classification" else SftSettings

    def trainer(self, asked: Mapping[str, Any], **more: Any) -> Any:
        """Settings of one training."""
        found: dict[str, Any] = {"seed": self.seed, "bad_rows": "drop"} | dict(asked) | more
        found |= {"labels": self.labels} if self.kind == "classification" else {}
        return self.settings_kind().of(found | ({"device": "cpu"} if self.device == "cpu" else {}))

    @property
    def prior(self) -> str | float:
        """The prior that counts."""
        return self.boost.prior or ("binary" if self.kind == "classification" and len(self.labels) == 2 else
                                    "samme" if self.kind == "classification" else "pretrained")  # fmt: skip


class EnsembleRun(BoostRun):
    """All settings of one run of EnsemW2S."""

    shelf: ClassVar[tuple[str, ...]] = ("ensemble",)
    data: Source | None = None
    embedded: EmbeddedPool | None = None
    strong: str = ""
    difficulty: Difficulty = Difficulty()
    split: Split = Split()
    student: Mapping[str, Any] = Field(default_factory=dict)  # the student's, the naive student's and the ceiling's
    ceiling: bool = True
    merging: Merging | None = Merging()

    @model_validator(mode="after")
    def _whole(self) -> "EnsembleRun":
        if (self.data is None) == (self.embedded is None):
            raise ValueError("give either `data` or `embedded`")
        for name in ("weak", "strong"):
            if self.data and not getattr(self, name):
                raise ValueError(f"`{name}` names no model")
        if self.data and self.data.dataset and DATA_SETS[self.data.dataset].kind != self.kind:
            raise ValueError(f"{self.data.dataset} is converted for {DATA_SETS[self.data.dataset].kind}")
        check_trainer(self.settings_kind(), self.student, "student")
        return self
