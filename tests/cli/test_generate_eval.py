"""expo generate and expo eval as a user types them."""

import json
from pathlib import Path

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
        "Student's t",
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


def test_an_adapter_is_named_behind_its_base(models, test_file, tmp_path, capsys):
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(models[0]), config)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    for path in Path(models[0]).glob("token*"):
        (tmp_path / "merged" / path.name).write_bytes(path.read_bytes())

    def answers(model, *more):
        out = tmp_path / "a.jsonl"
        words = ["generate", "--model", model, "--data", test_file, "-o", out, "--max-tokens", 5, "--overwrite"]
        code, _, error = command(capsys, *words, *more)
        return code, error, [row["response"] for row in rows_of(out)] if code == 0 else None

    code, error, _ = answers(tmp_path / "adapter")
    assert code == 1 and "an adapter (adapter_model.safetensors), not a whole model" in error and "BASE+" in error
    both = answers(f"{models[0]}+{tmp_path / 'adapter'}")[2]
    assert both == answers(tmp_path / "merged")[2] != answers(models[0])[2]


@pytest.mark.parametrize("device", ["banana", "cuda:99"])
def test_a_device_that_is_not_there_is_one_error(models, test_file, tmp_path, capsys, device):
    words = ["generate", "--model", models[0], "--data", test_file, "-o", tmp_path / "a.jsonl", "--device", device]
    for more in ([], ["--dry-run"]):
        code, _, error = command(capsys, *words, *more)
        assert code == 1 and error.count("error: ") == 1 and f"--device '{device}'" in error
        assert not (tmp_path / "a.jsonl").exists()


def test_another_model_is_named(models, tmp_path, capsys):
    one = write_jsonl(tmp_path / "one.jsonl", talker.QUESTIONS[:1])
    words = ["generate", "--data", one, "-o", tmp_path / "a.jsonl", "--max-tokens", 2, "--model"]
    code, said, _ = command(capsys, *words, models[0])
    assert code == 0 and "1 answer to 1 question," in said
    code, _, error = command(capsys, *words, models[1])
    assert code == 1 and 'model: "one" there, "two" now' in error


@pytest.fixture
def experts(models, tmp_path):
    path = tmp_path / "experts.json"
    listed = [{"model": model, "weight": 1 + n} for n, model in enumerate(models)]
    path.write_text(json.dumps({"kind": "generation", "experts": listed}))
    return path


def test_an_ensemble_answers_where_a_model_would(models, experts, test_file, tmp_path, capsys):
    words = ["generate", "--data", test_file, "-o", tmp_path / "a.jsonl", "--max-tokens", 4, "--ensemble", experts]
    code, said, error = command(capsys, *words, "--dry-run", "--json")
    plan = json.loads(said)
    assert code == 0 and plan["answers"] == 11 and plan["settings"]["weights"] == [1.0, 2.0], error
    assert plan["settings"]["model"].endswith("/experts.json") and not (tmp_path / "a.jsonl").exists()
    code, said, error = command(capsys, *words)
    assert code == 0 and "11 answers to 11 questions" in said, error
    assert command(capsys, *words, "--device", "cpu,cpu", "--json")[0] == 0  # goes on: nothing is left to answer
    code, said, error = command(
        capsys, "eval", "--data", test_file, "--ensemble", experts, "--compare", models[0], "--max-tokens", 4, "--json"
    )
    assert code == 0 and list(json.loads(said)["models"]) == [str(experts), models[0]], error


def test_an_ensemble_excludes_a_model_and_a_server(models, experts, test_file, tmp_path, capsys):
    base = ["generate", "--data", test_file, "-o", tmp_path / "a.jsonl"]
    for more, code, words in (
        ([], 2, "Give --model MODEL or --ensemble"),
        (["--ensemble", experts, "--model", models[0]], 2, "exclude each other"),
        (["--ensemble", experts, "--endpoint", "http://localhost:1"], 2, "leave out --endpoint"),
        (["--ensemble", models[0]], 2, "is a directory"),
        (["--ensemble", "experts.yaml"], 2, "takes a .json file"),
        (["--ensemble", tmp_path / "exprts.json"], 1, "no such file. Did you mean"),
        (["--ensemble", experts, "--min-tokens", 600], 1, "min_tokens must be from 0 to max_tokens (512)"),
        (["--model", models[0], "--min-tokens", 2, "--endpoint", "http://localhost:1"], 1, "min_tokens"),
        (["--model", experts, "--endpoint", "http://localhost:1"], 1, "experts answer locally"),
    ):
        found, _, error = command(capsys, *base, *more)
        assert found == code and words in error, error
        assert not (tmp_path / "a.jsonl").exists()
    code, _, error = command(capsys, "generate", "--data", test_file, "--ensemble", experts, "-o", experts)
    assert code == 1 and "experts.json" in error and json.loads(experts.read_text())["kind"] == "generation"
    code, _, error = command(
        capsys, "eval", "--data", test_file, "--model", models[0], "--compare", tmp_path / "no.json"
    )
    assert code == 1 and "no.json: no such file" in error
