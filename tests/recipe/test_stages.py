"""Several recipes in one file: stages run in the order of what feeds what; and --set changes one value."""

import pytest

from expo.errors import RecipeError
from expo.recipe import read_recipe

STEP = "merge_method: fake_step\nparameters: {t: 0.5}\n"
LAST = f"{STEP}base_model: one\nmodels: [{{model: two}}]\n---\n"
ONE = f"name: one\n{STEP}base_model: a\nmodels: [{{model: b}}]\n---\n"
TWO = f"name: two\n{STEP}base_model: one\nmodels: [{{model: c}}]\n---\n"


def test_stages_are_ordered_by_what_feeds_what_wherever_they_stand():
    found = read_recipe(LAST + TWO + ONE)
    assert [name for name, _ in found] == ["one", "two", "final"]
    assert found.stages[2].uses == {"one": "one", "two": "two"} and found.stages[0].uses == {}
    assert [stage.name for stage in found.results] == ["final"]


def test_independent_stages_keep_the_order_of_the_file_and_all_are_results():
    other = ONE.replace("name: one", "name: zero")
    assert [name for name, _ in read_recipe(ONE + other)] == ["one", "zero"]
    assert [name for name, _ in read_recipe(other + ONE)] == ["zero", "one"]
    assert len(read_recipe(ONE + other).results) == 2


def test_an_adapter_may_be_put_on_a_stage():
    found = read_recipe(ONE + f"{STEP}base_model: a\nmodels: [{{model: one+./ad}}]\n")
    assert found.stages[1].uses == {"one+ad": "one"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAST + LAST, ["recipe:6:1: a second recipe without a name"]),
        (ONE + ONE, ["recipe:7:7: two stages are named one, the first at recipe:1:7"]),
        (ONE.replace("model: b", "model: one"), ["recipe:1:7: stages feed each other in a circle: one <- one"]),
        (ONE.replace("model: b", "model: two") + TWO, ["circle: one <- two <- one"]),
        (ONE.replace("name: one", "name: ../x"), ["recipe:1:7: a name holds letters"]),
        (ONE.replace("name: one", "name: final") + LAST, ["the stage without a name is called final"]),
        (ONE.replace("fake_step", "x") + TWO.replace("0.5", "2"), ["recipe:2:15: no merge", "recipe:9:14: t must"]),
    ],
)
def test_mistakes_between_stages(text, words, wrong):
    said = "\n".join(wrong(text))
    assert all(word in said for word in words), said


def test_a_file_of_stages_has_no_single_recipe():
    with pytest.raises(RecipeError, match=r"2 stages \(one, two\). Run it first: expo merge"):
        _ = read_recipe(ONE + TWO).only


def test_settings_count_for_every_stage_but_type_and_size_for_results_only():
    found = read_recipe(ONE + TWO).with_settings(seed=3, dtype="float16")
    assert [recipe.seed for _, recipe in found] == [3, 3]
    assert [recipe.dtype for _, recipe in found] == [None, "float16"]


def test_set_changes_values_by_their_path():
    text = "merge_method: fake_ties\nbase_model: b\nmodels: [{model: a}, {model: c, parameters: {weight: 1}}]\n"
    sets = ["parameters.weight=0.4", "models.1.parameters.density=[0.1, 0.2]", "dtype=float16", "models.0.model=x"]
    recipe = read_recipe(text, sets).only
    assert recipe.parameters["weight"] == 0.4 and recipe.dtype == "float16"
    assert recipe.modules[0].slices[0].sources[1].parameters == {"weight": 1, "density": [0.1, 0.2]}
    assert list(recipe.models) == ["b", "x", "c"]


def test_set_in_stages_begins_with_the_name():
    found = read_recipe(ONE + LAST.replace("two", "c"), ["one.parameters.t=0.25", "final.parameters.t=1"])
    assert [recipe.parameters["t"] for _, recipe in found] == [0.25, 1.0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("parameters.tt=1", "--set parameters.tt=1: fake_step has no parameter 'tt'. Did you mean 't'?"),
        ("parameters.t=7", "--set parameters.t=7: t must be between 0 and 1"),
        ("paramters.t=1", "the recipe has no 'paramters'. Did you mean 'parameters'?"),
        ("models.1.model=x", "models is a list of 1, counted from 0 to 0; '1' is none of them"),
        ("base_model.x=1", "base_model is 'a', which has nothing inside"),
        ("parameters.t", "write it as PATH=VALUE"),
        ("parameters..t=1", "write it as PATH=VALUE"),
        ("parameters.t=[1", "--set parameters.t=[1: not YAML"),
        ("parameters.t=&x 1", "anchor"),
        ("parameters.t=.nan", "no finite number"),
        ("dtypo=x", "--set dtypo=x: a recipe has no key 'dtypo'. Did you mean 'dtype'?"),
    ],
)
def test_a_set_that_cannot_be_says_which_and_why(change, words, wrong):
    (problem,) = wrong(f"{STEP}base_model: a\nmodels: [{{model: b}}]\n", sets=[change])
    assert words in problem and "recipe:" not in problem, problem


def test_a_set_without_a_stage_names_the_stages(wrong):
    (problem,) = wrong(ONE + TWO, sets=["parameters.t=1"])
    assert "begin with the stage that it is for: one, two" in problem


@pytest.mark.parametrize(
    ("name", "words"),
    [("none.yaml", "no such file. Did you mean 'nine.yaml'?"), (".", "is a folder"), ("nine.yaml", "holds no recipe")],
)
def test_a_file_that_holds_no_recipe(tmp_path, name, words, wrong):
    (tmp_path / "nine.yaml").write_text("# nothing\n")
    assert words in wrong(str(tmp_path / name))[0]


def test_places_name_the_file_as_it_was_given(tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbfmodels: 1\r\nmerge_method: x\r\n")
    assert [problem.split(" ")[0] for problem in wrong("r.yaml")] == ["r.yaml:1:9:", "r.yaml:2:15:"]
