"""expo generate and expo eval as a user types them."""

import json

import pytest
import talker
from engine import command
from talker import rows_of, write_jsonl

from expo.ops import one_thread


@pytest.fixture(scope="module", autouse=True)
def single():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    return [str(talker.save(home / name, seed)) for seed, name in enumerate(("one", "two"))]


@pytest.fixture
def test_file(tmp_path):
    rows = [{**row, "gold": str(i % 3)} for i, row in enumerate(talker.QUESTIONS)]
    return write_jsonl(tmp_path / "test.jsonl", rows)


def test_generate_writes_continues_and_reports(models, test_file, tmp_path, capsys):
    out = tmp_path / "answers.jsonl"
    words = ["generate", "--model", models[0], "--data", test_file, "-o", out, "--max-tokens", 4, "--samples", 2]
    code, said, _ = command(capsys, *words, "--dry-run")
    assert code == 0 and "22 answers to 11 questions would go to" in said and not out.exists()
    code, said, _ = command(capsys, *words)
    assert code == 0 and "22 answers to 11 questions" in said and "tokens/s" in said
    rows = rows_of(out)
    assert len(rows) == 22 and rows[0]["response"] != rows[1]["response"]  # several samples are drawn, not greedy
    out.write_text("".join(out.read_text().splitlines(keepends=True)[:9]))
    code, said, _ = command(capsys, *words, "--json")
    report = json.loads(said)
    assert code == 0 and (report["n_resumed"], report["n_new"]) == (9, 13) and rows_of(out) == rows
    code, _, error = command(capsys, *words, "--seed", 1)
    assert code == 1 and "seed: 0 there, 1 now" in error and error.count("error: ") == 1
    code, said, error = command(capsys, *words, "--seed", 1, "--overwrite", "--quiet")
    assert code == 0 and said == "" and rows_of(out) != rows


def test_eval_compares_models_and_files_on_the_same_questions(models, test_file, tmp_path, capsys):
    pattern = r"regex:(.)\s*$"
    words = [
        "eval",
        "--data",
        test_file,
        "--extraction",
        pattern,
        "--max-tokens",
        3,
        "--samples",
        4,
        "-o",
        tmp_path / "e",
    ]
    code, said, error = command(capsys, *words, "--model", models[0], "--compare", models[1])
    assert code == 0, error
    for text in (
        "accuracy",
        "pass@2",
        "pass@4",
        "95 % interval",
        "on the same 11 questions",
        "paired bootstrap",
        "p =",
    ):
        assert text in said, said
    report = json.loads((tmp_path / "e" / "report.json").read_text())
    first = report["models"][models[0]]
    graded = rows_of(tmp_path / "e" / "grades-one.jsonl")
    assert len(graded) == 44 and first["accuracy"]["value"] == pytest.approx(sum(g["correct"] for g in graded) / 44)
    kept = [str(tmp_path / "e" / f"answers-{name}.jsonl") for name in ("one", "two")]
    again = ["eval", "--data", test_file, "--extraction", pattern, "--answers", kept[0], "--answers", kept[1], "--json"]
    code, said, error = command(capsys, *again)
    assert code == 0, error
    from_files = json.loads(said)
    assert from_files["models"][kept[0]] == first
    assert from_files["differences"][0]["value"] == report["differences"][0]["value"]


def test_what_cannot_be_evaluated_is_refused_before_a_model_is_asked(models, test_file, tmp_path, capsys):
    base = ["eval", "--data", test_file]
    for more, code, words in (
        ([], 1, "nothing to evaluate"),
        (["--compare", models[0]], 2, "--compare needs something"),
        (["--model", models[0], "--compare", models[0]], 1, "named twice"),
        (["--model", models[0], "--equivalence", "sting"], 1, "Did you mean 'string'"),
        (["--model", models[0], "--extraction", "lastline"], 1, "no extraction"),
        (["--model", models[0], "--gold-field", "truth"], 1, "test.jsonl:1: no true answer"),
        (["--answers", tmp_path / "none.jsonl"], 1, "no such file"),
        (["--model", models[0], "--greedy", "--temperature", 1], 2, "--greedy"),
    ):
        found, _, error = command(capsys, *base, *more)
        assert found == code and words in error, error
    code, said, _ = command(capsys, *base, "--model", models[0], "--dry-run")
    assert code == 0 and "would write 11 answers to 11 questions" in said


def test_help_is_quick_and_complete(capsys):
    for name in ("generate", "eval"):
        code, said, _ = command(capsys, name, "--help")
        assert code == 0 and "--endpoint URL" in said and "--dry-run" in said
