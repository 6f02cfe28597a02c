"""Shipped recipes beside what their authors published: computed again with their arithmetic, nothing written."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from expo.analysis.against import against
from expo.analysis.beside import Against
from expo.checkpoint import open_checkpoint
from expo.errors import ExpoError, RecipeError
from expo.planning import plan
from expo.recipe import read_recipe

_PUBLISHED = re.compile(r"^#\s*published:\s*(\S+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Audited:
    """One recipe and what came of comparing it."""

    name: str
    published: str
    found: Against | None = None
    error: str | None = None

    def record(self) -> dict[str, Any]:
        """One line of the table as plain data, without the single tensors."""
        figures = {key: value for key, value in self.found.record().items() if key != "tensors"} if self.found else {}
        return {"recipe": self.name, "published": self.published, "error": self.error, **figures}


def published_of(text: str) -> str | None:
    """The repository that a recipe's header names: `# published: org/name[@revision]`."""
    found = _PUBLISHED.search(text)
    return found and found[1]


def audit(
    name: str,
    text: str,
    *,
    stream: bool = True,
    threads: int | None = None,
    max_header: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Audited:
    """Compute a recipe again, and compare it with the repository that its header names; a failure is a finding.

    text: the recipe; extrapolations repeat the ExPO authors' roundings. stream: read by ranges.
    """
    published = published_of(text)
    if published is None:
        return Audited(name, "", error="its header names no repository (`# published: ORG/NAME`).")
    try:
        stages = read_recipe(text).stages
        if len(stages) > 1:
            raise RecipeError("it has several stages; an audit takes one.")
        recipe = replace(stages[0].recipe, stream=stream)
        if recipe.method == "extrapolate":
            recipe = replace(recipe, arithmetic="reference")
        recipe = replace(recipe, max_header=max_header or recipe.max_header)
        theirs = open_checkpoint(published, max_header=recipe.max_header, stream=stream)
        return Audited(name, published, against(plan(recipe), theirs, threads=threads, progress=progress))
    except ExpoError as error:
        return Audited(name, published, error=str(error))
