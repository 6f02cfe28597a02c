"""Recipes in YAML: mergekit's schema becomes a Recipe, and every mistake has its place."""

import pytest

from expo.recipe import Module, Recipe, Slice, Source, read_recipe
from expo.recipe.tokenizer import ZERO, TokenizerSpec, TokenRule, TokenSource

PLAIN = """\
models:
- model: org/one
  parameters:
    weight: 0.4
- model: ./two/
base_model: org/base
merge_method: fake_ties
dtype: bfloat16
parameters: {weight: 1, lambda: 0.5}
"""


def only(text: str, *sets: str) -> Recipe:
    return read_recipe(text, sets).only


def test_a_list_of_models_becomes_a_recipe():
    recipe = only(PLAIN)
    assert recipe.models == {"base": "org/base", "one": "org/one", "two": "./two"}
    assert recipe.base == "base" and recipe.dtype == "bfloat16" and recipe.parameters["lambda"] == 0.5
    assert recipe.parts == (Module((Slice((Source("one", None, {"weight": 0.4}), Source("two"))),)),)


def test_plain_models_need_no_modules_so_that_yaml_and_python_make_the_same_recipe():
    text = "merge_method: extrapolate\nbase_model: A\nmodels: [{model: A}, {model: B}]\nparameters: {alpha: 0.5}\n"
    assert only(text) == Recipe("extrapolate", {"A": "A", "B": "B"}, {"alpha": 0.5}, "A")


def test_two_mentions_of_a_model_are_one_input_and_equal_names_are_told_apart():
    text = "merge_method: fake_mean\nparameters: {weight: 1}\nmodels:\n"
    recipe = only(text + "".join(f"- model: {m}\n" for m in ("a/x", "b/x", "a/x/", "/c/x@v1", "..", "~")[:5]))
    assert recipe.models == {"x": "a/x", "x#2": "b/x", "x@v1": "/c/x@v1", "model": ".."}
    assert [source.model for source in recipe.parts[0].slices[0].sources] == ["x", "x#2", "x", "x@v1", "model"]


@pytest.mark.parametrize(
    ("reference", "text", "name"),
    [
        ("{model: {path: org/m, revision: main}}", "org/m@main", "m@main"),
        ("{model: {path: org/m, revision: 0012345}}", "org/m@0012345", "m@0012345"),
        ("{model: org/m, lora: ./ad}", "org/m+./ad", "m+ad"),
        ("{model: {path: m}, lora: {path: o/a, revision: r/1}}", "m+o/a@r/1", "m+a@r-1"),
        ("{path: m, revision: v2}", "m@v2", "m@v2"),
        ("org/m@main+o/ad@v1", "org/m@main+o/ad@v1", "m@main+ad@v1"),
        ("123", "123", "123"),
        ("no", "no", "no"),
    ],
)
def test_references_as_mappings_become_texts(reference, text, name):
    recipe = only(f"merge_method: fake_copy\nmodels: [{{model: {reference}}}]\n")
    assert recipe.models == {name: text}


def test_slices_and_their_scopes():
    recipe = only(
        "merge_method: fake_step\nbase_model: a\nslices:\n"
        "- sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [2, 6]}]\n"
        "  parameters: {t: [0, 1]}\n"
        "- sources: [{model: a, layer_range: [4, 6]}, {model: c, layer_range: [4, 6]}]\n  base_model: c\n"
        "parameters: {t: [{filter: mlp, value: [0, 0.5]}, {filter: 're:q_proj$', value: 1}, {value: 0.25}]}\n"
    )
    (module,) = recipe.modules
    assert module.slices[0] == Slice((Source("a", (0, 4)), Source("b", (2, 6))), None, {"t": [0, 1]})
    assert module.slices[1].base == "c" and recipe.models.keys() == {"a", "b", "c"}
    assert recipe.parameters["t"][2] == {"value": 0.25}


def test_modules_by_name():
    recipe = only(
        "merge_method: fake_mean\nmodules:\n"
        "  encoder: {models: [{model: a}, {model: b}], parameters: {weight: 1}}\n"
        "  decoder: {slices: [{sources: [{model: a, layer_range: [0, 2], parameters: {weight: 2}}]}]}\n"
    )
    assert [module.name for module in recipe.modules] == ["encoder", "decoder"]
    assert recipe.modules[0].parameters == {"weight": 1}


def test_settings_and_policies_are_fields_of_recipe():
    recipe = only(
        PLAIN + "seed: 7\nrounding: stochastic\nsaturate: true\nshard_size: 5GB\nrename: ['a.=>b.', 'c.=>']\n"
        "policy: {on_mismatch: copy, vocabulary: common-rows, tied: keep, allow_non_finite: true}\n"
        "chat_template: chatml\n"
    )
    assert (recipe.seed, recipe.rounding, recipe.saturate, recipe.shard_size) == (7, "stochastic", True, 5 * 10**9)
    assert recipe.rename == (("a.", "b."), ("c.", "")) and recipe.chat_template == "chatml"
    assert (recipe.on_mismatch, recipe.vocabulary, recipe.tied) == ("copy", "common-rows", "keep")
    assert recipe.allow_non_finite


