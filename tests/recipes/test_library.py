"""Every shipped recipe says what it is and can be planned on models of the shape that it expects."""

from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from pico import LLAMA, llama_tensors, nudged, write_checkpoint

import expo
from expo.checkpoint import open_checkpoint
from expo.methods import METHODS
from expo.recipe import read_recipe

LIBRARY = Path(str(files("expo.merge_recipes")))
RECIPES = sorted(path.relative_to(LIBRARY).as_posix() for path in LIBRARY.rglob("*.yaml"))
N_LAYERS = 24  # as many as any shipped recipe picks from


@pytest.fixture(scope="module")
def standins(tmp_path_factory):
    """Small models to plan with: the first is the base of the others."""
    folder = tmp_path_factory.mktemp("standins")
    config = {**LLAMA, "num_hidden_layers": N_LAYERS}
    tensors = llama_tensors(config=config)
    write_checkpoint(folder / "m0", tensors, config=config)
    for i in range(1, 5):
        write_checkpoint(folder / f"m{i}", nudged(tensors, seed=i), config=config)
    return [open_checkpoint(folder / f"m{i}") for i in range(5)]


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_says_what_it_is_and_can_be_planned(name, standins):
    path = LIBRARY / name
    assert path.read_text().startswith("# ")
    recipes = read_recipe(path)
    for stage in recipes.stages:
        inputs = dict(zip(stage.recipe.models, standins, strict=False))
        assert len(expo.plan(stage.recipe, inputs).jobs) > N_LAYERS


@pytest.mark.parametrize("method", sorted(METHODS))
def test_each_method_has_an_example(method):
    assert yaml.safe_load((LIBRARY / "methods" / f"{method}.yaml").read_text())["merge_method"] == method


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("expo/")])
def test_the_published_recipes_name_sft_aligned_and_published_repositories(name):
    text = (LIBRARY / name).read_text()
    content = yaml.safe_load(text)
    assert content["merge_method"] == "extrapolate" and 0 < content["parameters"]["alpha"] <= 0.5
    assert "/" in content["base_model"] and "/" in content["models"][0]["model"]
    assert "\n# published: chujiezheng/" in text
