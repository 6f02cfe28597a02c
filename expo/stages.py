"""merge(recipe, output): run the stages of a recipe one after the other, each a run of its own that continues.

What a later stage reads lies in OUT.stages/NAME until the result is published. All stages are planned before the
first is run, from the headers that the earlier ones will have.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from expo.checkpoint import open_checkpoint
from expo.checkpoint.spec import Checkpoint
from expo.errors import ExpoError, OutputError, PlanError, RecipeError
from expo.output.folder import FolderSink
from expo.output.hub import HubTarget
from expo.planning import Plan, plan
from expo.planning.awaited import expected
from expo.planning.budget import disk_bytes
from expo.planning.complaints import Told
from expo.planning.identity import check_output, fingerprint, identity_of_stages, input_records
from expo.planning.on_the_hub import check_passage, check_room, checked_target
from expo.recipe import Recipe, Recipes, Stage, read_recipe

_RECORD = "stages.json"  # name of a finished stage -> the fingerprint of its run
# (stage, plan, output, overwrite, target) -> report
Runner = Callable[[Stage, Plan, Path | None, bool, HubTarget | None], Any]


def merge(
    recipe: str | Path | Recipe | Recipes,
    output: str | Path | None = None,
    *,
    sets: Sequence[str] = (),
    keep_stages: bool = False,
    overwrite: bool = False,
    push_to: str | HubTarget | None = None,
    **settings: Any,
) -> Any:
    """Run a recipe into the folder `output`, to the Hub, or to both; returns the Report, or one by each result's name.

    recipe: a YAML file, YAML text, or a Recipe. sets: changes such as "parameters.weight=0.4".
    keep_stages: leave what earlier stages made in OUTPUT.stages.
    push_to: "org/name", or an expo.HubTarget, of a recipe with one result. Without an output nothing is kept here.
    settings: fields of Recipe that count instead of the file's, and options of `expo.run` (threads, device, ...).
    Raises RecipeError, PlanError, OutputError, PushError or a DataError; the output appears whole or not at all.
    """
    from expo.stream import run

    of_recipe = {field.name for field in fields(Recipe)}
    asked = {name: value for name, value in settings.items() if name in of_recipe}
    options = {name: value for name, value in settings.items() if name not in of_recipe}
    if isinstance(recipe, Recipe):
        recipe = Recipes((Stage("final", recipe, {}),))
    elif not isinstance(recipe, Recipes):
        recipe = read_recipe(recipe, sets)
    target = checked_target(push_to, output, overwrite=overwrite)
    run_of = Run(recipe.with_settings(**asked), output and Path(output), overwrite, target)
    run_of.check()
    reports = run_of.run(
        lambda stage, planned, place, replaced, shown: run(planned, place, overwrite=replaced, target=shown, **options),
        keep_stages=keep_stages,
    )
    return next(iter(reports.values())) if len(reports) == 1 else reports


@dataclass
class Run:
    """The stages of one recipe on their way into one output."""

    recipes: Recipes
    output: Path | None
    overwrite: bool = False
    target: HubTarget | None = None  # on the Hub, checked; without an output the one result goes there alone

    def __post_init__(self) -> None:
        if self.target and len(self.recipes.results) > 1:
            names = ", ".join(stage.name for stage in self.recipes.results)
            raise RecipeError(f"the recipe has several results ({names}): merge into a folder, then push each of them.")
        self.passes = self.output is None
        if self.passes:
            self.output = self.target.place  # of its journal, and of the stages before it
        if not self.output.name:
            raise OutputError(f"{self.output} cannot be written as a folder. Choose another output.")
        self.between = self.output.with_name(self.output.name + ".stages")
        self.plans_of: dict[str, Plan] = {}  # the latest plan of each stage, in the order in which they run
        self.whole: str | None = None  # what all stages together are, where they pass to the Hub

    def folder(self, stage: Stage) -> Path:
        """Where a stage is written: OUT, or OUT/NAME where the recipe has several results, or OUT.stages/NAME."""
        results = self.recipes.results
        if stage not in results:
            return self.between / stage.name
        return self.output if len(results) == 1 else self.output / stage.name

    def is_passing(self, stage: Stage) -> bool:
        """Whether a stage's output goes to the Hub alone."""
        return self.passes and stage in self.recipes.results

    def plans(self) -> Iterator[tuple[Stage, Plan]]:
        """Every stage's plan, from what is there and what earlier stages will have made; raises PlanError.

        It ends before a stage that puts an adapter on one which is not made yet.
        """
        done, made = self._done(), {}
        for stage in self.recipes.stages:
            adapted = [used for model, used in stage.uses.items() if stage.recipe.models[model] != used]
            if any(not self._is_there(made[used]) for used in adapted):
                return
            planned = self._plan(stage, made)
            if done.get(stage.name) == fingerprint(planned) and self.folder(stage).is_dir():
                made[stage.name] = open_checkpoint(str(self.folder(stage)), max_header=stage.recipe.max_header)
            else:
                made[stage.name] = expected(planned, self.folder(stage))
            yield stage, planned

    def check(self) -> list[tuple[Stage, Plan]]:
        """The plans, when all that can be known to fail before anything runs is well.

        Raises PlanError, OutputError, TargetHolds or DiskFull.
        """
        planned = list(self.plans())
        results, done = self.recipes.results, self._done()
        for stage, stage_plan in planned:
            if self.is_passing(stage):
                check_passage(stage_plan, self.folder(stage))
            elif stage in results and done.get(stage.name) != fingerprint(stage_plan):
                check_output(stage_plan, FolderSink(self.folder(stage), overwrite=self.overwrite))
        if len(planned) > 1:
            self._check_room(planned)
        if self.target and planned[-1][0] in results:
            check_room(planned[-1][1], self.target)
        if self.passes and len(planned) == len(self.recipes.stages) > 1:
            self.whole = identity_of_stages([stage_plan for _, stage_plan in planned])
        return planned

    def run(self, run: Runner, *, keep_stages: bool = False) -> dict[str, Any]:
        """Run what is not done yet; the reports, by name, of the results that were not done."""
        from expo.stream.ranks import world  # loads torch
        from expo.stream.shown import note_result, shown_result

        first = world().first  # of several processes one decides and notes
        results, reports = self.recipes.results, {}
        if self.whole and (shown := shown_result(self.plans_of[results[0].name], self.target, self.whole)):
            return {results[0].name: shown}
        made: dict[str, Checkpoint] = {}
        for stage in self.recipes.stages:
            planned, folder = self._plan(stage, made), self.folder(stage)
            key = fingerprint(planned)
            if first(self._is_missing, stage, key, folder):
                place = None if self.is_passing(stage) else folder
                target = self.target if stage in results else None
                report = run(stage, planned, place, self.overwrite or stage not in results, target)
                first(self._note_done, stage.name, key)
                if stage in results:
                    reports[stage.name] = report
                    if self.whole:
                        note_result(self.target, self.whole, report)
            if stage not in results:
                made[stage.name] = open_checkpoint(str(folder), max_header=stage.recipe.max_header)
        first(self._tidy, keep_stages)
        return reports

    def _is_missing(self, stage: Stage, key: str, folder: Path) -> bool:
        return self._done().get(stage.name) != key or not folder.is_dir()

    def _tidy(self, keep_stages: bool) -> None:
        """Remove what lies between; with keep_stages only the note that the results are done."""
        if not (self.between / _RECORD).is_file():
            return
        if keep_stages:
            names = {stage.name for stage in self.recipes.results}
            self._write_done({name: key for name, key in self._done().items() if name not in names})
        else:
            shutil.rmtree(self.between)
            if self.passes:
                with suppress(OSError):  # not empty: another run's journal
                    self.target.place.parent.rmdir()

    @staticmethod
    def _is_there(checkpoint: Checkpoint) -> bool:
        return all(file.path.is_file() for file in checkpoint.files.values())

    def _plan(self, stage: Stage, made: Mapping[str, Checkpoint]) -> Plan:
        """The plan of one stage, whose inputs from other stages are `made`."""
        try:
            found = self._planned(stage, made)
        except PlanError as error:
            several = len(self.recipes.stages) > 1
            raise located(error, stage, f"stage {stage.name}: " if several else "") from None
        before = {name for used in stage.uses.values() for name in (*self.plans_of[used].stages, used)}
        earlier = {name: made_by(planned) for name, planned in self.plans_of.items() if name in before}
        self.plans_of[stage.name] = replace(
            found, uses=stage.uses, stages=earlier, warnings=tuple(_located(text, stage) for text in found.warnings)
        )
        return self.plans_of[stage.name]

    def _planned(self, stage: Stage, made: Mapping[str, Checkpoint]) -> Plan:
        recipe = stage.recipe
        texts = dict(recipe.models)
        for model, used in stage.uses.items():
            _, plus, adapters = recipe.models[model].partition("+")
            texts[model] = f"{self.between / used}{plus}{adapters}"
        recipe = replace(recipe, models=texts)
        inputs = {
            model: made[stage.uses[model]] if model in stage.uses and "+" not in text else _opened(stage, model, text)
            for model, text in texts.items()
        }
        return plan(recipe, inputs)

    def _check_room(self, planned: list[tuple[Stage, Plan]]) -> None:
        done, needed = self._done(), 0
        for stage, stage_plan in planned:
            if self.is_passing(stage):
                needed += disk_bytes(stage_plan, passes=True)
            elif done.get(stage.name) != fingerprint(stage_plan):
                needed += stage_plan.n_bytes_written
        there = next(parent for parent in self.between.absolute().parents if parent.exists())
        begun = sum(path.stat().st_blocks * 512 for path in self._begun() if path.is_file())
        free = shutil.disk_usage(there).free
        if needed - begun > free:
            raise PlanError(
                f"{there} has {free / 1e9:.2f} GB free, and the {len(planned)} stages need {needed / 1e9:.2f} GB "
                "together. Free some room, or choose another output."
            )

    def _begun(self) -> Iterator[Path]:
        for folder in (self.between, self.output.with_name(self.output.name + ".partial")):
            yield from folder.rglob("*.partial/files/*")
            yield from folder.glob("files/*")

    def _done(self) -> dict[str, str]:
        """Finished stages and what they were made by."""
        try:
            done = json.loads((self.between / _RECORD).read_text())
        except (OSError, ValueError):
            return {}
        return done if isinstance(done, dict) else {}

    def _note_done(self, name: str, key: str) -> None:
        if len(self.recipes.stages) > 1:
            self._write_done({**self._done(), name: key})

    def _write_done(self, done: Mapping[str, str]) -> None:
        self.between.mkdir(parents=True, exist_ok=True)
        new = self.between / (_RECORD + ".new")
        new.write_text(json.dumps(done, indent=1) + "\n")
        new.rename(self.between / _RECORD)


def _opened(stage: Stage, model: str, text: str) -> Checkpoint:
    """A model of a stage; an error says where the recipe names it."""
    try:
        return open_checkpoint(text, max_header=stage.recipe.max_header, stream=stage.recipe.stream)
    except ExpoError as error:
        if place := stage.place(("models", model)):
            error.args = (f"{place}: {error}",)
        raise


def _located(text: str, stage: Stage) -> str:
    """A sentence behind file, line and column of what it is about, where they are known."""
    place = stage.place(text.where) if isinstance(text, Told) and text.where else None
    return f"{place}: {text}" if place else text


def located(error: PlanError, stage: Stage, name: str = "") -> PlanError:
    """A plan's complaints with their places in the stage's file; the file alone where one has none."""
    top = stage.place(())
    if top is None:
        return error
    problems = [_located(text, stage) for text in error.problems]
    if len(problems) == 1 and problems != error.problems:
        return PlanError(problems)
    return PlanError(problems, f"{top.file}: {name}".removesuffix(": "))


def made_by(planned: Plan) -> dict[str, Any]:
    """How a stage is made, as the manifests of later ones say it."""
    return {"recipe": planned.recipe.record(), "inputs": input_records(planned)}
