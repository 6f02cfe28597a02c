"""Every test here may use the fake methods."""

import pytest
from fake_methods import register_fakes, registry

from expo.errors import RecipeError, WrongRecipe
from expo.recipe import read_recipe


@pytest.fixture(autouse=True)
def fakes():
    with registry():
        register_fakes()
        yield


@pytest.fixture
def wrong():
    """The problems of a text, one string each; it must have some."""

    def check(text, *words, sets=()):
        with pytest.raises(RecipeError) as caught:
            read_recipe(text, sets)
        error = caught.value
        problems = [str(p) for p in error.problems] if isinstance(error, WrongRecipe) else [str(error)]
        for problem, word in zip(problems, words, strict=len(words) > 1):
            assert word in problem, problems
        return problems

    return check
