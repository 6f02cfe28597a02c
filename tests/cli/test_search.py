"""expo search on the command line: what it prints, where, and how it ends."""

import json

import pytest
import talker
from engine import command, tree

from expo.ops import one_thread


@pytest.fixture(scope="session", autouse=True)
def single():
    """Models this small are slower on several threads."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders sft and dpo, and files of completions, questions and recipes, in one folder."""
    home = tmp_path_factory.mktemp("search")
    for seed, role in enumerate(("sft", "dpo")):
        talker.save(home / role, seed)
    for name, first in (("val", 0), ("test", 20)):
        rows = [{"prompt": f"{i}=", "completion": f"{i * 7 % 10}"} for i in range(first, first + 6)]
        talker.write_jsonl(home / f"{name}.jsonl", rows)
        talker.write_jsonl(home / f"{name}-questions.jsonl", [{"prompt": r["prompt"], "answer": "1"} for r in rows])
    (home / "r.yaml").write_text(
        "merge_method: linear\nmodels:\n- {model: sft, parameters: {weight: 1.0}}\n"
        "- {model: dpo, parameters: {weight: 0.0}}\n"
    )
    (home / "mine.py").write_text(
        "def first(model, tokenizer, examples):\n"
        "    return [float(model.get_input_embeddings().weight[0, 0]) for example in examples]\n"
        "def broken(model, tokenizer, examples):\n"
        "    return [float('nan') for example in examples]\n"
    )
    return home


@pytest.fixture
def run(place, tmp_path, monkeypatch, capsys):
    """Run `expo search` in the folder, with a report of the test's own."""
    monkeypatch.chdir(place)

    def search(*options, pair=True, metric=("loss", "val.jsonl")):
        asked = ["--sft", "sft", "--dpo", "dpo"] if pair else []
        asked += ["--metric", metric[0], "--data", metric[1], "--report", tmp_path / "report"]
        return command(capsys, "search", *asked, *options)

    return search


def test_it_prints_a_table_the_choice_and_what_to_make_of_it(run, tmp_path):
    code, out, err = run("--alphas", "0.1,0.3", "--test", "test.jsonl", "-o", tmp_path / "out")
    assert code == 0, err
    headings = out.splitlines()[0].split()
    assert headings[0] == "alpha" and "loss" in headings and "effective" in headings and "cosine" in headings
    assert "is best on 6 examples; lower is better" in out and "test, 6 examples:" in out
    assert f"wrote {tmp_path / 'report' / 'search.json'}" in out and "next: expo verify" in out
    assert "the baseline: scoring 6 examples" in err and "alpha 0.3: loss" in err
    assert json.loads((tmp_path / "out" / "expo.json").read_text())["search"]["metric"]["metric"] == "loss"
    assert "was chosen of 2 tried" in (tmp_path / "out" / "README.md").read_text()


def test_json_is_the_report_and_nothing_else(run, tmp_path):
    code, out, err = run("--alphas", "0.1,0.3", "--json", "--seed", 3)
    assert code == 0 and "scoring" not in err
    assert json.loads(out) == json.loads((tmp_path / "report" / "search.json").read_text())
    assert [one["point"] for one in json.loads(out)["tries"]] == [{}, {"alpha": 0.1}, {"alpha": 0.3}]


def test_quiet_says_only_what_matters(run):
    code, out, err = run("--alphas", "0.1,0.3", "--quiet")
    assert code == 0 and out == "" and all(line.startswith(("note:", "warning:")) for line in err.splitlines())


