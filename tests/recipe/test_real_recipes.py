"""Recipes that people have published run as they are; the broken ones say what is wrong, and where."""

import os
import re
from pathlib import Path

import pytest
from fake_methods import register_missing

from expo.errors import RecipeError
from expo.recipe import read_recipe

HOME = Path(os.environ.get("EXPO_SHARED_DATA") or Path(__file__).parents[2].parent / "shared" / "data") / "recipes"
FILES = sorted(HOME.glob("*.yaml"))
LIKE = {
    "linear": "mean",
    "slerp": "step",
    "nearswap": "step",
    "arcee_fusion": "step",
    "passthrough": "copy",
    "task_arithmetic": "ties",
    "ties": "ties",
    "dare_linear": "ties",
    "dare_ties": "ties",
    "della": "ties",
    "della_linear": "ties",
    "sce": "ties",
}
BROKEN = {
    "average-9ddc967849": "2:15: no merge method is called 'average'. Where a plugin registers it: --plugin MODULE. For the average of models: linear",  # noqa: E501
    "linear-5a2756dd20": "2:1: it names no models",
    "task_arithmetic-16942d5a40": "2:1: it names no models",
    "slerp-1c6de908d8": "recipe gives 2 (m0, m1)",
}
# What stand-ins do not take; the true methods have these parameters.
OF_METHODS = ("epsilon", "select_topk", "normalize", "needs weight", "needs t:")


@pytest.mark.skipif(not FILES, reason="the shared recipes are not here (EXPO_SHARED_DATA)")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_published_recipe_is_read_or_says_what_is_wrong(file):
    register_missing(LIKE)
    try:
        (found,) = read_recipe(file)
    except RecipeError as error:
        problems = [str(problem) for problem in getattr(error, "problems", [error])]
        assert all(str(problem).startswith(f"{file}:") for problem in problems), problems
        wanted = BROKEN.get(file.stem)
        assert any(wanted in p for p in problems) if wanted else all(_of_method(p) for p in problems), problems
        return
    assert file.stem not in BROKEN
    _, recipe = found
    said = file.read_text()
    in_slices = [source.model for part in recipe.parts[0].slices for source in part.sources]
    assert set(re.findall(r"- model: (\S+)", said)) <= set(in_slices) <= set(recipe.models)
    assert all(f"model: {text}\n" in said for text in recipe.models.values())


def _of_method(problem: str) -> bool:
    return any(word in problem for word in OF_METHODS)
