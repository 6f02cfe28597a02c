"""EnsemW2S as stages: pool, split, rounds of experts, their labels, the student beside a naive one and a ceiling.

Source: Agrawal et al., "EnsemW2S", arXiv:2410.04571. Its published code has the binary form only; for the generative
form, the guards, the choice of the round on validation and the merged experts see docs/ensemw2s.md: they are ours.
"""

import contextlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from expo.weak_to_strong import ensemble_stages as stages_of
from expo.weak_to_strong.boosting import PRIORS
from expo.weak_to_strong.ensemble_run import Boost, BoostRun, EnsembleRun
from expo.weak_to_strong.errors import RunFileError
from expo.weak_to_strong.labels import answering_settings
from expo.weak_to_strong.named import missing_files, missing_models, unknown_scoring
from expo.weak_to_strong.pool import POOL
from expo.weak_to_strong.runfile import set_key, validated
from expo.weak_to_strong.stages import Input, Of, Stage

DATA, SPLIT = "data", "split"
CHOSEN = "ensemble"
OWN = ("easy", "hard", "hardest")  # the pool's own tests


def build(run: EnsembleRun) -> list[Stage]:
    """All stages of a run, each after those that it depends on."""
    return Pipeline(run).whole()


def build_boosting(run: BoostRun, train: Path, validation: Path) -> list[Stage]:
    """The rounds alone, on a file of easy questions; the round is chosen on another."""
    pipeline = Pipeline(run)
    told = {"kind": run.kind, "labels": list(run.labels), "extraction": run.extraction}
    files = {"train": train, "validation": validation}
    pipeline.add(DATA, partial(stages_of.given_stage, run), files, told)
    pipeline.boosting(run.weak, Of(DATA, "train.jsonl"), Of(DATA, "validation.jsonl"), {})
    return pipeline.stages


def boost_run(model: str, options: Mapping[str, Any], changes: Mapping[str, str]) -> BoostRun:
    """A run of the rounds alone. Raises RunFileError.

    options: kind, seed, labels, and fields of Boost; changes: dotted keys with YAML values.
    """
    told = {name: value for name, value in options.items() if name in Boost.model_fields and value is not None}
    if isinstance(told.get("prior"), str) and told["prior"] not in PRIORS:
        with contextlib.suppress(ValueError):
            told["prior"] = float(told["prior"])
    found: dict[str, Any] = {"name": "boost", "kind": options["kind"], "seed": options["seed"], "weak": model}
    found |= {"boost": told, "labels": options["labels"].split(",")} if options["labels"] else {"boost": told}
    for key, text in changes.items():
        set_key(found, key, text)
    run = validated(found, BoostRun, Path("options"), {}, changes)
    _check_names(run, [])
    return run


def check(run: EnsembleRun) -> None:
    """Raise RunFileError with all that would stop a run in its middle: absent files and models, unknown names."""
    files = [run.difficulty.file, *([run.data.pool, *run.data.ood.values()] if run.data else [])]
    _check_names(run, [path for path in files if path])


def _check_names(run: BoostRun, files: list[str]) -> None:
    problems = unknown_scoring(run.extraction, run.equivalence) + missing_files(files)
    problems += missing_models((run.weak, getattr(run, "strong", "")))
    if problems:
        raise RunFileError("\n".join(problems))