def test_a_dry_run_prints_tries_and_budgets_and_writes_nothing(run, tmp_path, place):
    before = tree(tmp_path)
    code, out, _ = run("--alphas", "0.1:0.5:0.2", "--dry-run", "--resident", "-o", tmp_path / "out")
    assert code == 0 and "3: alpha 0.1, alpha 0.3, alpha 0.5" in out and "at most 24 examples" in out
    assert "one model, both inputs" in out and tree(tmp_path) == before
    code, out, _ = run("--alphas", "0.1:0.5:0.2", "--dry-run", "--json")
    plan = json.loads(out)
    size = sum(path.stat().st_size for path in (place / "dpo").glob("*.safetensors"))
    assert plan["most_tries"] == 3 and plan["most_scored"] == 24 and plan["known"] == 0
    assert 0.9 * size < plan["memory"] <= size and plan["n_bytes_read_a_try"] == 2 * plan["memory"]
    assert run("--alphas", "0.1")[0] == 0
    assert json.loads(run("--alphas", "0.1:0.5:0.2", "--dry-run", "--json")[1])["known"] == 12


def test_the_same_command_scores_nothing_again(run):
    assert run("--alphas", "0.1,0.3")[0] == 0
    code, out, err = run("--alphas", "0.1,0.3")
    assert code == 0 and "(known)" in err and "scoring" not in err and "is best on" in out


def test_a_recipe_varies_by_the_paths_of_set(run):
    code, out, err = run("r.yaml", "--vary", "models.1.parameters.weight=0:1:0.5", pair=False)
    assert code == 0, err
    assert "models.1.parameters.weight" in out.splitlines()[0]
    code, out, err = run("r.yaml", "--set", "dtype=bfloat16", "--vary", "rounding=nearest,stochastic", pair=False)
    assert code == 0 and "stochastic" in out, err


def test_answers_are_generated_and_their_lengths_shown(run):
    metric = ("accuracy", "val-questions.jsonl")
    code, out, err = run("--alphas", "0.1", "--max-tokens", 3, "--extraction", "whole", metric=metric)
    assert code == 0, err
    assert {"accuracy", "length", "degenerate"} <= set(out.splitlines()[0].split())


def test_a_function_of_the_user_s_is_a_metric(run, tmp_path):
    code, out, err = run("--alphas", "0.5", "--json", metric=("mine.py:first", "val.jsonl"))
    assert code == 0 and json.loads(out)["metric"]["metric"] == "mine.py:first", err


@pytest.mark.parametrize(
    "options, code, words",
    [
        (["--alphas", "0.1,0.1"], 1, "more than once"),
        (["--alphas", "0.1", "--test", "val.jsonl"], 1, "shares 6 examples"),
        (["--alphas", "0.1", "--gold-field", "x"], 1, "takes no --gold-field"),
        (["--alphas", "0.1", "--compute-dtype", "int8"], 1, "compute_dtype"),
        (["--alphas", "0.1", "--device", "tpu"], 1, "tpu"),
        (["--trials", "0"], 2, "--trials"),
        (["r.yaml", "--vary", "a=1"], 1, "name a recipe, or the two checkpoints"),
    ],
)
def test_mistakes_are_one_error(run, tmp_path, options, code, words):
    found, out, err = run(*options)
    assert found == code and words in err and out == "" and err.lower().count("error: ") == 1, err
    assert not (tmp_path / "report").exists()


def test_a_nearest_metric_is_offered_and_a_name_is_asked_for(run):
    assert "Did you mean 'loss'?" in run(metric=("los", "val.jsonl"))[2]
    code, _, err = run(pair=False)
    assert code == 2 and "--sft A --dpo B" in err


def test_a_nan_stops_it_with_the_try_and_the_example(run):
    code, _, err = run("--alphas", "0.1", metric=("mine.py:broken", "val.jsonl"))
    assert code == 1 and "error: the baseline: " in err and "0 (nan)" in err and "tries.jsonl" in err


def test_an_empty_or_single_example_set_is_refused(run, tmp_path):
    for rows in ([], [{"prompt": "1=", "completion": "2"}]):
        path = talker.write_jsonl(tmp_path / "few.jsonl", rows)
        code, _, err = run("--alphas", "0.1", metric=("loss", path))
        assert (code == 1 and "few.jsonl" in err) or "one example" in err