def test_out_dtype_is_the_output_type_and_a_note_says_that_nothing_is_cast():
    found = read_recipe(PLAIN + "out_dtype: float32\n")
    assert found.only.dtype == "float32" and any("never cast" in note for note in found.notes)


@pytest.mark.parametrize("entry", ["tokenizer_source: union", "tokenizer: {source: union}"])
def test_both_forms_of_the_tokenizer_entry(entry):
    assert only(PLAIN + entry).tokenizer == TokenizerSpec("union")


def test_the_whole_tokenizer_entry():
    recipe = only(
        PLAIN + "tokenizer:\n  source: org/one\n  pad_to_multiple_of: 64\n  tokens:\n"
        "    <|x|>: {source: ./two, force: true}\n"
        "    <|y|>: {source: {kind: zero}}\n    <|z|>: {source: {kind: model_token, model: org/base, token: hi}}\n"
    )
    rules = {
        "<|x|>": TokenRule(TokenSource("two"), True),
        "<|y|>": TokenRule(ZERO),
        "<|z|>": TokenRule(TokenSource("base", "hi")),
    }
    assert recipe.tokenizer == TokenizerSpec("one", rules, 64)
    again = Recipe.from_record(recipe.record(), recipe.models)
    assert again == recipe


def test_what_means_nothing_here_is_a_note():
    found = read_recipe(
        PLAIN.replace("lambda: 0.5", "int8_mask: true").replace(
            "- model: ./two/", "- model: org/base\n  parameters: {weight: 2}"
        )
    )
    assert any("recipe:10:25: int8_mask" in note for note in found.notes)
    assert any("recipe:5:3: base is the base" in note for note in found.notes)


