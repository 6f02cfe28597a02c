"""expo merge, plan, methods and recipes on the command line."""

import json

import pytest
from engine import command, tree
from fake_methods import register_fakes, registry
from oracle import read_stored

from expo.methods import plugins

RECIPE = (
    "merge_method: extrapolate\nbase_model: sft\nmodels: [{model: dpo}]\nparameters: {alpha: 0.5}\ndtype: float32\n"
)


@pytest.fixture
def here(home, monkeypatch):
    """A pair sft and dpo with a recipe for it, in the current directory."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(plugins, "_loaded", set())
    (home / "r.yaml").write_text(RECIPE)
    with registry():
        register_fakes()
        yield home


@pytest.mark.parametrize("arguments", [["r.yaml", "-o", "out"], ["r.yaml", "out"]])
def test_merge_writes_what_extrapolate_writes(here, capsys, arguments):
    code, out, err = command(capsys, "merge", *arguments)
    assert code == 0 and "next: expo verify" in out, err
    options = ["--alpha", 0.5, "--dtype", "float32", "-o", "other", "--quiet"]
    assert command(capsys, "extrapolate", "--sft", "sft", "--dpo", "dpo", *options)[0] == 0
    assert read_stored(here / "out") == read_stored(here / "other")


@pytest.mark.parametrize("arguments", [["r.yaml"], ["r.yaml", "a", "-o", "b"]])
def test_the_output_is_given_once(here, capsys, arguments):
    code, _, err = command(capsys, "merge", *arguments)
    assert code == 2 and "Give the output once" in err


def test_options_count_instead_of_the_file_and_silence_leaves_the_file(here, capsys):
    (here / "r.yaml").write_text(RECIPE + "seed: 5\nrounding: stochastic\nshard_size: 30KB\n")
    assert command(capsys, "merge", "r.yaml", "out", "--seed", 6, "--dtype", "bfloat16", "--quiet")[0] == 0
    recipe = json.loads((here / "out" / "expo.json").read_text())["recipe"]
    assert (recipe["seed"], recipe["rounding"], recipe["shard_size"]) == (6, "stochastic", 30_000)
    assert recipe["dtype"] == "bfloat16"


def test_a_dry_run_prints_the_plan_and_writes_nothing(here, capsys):
    before = tree(here)
    code, out, _ = command(capsys, "merge", "r.yaml", "out", "--dry-run", "--set", "parameters.alpha=0.1")
    assert code == 0 and "extrapolate (alpha 0.1" in out and tree(here) == before
    code, out, _ = command(capsys, "merge", "r.yaml", "out", "--dry-run", "--json")
    assert code == 0 and json.loads(out)["plan"]["tensors"] and tree(here) == before


def test_mistakes_are_one_error_with_their_places(here, capsys):
    (here / "r.yaml").write_text(RECIPE.replace("alpha", "alhpa") + "sed: 1\n")
    code, out, err = command(capsys, "merge", "r.yaml", "out")
    assert (code, out) == (1, "") and "error: 2 problems in the recipe:" in err
    assert "r.yaml:4:14: extrapolate has no parameter 'alhpa'. Did you mean 'alpha'?" in err
    assert "r.yaml:6:1: a recipe has no key 'sed'. Did you mean 'seed'?" in err


def test_notes_go_to_stderr(here, capsys):
    (here / "r.yaml").write_text(RECIPE.replace("0.5", "0.5, int8_mask: true"))
    assert "note: r.yaml:4:26: int8_mask" in command(capsys, "merge", "r.yaml", "out", "--dry-run")[2]


def test_plan_says_what_goes_where(here, capsys):
    (here / "r.yaml").write_text(
        "merge_method: fake_step\nbase_model: sft\nmodels: [{model: dpo}]\n"
        "parameters: {t: [{filter: mlp, value: [0, 1]}, {value: 0.5}]}\ndtype: float16\n"
    )
    before = tree(here)
    code, out, err = command(capsys, "plan", "r.yaml")
    assert code == 0 and err == "" and tree(here) == before
    assert "float16, rounded once" in out and "no input is cast when it is read" in out
    assert "of sft, file by file" in out and "base + t * (model - base)" in out
    assert any("mlp" in line and "0-1" in line and "0 to 1" in line for line in out.splitlines()), out
    found = json.loads(command(capsys, "plan", "r.yaml", "--json")[1])["stages"][0]
    assert found["donor"] == "sft" and found["varying"] and found["budget"]["bytes_to_write"] > 0


def test_a_plugin_is_named_on_the_command_line(here, capsys):
    (here / "mine_for_merge.py").write_text(
        "from __future__ import annotations\nfrom expo.methods import method\n\n"
        "@method()\ndef keep(base: Tensor, other: Tensor) -> Tensor:\n    '''base.'''\n    return base * 1.0\n"
    )
    (here / "r.yaml").write_text("merge_method: keep\nbase_model: sft\nmodels: [{model: dpo}]\n")
    assert command(capsys, "merge", "r.yaml", "out")[0] == 1
    assert command(capsys, "merge", "r.yaml", "out", "--plugin", "mine_for_merge", "--quiet")[0] == 0
    assert read_stored(here / "out") == read_stored(here / "sft")
    assert "keep" in command(capsys, "methods")[1]


def test_methods_lists_all_and_shows_one(here, capsys):
    code, out, _ = command(capsys, "methods")
    assert (
        code == 0 and "extrapolate" in out and "aligned + alpha * (aligned - base)" in out and "base + 1 or more" in out
    )
    code, out, _ = command(capsys, "methods", "fake_ties")
    assert code == 0 and "number for each model" in out and "0 to 1" in out and "required" in out and "lambda " in out
    code, out, err = command(capsys, "methods", "extrapolat")
    assert code == 1 and "Did you mean 'extrapolate'?" in err
    found = {method["name"]: method for method in json.loads(command(capsys, "methods", "--json")[1])}
    assert found["extrapolate"]["parameters"][0] == {
        "name": "alpha", "kind": "float", "each_model": False, "required": False, "default": 0.3, "low": None,
        "high": None, "choices": [],
    }  # fmt: skip


def test_recipes_are_listed_shown_and_copied(here, capsys):
    code, out, _ = command(capsys, "recipes")
    assert code == 0 and "methods/extrapolate" in out and "ExPO: push an aligned model" in out
    assert command(capsys, "recipes", "ls")[1] == out
    text = command(capsys, "recipes", "show", "extrapolate")[1]
    assert text == command(capsys, "recipes", "show", "methods/extrapolate.yaml")[1] and text.startswith("# ExPO")
    code, out, _ = command(capsys, "recipes", "copy", "methods/extrapolate", "-o", "mine.yaml")
    assert code == 0 and (here / "mine.yaml").read_text() == text
    assert command(capsys, "recipes", "copy", "methods/extrapolate", "-o", "mine.yaml")[0] == 1
    code, _, err = command(capsys, "recipes", "show", "expo/extrapolat")
    assert code == 1 and "Did you mean 'methods/extrapolate'?" in err


def test_a_plan_s_complaints_say_file_line_and_column(here, capsys):
    def said(text):
        (here / "r.yaml").write_text(text)
        code, _, err = command(capsys, "plan", "r.yaml")
        assert code == 1
        return err

    models = "base_model: sft\nmodels:\n- model: dpo\n"
    assert "error: r.yaml:4:10: nowhere: " in said(
        "merge_method: extrapolate\nbase_model: sft\nmodels:\n- model: nowhere\n"
    ).replace("./", "")
    assert "error: r.yaml:6:5: " in said(
        f"merge_method: della\n{models}  parameters:\n    density: 0.99\n    weight: 1\n"
    )
    layers = "merge_method: fake_copy\nslices:\n- sources:\n  - model: sft\n    layer_range: [0, 99]\n"
    assert "error: r.yaml:5:18: layer_range [0, 99] lies outside of sft" in said(layers)
    zero = "merge_method: linear\nmodels: [{model: sft}, {model: dpo}]\nparameters:\n  weight: 0\n"
    assert "error: r.yaml:4:3: " in said(zero) and "the weights sum to zero" in said(zero)
    named = "merge_method: fake_copy\nmodules:\n  norm: {models: [{model: sft}]}\n"
    assert "error: r.yaml: no module takes" in said(named)
    rows = "[{filter: mlpp, value: 1}, {value: 1}]"
    (here / "r.yaml").write_text(f"merge_method: linear\nmodels: [{{model: dpo}}]\nparameters:\n  weight: {rows}\n")
    code, _, err = command(capsys, "plan", "r.yaml")
    assert code == 0 and "warning: r.yaml:4:12: parameters.weight: no tensor matches the filter 'mlpp'. Did" in err


def test_an_unknown_method_may_be_a_plugin_s(here, capsys):
    assert "--plugin MODULE" in command(capsys, "methods", "mine")[2]
    assert "--plugin MODULE" in command(capsys, "merge", "r.yaml", "out", "--set", "merge_method=mine")[2]
