"""Weak-to-Strong Reasoning as stages: labels, selection, fine-tuning, iteration, samples, votes, pairs, preference.

Every weak model has a folder of its own; what does not depend on it (ceiling, the bare strong model) lies in shared/.
Source: Yang, Ma, Liu, "Weak-to-Strong Reasoning", arXiv:2407.13647, and its published code.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from expo.errors import nearest
from expo.weak_to_strong.errors import RunFileError
from expo.weak_to_strong.labels import ANSWERS, RESULTS
from expo.weak_to_strong.runfile import RunFile, Weak
from expo.weak_to_strong.stages import Input, Of, Stage
from expo.weak_to_strong.tuning import MODEL

SHARED = "shared"
PREPARE = f"{SHARED}/prepare"


def build(run: RunFile) -> list[Stage]:
    """All stages of a run, each after those that it depends on."""
    builder = Pipeline(run)
    return builder.evaluation() if run.pipeline == "evaluate" else builder.reasoning()


class Pipeline:
    """The stages of one run, collected in order; and, for the report, what was tested under which name."""

    def __init__(self, run: RunFile):
        self.run = run
        self.stages: list[Stage] = []
        self.tested: dict[str, dict[str, str]] = {}  # weak model, or shared -> name in the report -> stage

    # --- Whole pipelines ---

    def reasoning(self) -> list[Stage]:
        """For each weak model: its labels, the strong model's learning from them, and tests of everything."""
        run = self.run
        if run.embedded:
            self._add(PREPARE, "prepare", lambda folder, inputs: _prepare(run, folder), {}, run.embedded.model_dump())
        self._test(SHARED, "strong model as it comes", self.strong, "strong")
        if run.ceiling:
            settings = run.strong_sft
            ceiling = self._sft(f"{SHARED}/ceiling_sft", "ceiling_sft", self.strong, self.questions("train_2"), settings)
            self._test(SHARED, "ceiling", ceiling, "ceiling")
        for weak in run.weak:
            self._of_weak(weak)
        self._report()
        self._check_given()
        return self.stages

    def evaluation(self) -> list[Stage]:
        """Tests of the strong model as it comes and with each released adapter."""
        self._test(SHARED, "strong model as it comes", self.strong, "strong")
        for one in self.run.adapters:
            make = partial(_adapted, self.run, one.adapters)
            inputs = {"questions": self.questions("test"), "model": self.strong}
            inputs |= {f"adapter {number}": name for number, name in enumerate(one.adapters, 1)}
            self._add(f"{SHARED}/test_{one.name}", "test", make, inputs, self._asking())
            self.tested.setdefault(SHARED, {})[one.name] = f"{SHARED}/test_{one.name}"
        self._report()
        return self.stages

    # --- One weak model ---

    def _of_weak(self, weak: Weak) -> None:
        run, at = self.run, weak.name
        model: Input = Of(PREPARE, "weak_base") if run.embedded else weak.model
        if weak.sft:
            model = self._sft(f"{at}/weak_sft", "weak_sft", model, self.questions("train_1"), run.weak_sft)
        self._test(at, "weak floor", model, "weak")
        weak_labels = self._labels(f"{at}/weak_labels", "weak_labels", model)
        naive = self._sft(
            f"{at}/naive_sft", "naive_sft", self.strong, self._full(at, weak_labels), run.strong_sft
        )
        self._test(at, "naive: all weak labels", naive, "naive")
        demos = {"demos": Path(run.demos.file)} if run.demos.file else {"demos_from": weak_labels}
        icl_labels = self._labels(
            f"{at}/icl_labels", "icl_labels", self.strong, demos if run.demos.file or run.demos.shots else {}
        )
        plus = self._learn(at, weak_labels, icl_labels)
        self._prefer(at, plus, weak_labels)

    def _learn(self, at: str, weak_labels: Of, icl_labels: Of) -> Of:
        """Stage I: select, fine-tune, and again with the fine-tuned models' own answers; the last hybrid model."""
        run = self.run
        for iteration in range(1, run.iterations + 1):
            first = iteration == 1
            kind, select = ("strong_sft", "select") if first else ("iterate", f"iterate{iteration}_select")
            chosen = f"{at}/{select}"
            inputs = {"weak": weak_labels, "icl": icl_labels}
            self._add(chosen, "select" if first else kind, partial(_select, run), inputs, self._comparing())
            models = {}
            for name in run.sets:
                stage = f"{at}/{'strong_sft' if first else f'iterate{iteration}_sft'}_{name}"
                models[name] = self._sft(stage, kind, self.strong, Of(chosen, f"{name}.jsonl"), run.strong_sft)
                title = f"{name}, iteration {iteration}" if run.iterations > 1 else name
                self._test(at, title, models[name], stage.rsplit("/", 1)[-1])
            if iteration < run.iterations:
                weak_labels, icl_labels = (
                    self._labels(f"{at}/iterate{iteration + 1}_{name}_labels", "iterate", models[name])
                    for name in ("weak", "icl")
                )
        return models["hybrid"]

    def _prefer(self, at: str, plus: Of, weak_labels: Of) -> None:
        """Stage II: samples of the hybrid model, votes, pairs, preference training, and a step further."""
        run = self.run
        if not run.preference:
            return
        make = partial(_label, run, drawn=True)
        questions = {"questions": self.questions("train_2")}
        self._add(f"{at}/sample", "sample", make, {**questions, "model": plus}, self._asking(drawn=True))
        samples = {"samples": Of(f"{at}/sample", RESULTS)}
        self._add(f"{at}/vote", "vote", partial(_vote, run), samples, self._comparing())
        voted = {"weak": weak_labels, "votes": Of(f"{at}/vote", "votes.jsonl")}
        settings = self._comparing() | run.pairs.model_dump()
        self._add(f"{at}/pairs", "pairs", partial(_pairs, run), voted, settings)
        for loss, trained in run.preference.items():
            inputs = {"model": plus, "pairs": Of(f"{at}/pairs", "pairs.jsonl")}
            name = f"{at}/preference_{loss}"
            settings = {"loss": loss, "seed": run.seed, "space": run.space, **trained}
            self._add(name, "preference", partial(_preference, run, loss, trained), inputs, settings)
            self._test(at, f"hybrid + {loss.upper()}", Of(name, MODEL), f"preference_{loss}")
            if run.extrapolate:
                self._extrapolate(at, loss, plus, Of(name, MODEL))

    def _extrapolate(self, at: str, loss: str, plus: Of, preferred: Of) -> None:
        run = self.run
        inputs: dict[str, Input] = {"sft": plus, "preferred": preferred}
        settings: dict[str, Any] = {"alphas": list(run.extrapolate.alphas)}
        if len(run.extrapolate.alphas) > 1:
            inputs["validation"] = self.questions("validation")
            settings |= self._asking()
        name = f"{at}/extrapolate_{loss}"
        self._add(name, "extrapolate", partial(_extrapolate, run), inputs, settings)
        self._test(at, f"hybrid + {loss.upper()}, extrapolated", Of(name, MODEL), f"extrapolate_{loss}")

    # --- Single stages ---

    @property
    def strong(self) -> Input:
        """The strong model before anything was done to it."""
        return Of(PREPARE, "strong_base") if self.run.embedded else self.run.strong

    def questions(self, name: str) -> Input:
        """One of the run's files of questions."""
        if self.run.embedded:
            return Of(PREPARE, f"{name}.jsonl")
        return Path(getattr(self.run.data, name))

    def _add(self, name: str, kind: str, make: Callable, inputs: Mapping[str, Input], settings: Mapping) -> None:
        given = self.run.given.get(name)
        if given is not None:
            make = partial(_given, self.run)
            inputs = {"given": Path(given)} | {r: item for r, item in inputs.items() if r == "questions"}
            settings = {name: value for name, value in settings.items() if name in ("extraction", "equivalence", "mode")}
        self.stages.append(Stage(name, make, dict(inputs), dict(settings), kind))

    def _sft(self, name: str, kind: str, model: Input, rows: Input, settings: Mapping[str, Any]) -> Of:
        make = partial(_sft, self.run, settings)
        told = {"seed": self.run.seed, "space": self.run.space, **settings}
        self._add(name, kind, make, {"model": model, "rows": rows}, told)
        return Of(name, MODEL)

    def _labels(self, name: str, kind: str, model: Input, more: Mapping[str, Input] | None = None) -> Of:
        inputs = {"questions": self.questions("train_2"), "model": model, **(more or {})}
        settings = self._asking() | ({"shots": self.run.demos.shots} if more else {})
        self._add(name, kind, partial(_label, self.run), inputs, settings)
        return Of(name, RESULTS)

    def _full(self, at: str, weak_labels: Of) -> Of:
        self._add(f"{at}/full_weak", "select", _full, {"weak": weak_labels}, {})
        return Of(f"{at}/full_weak", "rows.jsonl")

    def _test(self, at: str, title: str, model: Input, name: str) -> None:
        stage = f"{at}/test_{name}"
        inputs = {"questions": self.questions("test"), "model": model}
        self._add(stage, "test", partial(_label, self.run), inputs, self._asking())
        self.tested.setdefault(at, {})[title] = stage

    def _report(self) -> None:
        inputs: dict[str, Input] = {stage.name: Of(stage.name) for stage in self.stages if stage.kind in REPORTED or stage.name in self.run.given}
        settings = {"name": self.run.name, "tested": self.tested, "mode": str(self.run.mode)}
        self._add("report", "report", partial(_report, self.run, self.tested), inputs, settings)

    def _check_given(self) -> None:
        known = [stage.name for stage in self.stages]
        for name in self.run.given:
            if name not in known:
                raise RunFileError(f"given: no stage is called {name!r}.{nearest(name, known)}")

    def _asking(self, *, drawn: bool = False) -> dict[str, Any]:
        from expo.weak_to_strong.labels import answering_settings

        return answering_settings(self.run, drawn=drawn)

    def _comparing(self) -> dict[str, Any]:
        return {"mode": str(self.run.mode), "equivalence": self.run.equivalence}


