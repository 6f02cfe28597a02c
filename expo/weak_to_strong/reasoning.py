"""Weak-to-Strong Reasoning as stages: labels, selection, fine-tuning, iteration, samples, votes, pairs, preference.

Every weak model has a folder of its own; what does not depend on it (ceiling, the bare strong model) lies in shared/.
Source: Yang, Ma, Liu, "Weak-to-Strong Reasoning", arXiv:2407.13647, and its published code.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from expo.errors import nearest
from expo.weak_to_strong import actions
from expo.weak_to_strong.errors import RunFileError
from expo.weak_to_strong.labels import RESULTS
from expo.weak_to_strong.named import missing_files, missing_models, unknown_scoring
from expo.weak_to_strong.questions import DATA_SETS
from expo.weak_to_strong.runfile import RunFile, Weak
from expo.weak_to_strong.stages import Input, Of, Stage
from expo.weak_to_strong.tuning import MODEL

SHARED = "shared"
PREPARE = f"{SHARED}/prepare"


def build(run: RunFile) -> list[Stage]:
    """All stages of a run, each after those that it depends on."""
    builder = Pipeline(run)
    return builder.evaluation() if run.pipeline == "evaluate" else builder.reasoning()


def check(run: RunFile) -> None:
    """Raise RunFileError with all that would stop a run in its middle: absent files, an unknown extraction or judge."""
    from expo.weak_to_strong.running_sum import shortages

    asked = run.data.model_dump().values() if run.data else ()
    files = [*asked, run.demos.file, *run.given.values()]
    missing = [path for path in files if path and not Path(path).exists()]
    models = [run.strong, *(one.model for one in run.weak), *(name for one in run.adapters for name in one.adapters)]
    problems = unknown_scoring(run.extraction, run.equivalence) + missing_files(missing) + missing_models(models)
    problems += shortages(run) if run.embedded else []
    if missing and run.name in DATA_SETS:
        problems.append(f"To make the questions: expo w2s data {run.name} -o {Path(missing[0]).parent}.")
    if problems:
        raise RunFileError("\n".join(problems))


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
            self._add(
                PREPARE,
                "prepare",
                partial(actions.prepare_stage, run),
                {},
                {"seed": run.seed, **run.embedded.model_dump()},
            )
        self._test(SHARED, "strong model as it comes", self.strong, "strong")
        if run.ceiling:
            settings = run.strong_sft
            ceiling = self._sft(
                f"{SHARED}/ceiling_sft", "ceiling_sft", self.strong, self.questions("train_2"), settings
            )
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
            make = partial(actions.adapted_stage, self.run, one.adapters)
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
        naive = self._sft(f"{at}/naive_sft", "naive_sft", self.strong, self._full(at, weak_labels), run.strong_sft)
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
            make = partial(actions.select_stage, run)
            self._add(chosen, "select" if first else kind, make, inputs, self._comparing())
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
        make = partial(actions.label_stage, run, drawn=True)
        questions = {"questions": self.questions("train_2")}
        self._add(f"{at}/sample", "sample", make, {**questions, "model": plus}, self._asking(drawn=True))
        samples = {"samples": Of(f"{at}/sample", RESULTS)}
        self._add(f"{at}/vote", "vote", partial(actions.vote_stage, run), samples, self._comparing())
        voted = {"weak": weak_labels, "votes": Of(f"{at}/vote", "votes.jsonl")}
        settings = self._comparing() | run.pairs.model_dump()
        self._add(f"{at}/pairs", "pairs", partial(actions.pairs_stage, run), voted, settings)
        for loss, trained in run.preference.items():
            inputs = {"model": plus, "pairs": Of(f"{at}/pairs", "pairs.jsonl")}
            name = f"{at}/preference_{loss}"
            settings = {"loss": loss, "seed": run.seed, "space": run.space, **trained}
            self._add(name, "preference", partial(actions.preference_stage, run, loss, trained), inputs, settings)
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
        self._add(name, "extrapolate", partial(actions.extrapolate_stage, run), inputs, settings)
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
            make = partial(actions.given_stage, self.run)
            inputs = {"given": Path(given)} | {r: item for r, item in inputs.items() if r == "questions"}
            settings = {
                name: value for name, value in settings.items() if name in ("extraction", "equivalence", "mode")
            }
        self.stages.append(Stage(name, make, dict(inputs), dict(settings), kind))

    def _sft(self, name: str, kind: str, model: Input, rows: Input, settings: Mapping[str, Any]) -> Of:
        make = partial(actions.sft_stage, self.run, settings)
        told = {"seed": self.run.seed, "space": self.run.space, **settings}
        self._add(name, kind, make, {"model": model, "rows": rows}, told)
        return Of(name, MODEL)

    def _labels(self, name: str, kind: str, model: Input, more: Mapping[str, Input] | None = None) -> Of:
        inputs = {"questions": self.questions("train_2"), "model": model, **(more or {})}
        settings = self._asking() | ({"shots": self.run.demos.shots} if more else {})
        self._add(name, kind, partial(actions.label_stage, self.run), inputs, settings)
        return Of(name, RESULTS)

    def _full(self, at: str, weak_labels: Of) -> Of:
        self._add(f"{at}/full_weak", "select", actions.full_stage, {"weak": weak_labels}, {})
        return Of(f"{at}/full_weak", "rows.jsonl")

    def _test(self, at: str, title: str, model: Input, name: str) -> None:
        stage = f"{at}/test_{name}"
        inputs = {"questions": self.questions("test"), "model": model}
        self._add(stage, "test", partial(actions.label_stage, self.run), inputs, self._asking())
        self.tested.setdefault(at, {})[title] = stage

    def _report(self) -> None:
        inputs: dict[str, Input] = {
            stage.name: Of(stage.name)
            for stage in self.stages
            if stage.kind in REPORTED or stage.name in self.run.given
        }
        settings = {"name": self.run.name, "tested": self.tested, "mode": str(self.run.mode)}
        self._add("report", "report", partial(actions.report_stage, self.run, self.tested), inputs, settings)

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