class Pipeline:
    """The stages of one run, collected in order."""

    def __init__(self, run: BoostRun):
        self.run = run
        self.stages: list[Stage] = []
        self.tested: dict[str, dict[str, str]] = {}  # part -> title -> folder of a test

    # --- The whole ---

    def whole(self) -> list[Stage]:
        """Everything that `expo w2s ensemble` does."""
        run = self.run
        files = {"pool": Path(run.data.pool)} if run.data and run.data.pool else {}
        files |= {name: Path(path) for name, path in run.data.ood.items()} if run.data else {}
        told = {"kind": run.kind, "labels": list(run.labels), "extraction": run.extraction, "seed": run.seed}
        told |= {"dataset": run.data.dataset} if run.data else run.embedded.model_dump()
        self.add(DATA, partial(stages_of.data_stage, run), files, told)
        self._split()
        tests = self._tests()
        self.boosting(self.weak, Of(SPLIT, "train.jsonl"), Of(SPLIT, "validation.jsonl"), tests)
        self._merged(tests)
        self._students(tests)
        self._report(tests)
        return self.stages

    def _split(self) -> None:
        run = self.run
        asked = run.difficulty.model_dump(exclude={"file"})
        inputs: dict[str, Input] = {"pool": Of(DATA, POOL)}
        inputs |= {"file": Path(run.difficulty.file)} if run.difficulty.by == "file" else {}
        if run.difficulty.by == "experts":
            inputs["model"] = self.weak
            asked |= {"expert": dict(run.expert)} | self._form()
        self.add("difficulty", partial(stages_of.difficulty_stage, run), inputs, asked | {"seed": run.seed})
        rated = {"pool": Of(DATA, POOL), "difficulty": Of("difficulty", "difficulty.jsonl")}
        told = run.split.model_dump() | {"seed": run.seed, "kind": run.kind}
        self.add(SPLIT, partial(stages_of.split_stage, run), rated, told)

    def _tests(self) -> dict[str, Input]:
        """Part -> its questions."""
        found: dict[str, Input] = {name: Of(SPLIT, f"{name}.jsonl") for name in OWN}
        if not self.run.split.ood:
            del found["hardest"]
        return found | {name: Of(DATA, f"{name}.jsonl") for name in (self.run.data.ood if self.run.data else ())}

    # --- Boosting ---

    def boosting(self, model: Input, train: Input, validation: Input, tests: Mapping[str, Input]) -> None:
        """Rounds of an expert, its error and alpha, its own tests and the ensemble's; then the chosen ensemble."""
        run = self.run
        if run.prior == "pretrained":
            make = partial(stages_of.prior_stage, run)
            self.add("prior", make, {"model": model, "train": train}, {"expert": dict(run.expert)} | self._form())
        told: dict[str, Input] = {}
        for number in range(run.boost.rounds):
            told = self._round(number, model, train, {"validation": validation, **tests}, told)
        rounds = {f"round {number}": Of(f"round_{number}/tests") for number in range(run.boost.rounds)}
        self.add(CHOSEN, partial(stages_of.chosen_stage, run), rounds, {"chosen on": "validation"})

    def _round(
        self, number: int, model: Input, train: Input, parts: Mapping[str, Input], told: Mapping[str, Input]
    ) -> dict[str, Input]:
        """One round; `told` is what the rounds before made, and so is the result."""
        run, at = self.run, f"round_{number}"
        expert, weigh, tests = f"{at}/expert", f"{at}/weigh", f"{at}/tests"
        last = {"before": Of(f"round_{number - 1}/weigh"), "score": Of(f"round_{number - 1}/tests")} if number else {}
        settings = {"seed": run.seed, "space": run.space, "weighting": run.boost.weighting, **run.expert}
        make = partial(stages_of.expert_stage, run, number)
        self.add(expert, make, {"model": model, "train": train, **last}, settings | self._labels(), "expert")
        inputs = {"expert": Of(expert), "train": train, **({"before": last["before"]} if last else {})}
        if run.prior == "pretrained":
            inputs["prior"] = Of("prior")
        judged = {"prior": run.prior, "not_better": run.boost.not_better, "expert": dict(run.expert)}
        self.add(weigh, partial(stages_of.weigh_stage, run, number), inputs, judged | self._form(), "weigh")
        told = {**told, f"expert {number}": Of(expert)}
        inputs = {"weigh": Of(weigh), **told, **{f"test {name}": item for name, item in parts.items()}}
        inputs |= {f"tests {before}": Of(f"round_{before}/tests") for before in range(number)}
        settings = self._asking() | {"combine": run.boost.combine, "patience": run.boost.patience}
        self.add(tests, partial(stages_of.tests_stage, run, number, tuple(parts)), inputs, settings, "tests")
        return told

    # --- What the experts are for ---

    def _merged(self, tests: Mapping[str, Input]) -> None:
        run = self.run
        if not run.merging:
            return
        experts = {f"expert {n}": Of(f"round_{n}/expert") for n in range(run.boost.rounds)}
        for method in run.merging.methods:
            make = partial(stages_of.merged_stage, run, method)
            inputs = {"base": self.weak, "chosen": Of(CHOSEN), **experts}
            told = {"method": method, "density": run.merging.density, "seed": run.seed} | self._labels()
            self.add(f"merged_{method}/merge", make, inputs, told, "merge")
            self._test(
                f"all experts merged, {method}", f"merged_{method}", Of(f"merged_{method}/merge", "model"), tests
            )

    def _students(self, tests: Mapping[str, Input]) -> None:
        run = self.run
        hard = Of(SPLIT, "hard_train.jsonl")
        experts = {f"expert {n}": Of(f"round_{n}/expert") for n in range(run.boost.rounds)}
        for who, make in (("ensemble", stages_of.label_stage), ("single", stages_of.single_label_stage)):
            inputs = {"chosen": Of(CHOSEN), "questions": hard, **experts}
            told = self._asking() | {"combine": run.boost.combine}
            self.add(f"labels/{who}", partial(make, run), inputs, told, "label")
        self._student("naive", "naive student: one expert's labels", Of("labels/single", "labels.jsonl"), tests)
        self._student("student", "student: the ensemble's labels", Of("labels/ensemble", "labels.jsonl"), tests)
        if run.ceiling:
            self._student("ceiling", "ceiling: true labels", hard, tests)

    def _student(self, name: str, title: str, rows: Input, tests: Mapping[str, Input]) -> None:
        run = self.run
        told = {"seed": run.seed, "space": run.space, **run.student} | self._labels()
        make = partial(stages_of.student_stage, run)
        self.add(f"{name}/train", make, {"model": self.strong, "rows": rows}, told, "student")
        self._test(title, name, Of(f"{name}/train", "model"), tests)

    def _test(self, title: str, name: str, model: Input, tests: Mapping[str, Input]) -> None:
        make = partial(stages_of.test_stage, self.run, tuple(tests))
        inputs = {"model": model, **{f"test {part}": item for part, item in tests.items()}}
        self.add(f"{name}/tests", make, inputs, self._asking(), "test")
        for part in tests:
            self.tested.setdefault(part, {})[title] = f"{name}/tests"

    def _report(self, tests: Mapping[str, Input]) -> None:
        run = self.run
        inputs = {one.name: Of(one.name) for one in self.stages}
        told = {"name": run.name, "prior": run.prior, "tested": self.tested}
        make = partial(stages_of.report_stage, run, self.tested, tuple(tests))
        self.add("report", make, inputs, told)

    # --- Shared ---

    @property
    def weak(self) -> Input:
        """The model that experts are made from."""
        return Of(DATA, "weak_base") if getattr(self.run, "embedded", None) else self.run.weak

    @property
    def strong(self) -> Input:
        """The model that students are made from."""
        return Of(DATA, "strong_base") if getattr(self.run, "embedded", None) else self.run.strong

    def _labels(self) -> dict[str, Any]:
        return {"labels": list(self.run.labels)} if self.run.kind == "classification" else {}

    def _form(self) -> dict[str, Any]:
        return {"kind": self.run.kind, "space": self.run.space} | self._labels()

    def _asking(self) -> dict[str, Any]:
        return self._form() | (answering_settings(self.run) if self.run.kind == "generation" else {})

    def add(self, name: str, make: Any, inputs: Mapping[str, Input], settings: Mapping, kind: str = "") -> None:
        """One more stage."""
        self.stages.append(Stage(name, make, dict(inputs), dict(settings), kind))