HEAD = "merge_method: fake_ties\nbase_model: b\n"
ONE = HEAD + "models: [{model: a}]\n"
GIVEN = ONE + "parameters: "
COPY = "merge_method: fake_copy\nslices:\n- sources: "


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("merge_method: average\nmodels: [{model: a}]\n", ["recipe:1:15: no merge method", "linear"]),
        ("merge_method: fake_tise\nmodels: [{model: a}]\n", ["Did you mean 'fake_ties'"]),
        ("models: [{model: a}]\n", ["recipe:1:1: merge_method is missing"]),
        ("merge_method: fake_ties\n", ["recipe:1:1: it names no models"]),
        (HEAD + "models:\n", ["recipe:3:8: models is empty"]),
        (HEAD + "models: []\n", ["models is empty"]),
        (HEAD + "models: a\n", ["must be a list"]),
        (HEAD + "models: [a]\nparameters: {weight: 1}\n", ["recipe:3:10: must be a mapping: write `model: a`"]),
        (ONE + "slices: []\nparameters: {weight: 1}\n", ["models and slices are given"]),
        (ONE + "", ["recipe:3:10: fake_ties needs weight for a"]),
        (
            HEAD + "models: [{model: a, weight: 1}]\n",
            ["recipe:3:10: fake_ties needs", "recipe:3:21: a model's entry has no"],
        ),
        ("merge_method: fake_ties\nmodels: [{model: a}]\nparameters: {weight: 1}\n", ["needs a base model"]),
        (
            GIVEN + "{weight: 1, lamda: 2}\n",
            [
                "recipe:4:25: fake_ties has no",
            ],
        ),
        (
            ONE + "paramters: {weight: 1}\n",
            ["needs weight", "recipe:4:1: a recipe has no key 'paramters'. Did you mean 'parameters'?"],
        ),
        (GIVEN + "{weight: 1, density: 1.5}\n", ["density must be between 0 and 1, not 1.5"]),
        (GIVEN + "{weight: [], density: 1}\n", ["the gradient is empty"]),
        (
            GIVEN + "{weight: [1, x, 2, .inf]}\n",
            ["recipe:4:26: weight must be a finite number, not 'x'", "recipe:4:32: .inf is no finite number"],
        ),
        (GIVEN + "{weight: '1'}\n", ["must be a finite number, not '1'"]),
        (GIVEN + "{weight: 1, rescale: yes}\n", ["YAML 1.1 and 1.2 read it differently"]),
        (GIVEN + "{weight: [{filter: 're:(', value: 1}]}\n", ["recipe:4:23: weight: 're:(' is no regular"]),
        (GIVEN + "{weight: [{filters: q, value: 1}]}\n", ["rows of {filter"]),
        (
            HEAD + "models: [{model: a, parameters: {weight: 1, lambda: 2}}]\n",
            ["recipe:3:45: lambda is a parameter of the whole merge"],
        ),
        (
            "merge_method: fake_step\nbase_model: b\nmodels: [{model: a}, {model: c}]\nparameters: {t: 0}\n",
            ["recipe:3:9: fake_step merges 1 model beside its base; the", "gives 2 (a, c)"],
        ),
        (COPY + "[{model: a, layer_range: [3, 3]}]\n", ["recipe:3:37: a: layer_range [3, 3] holds no layer"]),
        (COPY + "[{model: a, layer_range: [0, 1, 2]}]\n", ["recipe:3:37: layer_range must be"]),
        (
            "merge_method: fake_mean\nparameters: {weight: 1}\nslices:\n- sources:\n"
            "  - {model: a, layer_range: [0, 2]}\n  - {model: c, layer_range: [0, 3]}\n",
            ["recipe:4:3: the sources of one slice must have as many layers"],
        ),
        (
            "merge_method: fake_copy\nslices: [{source: [{model: a}]}]\n",
            ["a slice without `sources:`", "a slice has no key 'source'. Did you mean 'sources'?"],
        ),
        (PLAIN + "dtype2: x\n", ["no key 'dtype2'. Did you mean 'dtype'?"]),
        (PLAIN.replace("bfloat16", "bfloat15"), ["recipe:8:8: dtype cannot be 'bfloat15'. Did you mean 'bfloat16'?"]),
        (PLAIN + "rounding: up\n", ["recipe:10:11: rounding cannot be 'up'"]),
        (PLAIN + "seed: 1.5\n", ["seed must be a whole number"]),
        (PLAIN + "seed: 1:30\n", ["read it differently"]),
        (PLAIN + "shard_size: big\n", ["recipe:10:13: 'big' is not a size"]),
        (PLAIN + "rename: [x]\n", ["recipe:10:10: 'x' renames nothing"]),
        (PLAIN + "tied: keep\n", ["tied is a policy: write it under `policy:`"]),
        (PLAIN + "policy: {tide: keep}\n", ["policy has no key 'tide'. Did you mean 'tied'?"]),
        (PLAIN + "policy: {tied: keeps}\n", ["tied cannot be 'keeps'"]),
        (PLAIN + "plugin: my_module\n", ["--plugin my_module"]),
        (PLAIN + "tokenizer: union\ntokenizer_source: base\n", ["recipe:11:19: tokenizer_source is an older form"]),
        (PLAIN + "tokenizer: {sauce: union}\n", ["Did you mean 'source'?"]),
        (PLAIN + "tokenizer: {tokens: {x: {source: {kind: nul}}}}\n", ["kind must be model_token or zero"]),
        (PLAIN + "base_model: c\n", ["recipe:10:1: 'base_model' is given twice, first at recipe:6:1"]),
        (PLAIN.replace("org/one", "{pth: x}"), ["a model without `model:`", "no key 'pth'"]),
        ("- a\n- b\n", ["a recipe must be a mapping"]),
    ],
)
def test_every_mistake_has_its_place_and_a_way_out(text, words, wrong):
    problems = wrong(text)
    said = "\n".join(problems)
    assert all(word in said for word in words), said
    assert all(problem.startswith("recipe:") for problem in problems), problems
    assert len(problems) <= max(2, len(words)), problems


def test_all_mistakes_of_a_file_come_at_once(wrong):
    text = (
        "merge_method: fake_ties\nbase_model: b\nbase: x\nmodels:\n- model: a\n  parameters: {weights: 1, density: 2}\n"
        "- parameters: {weight: on}\nparameters: {lamda: 1}\ndtype: fp17\nseed: x\n"
    )
    places = [problem.split(" ")[0] for problem in wrong(text)]
    assert places == [
        "recipe:3:1:", "recipe:5:3:", "recipe:6:16:", "recipe:6:28:", "recipe:7:3:", "recipe:7:24:", "recipe:8:14:",
        "recipe:9:8:", "recipe:10:7:",
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["models", "slices", "modules"])
def test_a_list_that_is_none_is_one_mistake(wrong, key):
    given = "[a]" if key == "modules" else "{a: 1, b: 1}"
    assert len(wrong(f"merge_method: fake_mean\nparameters: {{weight: 1}}\n{key}: {given}\n")) == 1
    assert len(wrong(f"merge_method: fake_mean\nparameters: {{weight: 1}}\n{key}: []\n")) == 1


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(wrong, seed):
    text = "merge_method: fake_copy\nmodels: [{model: a}]\nseed: "
    wrong(f"{text}{seed}\n", "recipe:3:7: seed must lie between 0 and 2^64 - 1")
    assert only(f"{text}{2**64 - 1}\n").seed == 2**64 - 1


def test_a_title_without_parameters_has_no_brackets():
    text = "merge_method: {}\nmodels: [{{model: a}}]\n"
    assert only(text.format("passthrough")).title == "passthrough"
    assert only(text.format("fake_copy")).title == "fake_copy (scale 1.0)"
