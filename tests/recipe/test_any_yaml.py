"""Whatever the text: a recipe or a RecipeError, soon."""

import time

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from expo.errors import RecipeError
from expo.recipe import Recipes, read_recipe

VOCABULARY = """
models slices modules base_model merge_method parameters weight density t sources layer_range model dtype name tokenizer
tokens source policy tied rename seed filter value fake_ties fake_step fake_mean fake_copy a b org/c kind zero path
revision lora union on 010 1:30 .nan
"""
WORDS = st.sampled_from(VOCABULARY.split())
SCALARS = st.one_of(WORDS, st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(WORDS, SCALARS), inner, max_size=6)),
    max_leaves=25,
)
MODELS = st.lists(
    st.fixed_dictionaries({"model": WORDS}, optional={"parameters": TREES, "layer_range": TREES}), max_size=3
)
RECIPES = st.fixed_dictionaries(
    {"merge_method": WORDS},
    optional={
        key: TREES for key in ("parameters", "dtype", "tokenizer", "policy", "rename", "slices", "modules", "seed")
    }
    | {"models": MODELS, "base_model": WORDS, "name": WORDS},
)


def read(content) -> None:
    began = time.process_time()
    try:
        assert isinstance(read_recipe(content), Recipes)
    except RecipeError as error:
        assert str(error)
    assert time.process_time() - began < 2


@settings(max_examples=150, deadline=None)
@given(st.lists(RECIPES, min_size=1, max_size=3))
def test_nearly_recipes(documents):
    read("\n" + yaml.safe_dump_all(documents, allow_unicode=True))


@settings(max_examples=80, deadline=None)
@given(TREES)
def test_any_tree(tree):
    read("\n" + yaml.safe_dump(tree))


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"%#,? \t\n\r\x85\ufeff\x00é"), max_size=40))
def test_any_text(text):
    read("\n" + text)


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    read(file)