REPORTED = (
    "test", "weak_labels", "icl_labels", "select", "iterate", "sample", "vote", "pairs", "preference", "extrapolate",
)  # fmt: skip

# --- What the stages do ----------------------------------------------------------------------------------------------

Inputs = Mapping[str, Path]


def _prepare(run: RunFile, folder: Path) -> Mapping[str, Any]:
    from expo.weak_to_strong.running_sum import prepare

    return prepare(run, folder)


def _sft(run: RunFile, settings: Mapping, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
    from expo.weak_to_strong.tuning import fine_tune

    return fine_tune(run, settings, inputs["model"], inputs["rows"], folder)


def _label(run: RunFile, folder: Path, inputs: Inputs, *, drawn: bool = False) -> Mapping[str, Any]:
    from expo.weak_to_strong.labels import answer, choose_demos

    demos = inputs.get("demos")
    if "demos_from" in inputs:
        demos = folder / "demos.jsonl"
        choose_demos(inputs["demos_from"], demos, run.demos.shots, run.seed)
    return answer(run, inputs["model"], inputs["questions"], folder, demos=demos, drawn=drawn)


def _adapted(run: RunFile, adapters: tuple[str, ...], folder: Path, inputs: Inputs) -> Mapping[str, Any]:
    from expo.weak_to_strong.labels import answer
    from expo.weak_to_strong.tuning import adapted

    return answer(run, adapted(run.strong, adapters, run.device), inputs["questions"], folder)


def _given(run: RunFile, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
    """Answers or a checkpoint that were made elsewhere take a stage's place."""
    import shutil

    from expo.weak_to_strong.labels import finish

    given = inputs["given"]
    if given.is_dir():
        (folder / MODEL).unlink(missing_ok=True)
        (folder / MODEL).symlink_to(given.resolve())
        return {"given": str(given)}
    shutil.copyfile(given, folder / ANSWERS)
    return {"given": str(given)} | finish(run, folder / ANSWERS, inputs["questions"], folder / RESULTS)


def _full(folder: Path, inputs: Inputs) -> Mapping[str, Any]:
    from expo.weak_to_strong.select import full_weak

    return full_weak(inputs["weak"], folder / "rows.jsonl")


def _select(run: RunFile, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
    from expo.weak_to_strong.compare import Comparison
    from expo.weak_to_strong.select import select

    same = Comparison(run.equivalence, run.judge_seconds)
    return select(inputs["weak"], inputs["icl"], folder, mode=run.mode, same=same)


def _vote(run: RunFile, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
    from expo.weak_to_strong.compare import Comparison
    from expo.weak_to_strong.vote import vote_files

    same = Comparison(run.equivalence, run.judge_seconds)
    return vote_files([inputs["samples"]], folder / "votes.jsonl", mode=run.mode, same=same)


def _pairs(run: RunFile, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
    from expo.weak_to_strong.compare import Comparison
    from expo.weak_to_strong.pairs import Rule, pair_files

    rule = Rule(mode=run.mode, **run.pairs.model_dump())
    same = Comparison(run.equivalence, run.judge_seconds)
    return pair_files(inputs["weak"], inputs["votes"], folder / "pairs.jsonl", rule, same=same)


def _preference(run: RunFile, loss: str, settings: Mapping, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
    from expo.weak_to_strong.tuning import prefer

    return prefer(run, loss, settings, inputs["model"], inputs["pairs"], folder)


def _extrapolate(run: RunFile, folder: Path, inputs: Inputs) -> Mapping[str, Any]:
    from expo.weak_to_strong.tuning import extrapolate

    return extrapolate(run, inputs["sft"], inputs["preferred"], inputs.get("validation"), folder)


def _report(run: RunFile, tested: Mapping[str, Mapping[str, str]], folder: Path, inputs: Inputs) -> Mapping[str, Any]:
    from expo.weak_to_strong.report import write_report

    return write_report(run, tested, inputs, folder)
