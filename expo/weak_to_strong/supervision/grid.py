"""A supervision study as stages: where supervision comes from, corrupted sets, and for each cell rows, student, tests.

Every seed has folders of its own; what no seed changes lies in shared/. A killed study goes on in the cell it was in.
Source: He, Yin, Peng, "Guiding Through Complexity", arXiv:2410.20533.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from expo.weak_to_strong.errors import RunFileError
from expo.weak_to_strong.labels import answering_settings
from expo.weak_to_strong.named import missing_files, missing_models, unknown_scoring
from expo.weak_to_strong.stages import Input, Of, Stage
from expo.weak_to_strong.supervision import actions
from expo.weak_to_strong.supervision.cells import WEAKER, Cell, cells_of, set_name
from expo.weak_to_strong.supervision.mix import PARAPHRASE
from expo.weak_to_strong.supervision.runfile import SupervisionFile
from expo.weak_to_strong.tuning import MODEL

SHARED = "shared"


def build(run: SupervisionFile) -> list[Stage]:
    """All stages of a study, each after those that it depends on."""
    return Study(run).stages_of_all_seeds()


def check(run: SupervisionFile) -> None:
    """Raise RunFileError with all that would stop a study in its middle."""
    files = [*run.tests.values(), *([run.first.data] if run.first else [])]
    if run.data:
        told = run.data
        files += [told.tasks, told.subtasks, told.paraphrases, *told.samples.values(), *told.subtask_samples.values()]
    problems = unknown_scoring(run.extraction, run.equivalence) + missing_files(files)
    if run.released and run.first and not Path(run.first.data).exists():
        problems.append(f"To make the first stage's data: expo w2s data easy-math -o {Path(run.first.data).parent}.")
    problems += missing_models([run.base])
    problems += _shortages(run) if run.embedded else _lacking(run)
    if problems:
        raise RunFileError("\n".join(problems))


def _shortages(run: SupervisionFile) -> list[str]:
    from expo import toy

    task = run.embedded
    asked = {"tasks": (task.tasks, "train"), "test": (task.test, "test")}
    found = {name: toy.available(task.terms, split) for name, (_, split) in asked.items()}
    return [
        f"embedded.{name}: {count:,} questions of {task.terms} numbers; there are {found[name]:,}."
        for name, (count, _) in asked.items()
        if count > found[name]
    ]


def _lacking(run: SupervisionFile) -> list[str]:
    """Cells for which there is nothing to build them of."""
    grid, told, problems = run.grid, run.data, []
    if not told:
        lacks = grid.paraphrase and not run.released.paraphrase
        return ["grid.paraphrase needs `released.paraphrase`, where the paraphrases lie."] if lacks else []
    if (grid.subtask or grid.mixed.subtask) and not (told.subtask_samples or run.teacher):
        problems.append("grid: subtask cells need `data.subtask_samples`, or a `teacher`.")
    if grid.paraphrase and not told.paraphrases:
        problems.append("grid.paraphrase needs `data.paraphrases`.")
    if told.subtask_samples and not told.subtasks:
        problems.append("data.subtask_samples need `data.subtasks`, which say what they answer.")
    return problems


class Study:
    """The stages of one study, collected in order; and which cells there are."""

    def __init__(self, run: SupervisionFile):
        self.run = run
        self.stages: list[Stage] = []
        self.cells = cells_of(run.grid, self._teachers())
        self.tested: dict[str, dict[str, dict[str, str]]] = {}  # seed -> cell -> test -> stage

    def stages_of_all_seeds(self) -> list[Stage]:
        """The sources, then seed by seed the sets and every cell, then the report."""
        source = None if self.run.embedded else self._shared()
        base = self._first() if self.run.first else self.run.base
        for seed in self.run.seeds:
            self._seed(self.run.seeded(seed), source, base)
        self._report()
        return self.stages

    def _teachers(self) -> tuple[str, ...]:
        run = self.run
        if run.embedded:
            names = tuple(one.name for one in run.embedded.teachers)
        elif run.released:
            names = (run.released.teacher, *run.released.weaker)
        else:
            names = tuple(run.data.samples) or (run.teacher.model,)
        main = run.grid.teacher or names[0]
        return (main, *(name for name in names if name != main))

    # --- Where supervision comes from ---

    def _of_embedded(self, run: SupervisionFile) -> dict[str, Input]:
        at, told = f"seed-{run.seed}", run.embedded.model_dump(mode="json")
        made = {name: told[name] for name in ("terms", "easy", "tasks", "test", "pretraining")} | {"seed": run.seed}
        self._add(f"{at}/prepare", "prepare", partial(actions.prepare_stage, run), {}, made)
        tasks = Of(f"{at}/prepare", "tasks.jsonl")
        self._add(
            f"{at}/decompose", "decompose", partial(actions.decompose_stage, run), {"tasks": tasks},
            run.lengths.model_dump(mode="json", exclude={"tokenizer"}),
        )  # fmt: skip
        subtasks = Of(f"{at}/decompose", "subtasks.jsonl")
        both = {"tasks": tasks, "subtasks": subtasks}
        slips = {"teachers": told["teachers"], "error": told["error"], "seed": run.seed}
        self._add(f"{at}/samples", "samples", partial(actions.slips_stage, run), both, slips)
        samples = {f"{name} samples": Of(f"{at}/samples", f"{name}.jsonl") for name in ("hard", "subtask")}
        self._add(f"{at}/judge", "judge", partial(actions.embedded_judge_stage, run), both | samples, self._scoring())
        files = {name: Of(f"{at}/judge", f"{name}.jsonl") for name in ("hard", "subtask", "paraphrases")}
        return files | {"tasks": tasks, "base": Of(f"{at}/prepare", "base"), "test": Of(f"{at}/prepare", "test.jsonl")}

    def _shared(self) -> dict[str, Input]:
        return self._of_released() if self.run.released else self._of_files()

    def _of_released(self) -> dict[str, Input]:
        told = self.run.released
        at = f"{SHARED}/source"
        inputs = {"source": Path(told.source)} if Path(told.source).is_dir() else {}
        settings = told.model_dump(mode="json") | self._scoring()
        self._add(at, "source", partial(actions.released_stage, self.run), inputs, settings)
        names = ("tasks", "hard", "subtask", *(["paraphrases"] if told.paraphrase else []))
        tests = {f"test {name}": Of(at, f"tests/{name}.jsonl") for name in told.tests}
        return {name: Of(at, f"{name}.jsonl") for name in names} | tests

    def _of_files(self) -> dict[str, Input]:
        told, wants = self.run.data, bool(self.run.grid.subtask or self.run.grid.mixed.subtask)
        tasks: Input = Path(told.tasks)
        found: dict[str, Input] = {"tasks": tasks, "hard": self._judged("hard", tasks, told.samples)}
        if wants:
            subtasks: Input = Path(told.subtasks) if told.subtasks else self._decomposed(tasks)
            found["subtask"] = self._judged("subtask", subtasks, told.subtask_samples)
        if told.paraphrases:
            found["paraphrases"] = Path(told.paraphrases)
        return found

    def _decomposed(self, tasks: Input) -> Of:
        settings = {"teacher": self._teacher(), **self.run.lengths.model_dump(mode="json")}
        make = partial(actions.decompose_stage, self.run)
        self._add(f"{SHARED}/decompose", "decompose", make, {"tasks": tasks}, settings)
        return Of(f"{SHARED}/decompose", "subtasks.jsonl")

    def _judged(self, part: str, tasks: Input, samples: Mapping[str, str]) -> Of:
        files: dict[str, Input] = {name: Path(path) for name, path in samples.items()}
        if not files:
            at, name = f"{SHARED}/sample_{part}", self.run.teacher.model
            asked = {"samples": self.run.teacher.samples, "seed": self.run.seeds[0], **self._teacher(drawn=True)}
            self._add(at, "sample", partial(actions.sample_stage, self.run), {"tasks": tasks}, asked)
            files = {name: Of(at, "samples.jsonl")}
        at = f"{SHARED}/judge_{part}"
        settings = self._scoring() | {"teacher": self._teacher() if self.run.grid.steps else None}
        make = partial(actions.judge_stage, self.run, tuple(files))
        self._add(at, "judge", make, {"tasks": tasks, **{f"samples {n}": p for n, p in files.items()}}, settings)
        return Of(at, "judged.jsonl")

    def _teacher(self, *, drawn: bool = False) -> dict[str, Any] | None:
        """What of the teacher's settings changes a stage: where it is served does not, nor patience what is drawn."""
        left_out = {"endpoint", "samples"} | ({"attempts", "most_failed", "votes"} if drawn else set())
        left_out |= {"price_prompt", "price_answer"} if drawn else set()
        return self.run.teacher and self.run.teacher.model_dump(mode="json", exclude=left_out)

    def _first(self) -> Of:
        at, told = f"{SHARED}/first", self.run.first
        run = self.run.seeded(self.run.seeds[0])
        inputs = {"model": self.run.base, "rows": Path(told.data)}
        settings = {"seed": run.seed, "space": run.space, **told.sft}
        self._add(at, "first", partial(actions.sft_stage, run, told.sft), inputs, settings)
        return Of(at, MODEL)

    # --- Sets and cells ---

    def _seed(self, run: SupervisionFile, source: Mapping[str, Input] | None, base: Input) -> None:
        at = f"seed-{run.seed}"
        found = source or self._of_embedded(run)
        base = found.get("base", base)
        tests = {name: Path(path) for name, path in run.tests.items()}
        tests |= {name.removeprefix("test "): item for name, item in found.items() if name.startswith("test")}
        parts = {name: found[name] for name in ("hard", "subtask") if name in found}
        told = run.grid.model_dump(mode="json", exclude={"equal", "size"}) | {"seed": run.seed}
        told["cells"] = [cell.name for cell in self.cells]
        self._add(f"{at}/sets", "sets", partial(actions.sets_stage, run, self.cells), parts, told)
        for cell in self.cells:
            rows = self._rows(run, cell, found)
            student = self._student(run, f"{at}/{cell.name}", base, rows)
            for name, questions in tests.items():
                self._test(run, cell, name, questions, student)

    def _rows(self, run: SupervisionFile, cell: Cell, found: Mapping[str, Input]) -> Of:
        at, sets = f"seed-{run.seed}", f"seed-{run.seed}/sets"
        inputs: dict[str, Input] = {"tasks": found["tasks"]}
        if cell.kind == WEAKER:
            inputs["hard"] = Of(sets, f"{cell.name}.jsonl")
        if cell.hard is not None:
            inputs["hard"] = Of(sets, f"{set_name('hard', cell.hard, cell.steps)}.jsonl")
        if cell.subtask is not None:
            inputs["subtask"] = Of(sets, f"{set_name('subtask', cell.subtask)}.jsonl")
        if cell.kind == PARAPHRASE:
            inputs["paraphrase"] = found["paraphrases"]
        told = {"kind": cell.kind, "equal": run.grid.equal, "size": run.grid.size, "seed": run.seed}
        if run.grid.equal == "tokens":
            told["tokenizer"] = run.lengths.tokenizer
        self._add(f"{at}/{cell.name}/rows", "rows", partial(actions.rows_stage, run, cell), inputs, told)
        return Of(f"{at}/{cell.name}/rows", "rows.jsonl")

    def _student(self, run: SupervisionFile, at: str, base: Input, rows: Input) -> Of:
        told = {"seed": run.seed, "space": run.space, **run.sft}
        make = partial(actions.sft_stage, run, run.sft)
        self._add(f"{at}/student", "student", make, {"model": base, "rows": rows}, told)
        return Of(f"{at}/student", MODEL)

    def _test(self, run: SupervisionFile, cell: Cell, name: str, questions: Input, student: Of) -> None:
        stage = f"seed-{run.seed}/{cell.name}/test_{name}"
        inputs = {"questions": questions, "model": student}
        make = partial(actions.label_stage, run, drawn=True)
        self._add(stage, "test", make, inputs, answering_settings(run, drawn=True))
        self.tested.setdefault(str(run.seed), {}).setdefault(cell.name, {})[name] = stage

    def _report(self) -> None:
        from expo.weak_to_strong.supervision.report import report_stage

        wanted = ("test", "rows", "sets", "judge", "source", "decompose", "sample", "prepare")
        inputs: dict[str, Input] = {stage.name: Of(stage.name) for stage in self.stages if stage.kind in wanted}
        told = {"name": self.run.name, "tested": self.tested, "cells": [cell._asdict() for cell in self.cells]}
        make = partial(report_stage, self.run, self.cells, self.tested)
        self._add("report", "report", make, inputs, told)

    def _add(self, name: str, kind: str, make: Callable, inputs: Mapping[str, Input], settings: Mapping[str, Any]):
        self.stages.append(Stage(name, make, dict(inputs), dict(settings), kind))

    def _scoring(self) -> dict[str, Any]:
        return {"extraction": self.run.extraction, "equivalence": self.run.equivalence}
