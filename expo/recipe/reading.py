"""read_recipe: a recipe file, or its text -> Recipes in the order in which they must run. Reads nothing else."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from expo.errors import RecipeError, nearest
from expo.recipe.entries import Entries, Where
from expo.recipe.inputs import Inputs
from expo.recipe.recipe import Recipe
from expo.recipe.schema import read_document
from expo.recipe.sets import UNNAMED, apply_sets
from expo.recipe.yaml_text import MAX_BYTES, Node, Place, Problems, is_nothing, read_documents

_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,99}")
_OF_RESULTS = ("dtype", "shard_size")  # settings that say nothing about what is only passed on


@dataclass(frozen=True)
class Stage:
    """One recipe of a file, and which of its models other stages make."""

    name: str
    recipe: Recipe
    uses: dict[str, str]  # name of a model in the recipe -> the stage that makes it
    places: Mapping[Where, Place] = field(
        default_factory=dict, compare=False, repr=False
    )  # part -> where it is written

    def place(self, where: Where) -> Place | None:
        """Where a part of the recipe is written, or what is around it; None for a recipe that no file holds."""
        while where and where not in self.places:
            where = where[:-1]
        return self.places.get(where)


@dataclass(frozen=True)
class Recipes:
    """The stages of one file, each after those that it uses."""

    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[tuple[str, Recipe]]:
        return ((stage.name, stage.recipe) for stage in self.stages)

    @property
    def results(self) -> tuple[Stage, ...]:
        """The stages that no other uses."""
        used = {name for stage in self.stages for name in stage.uses.values()}
        return tuple(stage for stage in self.stages if stage.name not in used)

    @property
    def only(self) -> Recipe:
        """The recipe of a file that holds one; raises RecipeError for stages, which need a place between them."""
        if len(self.stages) > 1:
            names = ", ".join(stage.name for stage in self.stages)
            raise RecipeError(f"the recipe has {len(self.stages)} stages ({names}). Run it first: expo merge.")
        return self.stages[0].recipe

    def with_settings(self, **settings: Any) -> "Recipes":
        """The same with other fields of Recipe; dtype and shard_size count for results only."""
        results, stages = self.results, []
        for stage in self.stages:
            wanted = {k: v for k, v in settings.items() if stage in results or k not in _OF_RESULTS}
            stages.append(replace(stage, recipe=replace(stage.recipe, **wanted)))
        return replace(self, stages=tuple(stages))


def read_recipe(path_or_text: str | Path, sets: Sequence[str] = ()) -> Recipes:
    """The recipes of a YAML file, or of YAML text, in the order in which they must run.

    sets: changes such as "parameters.weight=0.4", as `expo merge --set` takes them.
    Raises RecipeError with everything that is wrong, each with file, line and column. Relative paths of models count
    from the current directory, as in mergekit.
    """
    documents = read_documents(*_content(path_or_text))
    file = "recipe" if _is_text(path_or_text) else str(path_or_text)
    if not documents:
        raise RecipeError(f"{file}: holds no recipe. `expo recipes ls` lists examples.")
    apply_sets(documents, sets)
    return _Stages(documents, file).read()


def _is_text(path_or_text: str | Path) -> bool:
    """YAML text holds a line break, or a key with its value."""
    return isinstance(path_or_text, str) and bool(re.search(r"[\n\r]|^\s*[\w\"']+:(\s|$)|^\s*\{", path_or_text))


def _content(path_or_text: str | Path) -> tuple[bytes | str, str]:
    """What to parse, and what problems call it."""
    if _is_text(path_or_text):
        return path_or_text, "recipe"
    path = Path(path_or_text)
    try:
        if path.is_dir():
            raise RecipeError(f"{path} is a folder. Name the recipe's file.")
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1), str(path_or_text)
    except FileNotFoundError:
        siblings = os.listdir(path.parent) if path.parent.is_dir() else []
        near = nearest(path.name, siblings)
        raise RecipeError(f"{path}: no such file.{near} `expo recipes ls` lists the shipped recipes.") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}.") from None


class _Stages:
    """The documents of one file, while they are put in order."""

    def __init__(self, documents: list[Node], file: str):
        self.documents, self.file = documents, file
        self.problems, self.notes = Problems(), []
        self.places: dict[str, Place] = {}  # name of a stage -> where it is given

    def read(self) -> Recipes:
        names = [self._name(node) for node in self.documents]
        unnamed = [node for node, name in zip(self.documents, names, strict=True) if name is None]
        if len(unnamed) > 1:
            text = "a second recipe without a name. Give each a `name:`, and use it as a model in the next; or split "
            self.problems.add(unnamed[1].place, text + "the file.")
        if unnamed and UNNAMED in names:
            self.problems.add(
                self.places[UNNAMED], f"the stage without a name is called {UNNAMED}: name this one else."
            )
        names = [name or UNNAMED for name in names]
        found = []
        for node, name in zip(self.documents, names, strict=True):
            entries = Entries(self.problems, self.notes)
            inputs = Inputs(entries)
            recipe = read_document(node, entries, inputs)
            models = {short: text.partition("+")[0] for text, short in inputs.names.items()}
            uses = {short: text for short, text in models.items() if text in self.places}
            found.append((name, recipe, uses, entries.places))
        ordered = self._ordered(found)
        self.problems.raise_any()
        return Recipes(tuple(Stage(*row) for row in ordered), tuple(self.notes))

    def _name(self, node: Node) -> str | None:
        given = node.content.get("name") if isinstance(node.content, dict) else None
        if is_nothing(given):
            return None
        name = given.content
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            self.problems.add(given.place, "a name holds letters, digits, dots, dashes and underscores only.")
            return f"stage {given.place}"
        if name in self.places:
            self.problems.add(given.place, f"two stages are named {name}, the first at {self.places[name]}.")
        self.places.setdefault(name, given.place)
        return name

    def _ordered(self, found: list[tuple]) -> list[tuple]:
        """Each stage after those that it uses, otherwise in the order of the file."""
        ordered, done, left = [], set(), list(found)
        while left:
            ready = next((row for row in left if set(row[2].values()) <= done), None)
            if ready is None:
                self._refuse_circle(left)
                return found
            left.remove(ready)
            ordered.append(ready)
            done.add(ready[0])
        return ordered

    def _refuse_circle(self, left: list[tuple]) -> None:
        waiting = {
            name: [used for used in uses.values() if used in {row[0] for row in left}] for name, _, uses, _ in left
        }
        path = [left[0][0]]
        while waiting[path[-1]][0] not in path:
            path.append(waiting[path[-1]][0])
        last = waiting[path[-1]][0]
        circle = [*path[path.index(last) :], last]
        text = f"stages feed each other in a circle: {' <- '.join(circle)}."
        self.problems.add(self.places.get(circle[0], Place(self.file)), text)
