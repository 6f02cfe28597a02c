"""What is searched: a recipe, and the things in it that vary. A point gives each of them a value."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from expo.checkpoint import Checkpoint, open_checkpoint
from expo.errors import RecipeError
from expo.planning import Plan, plan
from expo.recipe import Recipe, extrapolation, read_recipe
from expo.search.errors import BadValues, NothingVaries
from expo.search.public import last_part
from expo.search.values import MOST, Dimension, Value

ALPHA = "alpha"
Point = dict[str, Value]  # a dimension's path -> its value; {} is the baseline


@dataclass
class Space:
    """Recipes by point, planned from checkpoints that are opened once.

    source: a Recipe, of which `parameters.NAME` (or alpha) can vary; or a recipe's file or text, of which anything can
    that --set takes. sets: changes to that file. settings: fields of Recipe that count instead of the file's.
    """

    source: Recipe | str | Path
    dimensions: tuple[Dimension, ...]
    sets: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: dict[str, Checkpoint] = field(default_factory=dict, init=False)  # by what the recipe calls their place

    @classmethod
    def of_alphas(cls, sft: str, dpo: str, alphas: Dimension, **settings: Any) -> "Space":
        """DPO + alpha (DPO - SFT) at several alphas."""
        return cls(extrapolation(sft=sft, dpo=dpo, alpha=0.0, **settings), (alphas,))

    def __post_init__(self) -> None:
        paths = [dimension.path for dimension in self.dimensions]
        if twice := next((path for path in paths if paths.count(path) > 1), None):
            raise BadValues(f"{twice} varies twice. Name each path once.")
        if not paths:
            raise BadValues("nothing varies. Say what does: --vary parameters.weight=0:1:0.1.")

    @property
    def points(self) -> list[Point]:
        """Every combination of the values of lists and grids; raises BadValues for a range or for too many."""
        for dimension in self.dimensions:
            if dimension.is_range:
                raise BadValues(
                    f"{dimension.path}: a range from {dimension.low:g} to {dimension.high:g} has no values of its own. "
                    "Add a step, or draw from it: --sampler tpe."
                )
        n = 1
        for dimension in self.dimensions:
            n *= len(dimension.values)
        if n > MOST:
            raise BadValues(f"{n:,} combinations of values; at most {MOST:,} are tried. Draw some: --sampler tpe.")
        return list(self._combined([dimension.values for dimension in self.dimensions]))

    def _combined(self, values: Sequence[Sequence[Value]]) -> Iterator[Point]:
        paths = [dimension.path for dimension in self.dimensions]
        return (dict(zip(paths, chosen, strict=True)) for chosen in itertools.product(*values))

    def label(self, point: Point) -> str:
        """A point for people: alpha 0.3."""
        if not point:
            return "the baseline"
        return ", ".join(f"{short(path)} {shown(value)}" for path, value in point.items())

    def recipe_at(self, point: Point) -> Recipe:
        """The recipe with these values; raises RecipeError where they cannot be."""
        if isinstance(self.source, Recipe):
            names = {path.removeprefix("parameters."): path for path in point}
            for name, path in names.items():
                if "." in name or (path != ALPHA and path == name):
                    raise BadValues(f"{path} cannot vary in a Recipe; parameters.NAME can. Give the recipe as a file.")
            return self.source.with_parameters(**{name: point[path] for name, path in names.items()})
        asked = [f"{path}={value}" for path, value in point.items()]
        try:
            recipes = read_recipe(self.source, [*self.sets, *asked]).with_settings(**self.settings)
            return recipes.only
        except RecipeError as error:
            text = str(error)
            for one in asked:  # the user knows it by another name
                text = text.replace(f"--set {one}", f"--vary {one}")
            error.args = (text,)
            raise

    @property
    def baseline(self) -> Recipe:
        """The donor as it is: for an extrapolation alpha 0, which is the aligned model."""
        if isinstance(self.source, Recipe) and [d.path for d in self.dimensions] == [ALPHA]:
            return self.source.with_parameters(alpha=0.0)
        recipe = self.recipe_at(self.first)
        donor = {recipe.donor: recipe.models[recipe.donor]}
        exact = {"arithmetic": "exact", "dtype": recipe.output_dtype() and recipe.output_dtype().torch_name}
        plain = {"parameters": {}, "base": None, "modules": (), "tokenizer": None, "rename": ()}
        return replace(recipe, method="passthrough", models=donor, **plain, **exact)

    @property
    def first(self) -> Point:
        """One point of the space."""
        return {dimension.path: dimension.ends[0] for dimension in self.dimensions}

    @property
    def folders(self) -> list[str]:
        """Where the inputs are that were opened, adapters included."""
        sources = [checkpoint.source for checkpoint in self.inputs.values()]
        return [str(part.folder) for source in sources for part in (source, *source.adapters)]

    def plan_at(self, point: Point) -> Plan:
        """What a run of the recipe at a point would do, from headers alone; raises PlanError."""
        recipe = self.recipe_at(point) if point else self.baseline
        for text in recipe.models.values():
            if text not in self.inputs:
                self.inputs[text] = open_checkpoint(text, max_header=recipe.max_header)
        return plan(recipe, {name: self.inputs[text] for name, text in recipe.models.items()})

    def check(self) -> Plan:
        """Plan every value of every dimension once; the baseline's plan.

        Raises RecipeError or PlanError for a value that cannot be, NothingVaries where a dimension decides nothing.
        """
        first = self.first
        for dimension in self.dimensions:
            made = {_decides(self.plan_at({**first, dimension.path: value})) for value in dimension.ends}
            if len(made) < 2 and len(dimension.ends) > 1:
                raise NothingVaries(
                    f"{dimension.path} changes nothing: the recipe gives every tensor the same parameters whatever its "
                    "value. A narrower setting, such as a model's own, may take its place."
                )
        return self.plan_at({})


def short(path: str) -> str:
    """A path as a heading: parameters.weight is weight."""
    return path.removeprefix("parameters.")


def shown(value: Value) -> str:
    """A value for people."""
    return f"{value:g}" if isinstance(value, float) else last_part(str(value))


def _decides(planned: Plan) -> str:
    """All that decides what a plan's result holds, with the parameters as each tensor gets them."""
    recipe = planned.recipe
    how = {name: value for name, value in recipe.record().items() if name not in ("parameters", "modules")}
    jobs = [(job.name, job.shape, job.dtype.name, job.method, job.parameters) for job in planned.jobs]
    operands = [[(o.role, o.spec.name) for o in job.operands] for job in planned.jobs]
    return repr((how, recipe.models, jobs, operands))
