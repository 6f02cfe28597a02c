"""The whole pipeline on the embedded task, small and fast; and, marked slow, at its full size."""

import contextlib
import io
import json
import os
import subprocess
import sys
from unittest import mock

import pytest
from engine import command
from w2s_files import read

from expo.cli.main import main

MINI = {
    "seed": 3,
    "embedded": {"terms": 4, "train": 80, "test": 40, "validation": 20, "shots": 1, "pretraining": 25},
    "weak_sft.max_steps": 20,
    "strong_sft.max_steps": 2,
    "iterations": 1,
    "demos": {"shots": 1},
    "drawing.samples": 3,
    "pairs": {"agree": 0.3, "disagree": 0.3},
    "preference": {"dpo": {"learning_rate": 1e-4, "max_steps": 2, "batch_size": 8, "save_every": 0}},
    "extrapolate": {"alphas": [0, 0.5]},
}


def arguments(**changes):
    return [word for key, value in (MINI | changes).items() for word in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished small run, and what the command printed on stdout."""
    out, said = tmp_path_factory.mktemp("run") / "out", io.StringIO()
    words = ["expo", "w2s", "reasoning", "running-sum", "-o", str(out), *arguments()]
    with mock.patch.object(sys, "argv", words), contextlib.redirect_stdout(said):
        main()
    return out, said.getvalue()


def test_the_report_holds_every_accuracy_with_n_and_interval(finished):
    out, stdout = finished
    report = json.loads((out / "report/report.json").read_text())
    (rows,) = report["tables"].values()
    names = [row["model"] for row in rows]
    assert names[0] == "weak floor" and names[-1] == "ceiling"
    assert {"weak", "icl", "hybrid", "hybrid + DPO", "hybrid + DPO, extrapolated"} <= set(names)
    for row in rows:
        assert row["accuracy"]["n"] == 40 and len(row["accuracy"]["interval"]) == 2
        assert row["model"] in stdout
    assert all("pgr" in row for row in rows[1:-1])
    assert report["stages"]["weak/extrapolate_dpo"]["alpha"] in (0, 0.5)
    for picture in ("accuracy.png", "extrapolation.png"):
        assert (out / "report" / picture).read_bytes()[:4] == b"\x89PNG"
    assert "95 % interval" in (out / "report/report.md").read_text()


def test_scores_belong_to_the_files_that_lie_there(finished):
    """The tables' accuracies are recounted from the answers, with the task's own rule."""
    from expo import toy

    out, _ = finished
    golds = {row["id"]: toy.answer(row["completion"]) for row in read(out / "shared/prepare/test.jsonl")}
    report = json.loads((out / "report/report.json").read_text())
    by_name = {row["model"]: row["accuracy"]["correct"] for row in report["tables"]["weak"]}
    for title, folder in (
        ("weak floor", "weak/test_weak"),
        ("hybrid + DPO, extrapolated", "weak/test_extrapolate_dpo"),
    ):
        answers = read(out / folder / "answers.jsonl")
        assert by_name[title] == sum(toy.answer(row["response"].strip()) == golds[row["id"]] for row in answers)


def test_kept_rows_agree_and_pairs_have_the_weak_response_on_one_side(finished):
    out, _ = finished
    weak = {row["id"]: row for row in read(out / "weak/weak_labels/results.jsonl")}
    icl = {row["id"]: row for row in read(out / "weak/icl_labels/results.jsonl")}
    kept = [row["id"] for row in read(out / "weak/select/weak.jsonl")]
    assert kept and all(weak[key]["pred"] == icl[key]["pred"] != "" for key in kept)
    pairs = read(out / "weak/pairs/pairs.jsonl")
    assert pairs and all((weak[row["id"]]["response"] in row["output"]) for row in pairs)


def test_the_extrapolated_checkpoint_is_expos_own(finished):
    out, _ = finished
    manifest = json.loads((out / "weak/extrapolate_dpo/model/expo.json").read_text())
    assert manifest["recipe"]["method"] == "extrapolate"


def test_the_same_command_again_makes_nothing(finished, capsys):
    out, _ = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    code, stdout, stderr = command(capsys, "w2s", "reasoning", "running-sum", "-o", out, *arguments())
    assert code == 0 and stderr.count("done before") == len(stderr.splitlines()) > 20
    assert before == {
        path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != ".lock"
    }
    code, stdout, _ = command(capsys, "w2s", "reasoning", "running-sum", "-o", out, "--json", *arguments())
    assert json.loads(stdout)["run"] == "running-sum"


def test_a_dry_run_names_what_a_change_reaches(finished, capsys):
    out, _ = finished
    changed = arguments(**{"pairs": {"agree": 0.35, "disagree": 0.3}})
    words = ["w2s", "reasoning", "running-sum", "-o", out, "--dry-run", "--json"]
    code, stdout, _ = command(capsys, *words, *changed)
    again = {row["stage"]: row["why"] for row in json.loads(stdout) if not row["done"]}
    assert code == 0 and again["weak/pairs"] == "settings changed: agree"
    assert set(again) == {
        "weak/pairs", "weak/preference_dpo", "weak/test_preference_dpo", "weak/extrapolate_dpo",
        "weak/test_extrapolate_dpo", "report",
    }  # fmt: skip
    _, stdout, _ = command(capsys, *words, "--from", "vote", *arguments())
    again = {row["stage"] for row in json.loads(stdout) if not row["done"]}
    assert "weak/vote" in again and "weak/pairs" in again and "weak/sample" not in again


def test_answers_of_another_tool_take_a_stages_place(finished, capsys, tmp_path):
    out, _ = finished
    rows = [{k: row[k] for k in ("id", "response")} for row in read(out / "weak/weak_labels/answers.jsonl")]
    given = tmp_path / "vllm.jsonl"
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = arguments(given={"weak/weak_labels": str(given)})
    code, stdout, _ = command(capsys, "w2s", "reasoning", "running-sum", "-o", out, "--dry-run", "--json", *changes)
    again = {row["stage"]: row["why"] for row in json.loads(stdout) if not row["done"]}
    assert code == 0 and again["weak/weak_labels"].startswith("settings changed") and "weak/select" in again
    from expo.weak_to_strong.actions import given_stage
    from expo.weak_to_strong.runfile import load_run

    run = load_run("running-sum", {key: json.dumps(value) for key, value in MINI.items()})
    inputs = {"given": given, "questions": out / "shared/prepare/train_2.jsonl"}
    (tmp_path / "made").mkdir()
    given_stage(run, tmp_path / "made", inputs)
    same = [{k: row[k] for k in ("id", "prompt", "pred", "result")} for row in read(tmp_path / "made/results.jsonl")]
    held = read(out / "weak/weak_labels/results.jsonl")
    assert same == [{k: row[k] for k in ("id", "prompt", "pred", "result")} for row in held]


def test_a_run_with_nothing_to_learn_from_says_so(finished, tmp_path):
    from expo.weak_to_strong.actions import pairs_stage, select_stage
    from expo.weak_to_strong.errors import StageError
    from expo.weak_to_strong.runfile import load_run

    out, _ = finished
    run = load_run("running-sum", {"pairs.agree": "1", "pairs.disagree": "1"})
    weak = read(out / "weak/weak_labels/results.jsonl")
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({**row, "pred": "x"}) + "\n" for row in weak))
    with pytest.raises(StageError, match=r"no question was kept \(differ 80\)"):
        select_stage(run, tmp_path / "s", {"weak": out / "weak/weak_labels/results.jsonl", "icl": other})
    votes = [json.loads(line) for line in (out / "weak/vote/votes.jsonl").read_text().splitlines()]
    none = tmp_path / "votes.jsonl"
    none.write_text("".join(json.dumps({**row, "confidence": 0.5}) + "\n" for row in votes))
    with pytest.raises(StageError, match=r"no pair was made \(unsure 80\)"):
        pairs_stage(run, tmp_path / "p", {"weak": out / "weak/weak_labels/results.jsonl", "votes": none})


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_report(finished, tmp_path):
    out, _ = finished
    words = [sys.executable, "-m", "expo", "w2s", "reasoning", "running-sum", "-o", str(tmp_path / "out"), *arguments()]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as running:
        for line in running.stderr:
            if "weak/strong_sft_weak" in line:
                running.kill()
                break
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0 and "weak/naive_sft: done before" in done.stderr, done.stderr
    assert not list((tmp_path / "out").rglob("*.partial"))
    for name in ("report.json", "report.md"):
        assert (tmp_path / "out/report" / name).read_bytes() == (out / "report" / name).read_bytes()


@pytest.mark.slow
def test_released_adapters_are_merged_and_evaluated(finished, tmp_path, capsys, monkeypatch):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    out, _ = finished
    base = out / "shared/prepare/strong_base"
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "nothing")  # B is 0: changes nothing
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(3.0)
    model.save_pretrained(tmp_path / "much")
    (tmp_path / "run.yaml").write_text(f"""\
name: released
pipeline: evaluate
data: {{train_2: {out}/shared/prepare/train_2.jsonl, test: {out}/shared/prepare/test.jsonl}}
extraction: 'regex:(\\d)\\s*$'
equivalence: string
strong: {base}
answering: {{max_tokens: 8}}
device: cpu
adapters:
  - {{name: nothing, adapters: [{tmp_path}/nothing]}}
  - {{name: both, adapters: [{tmp_path}/nothing, {tmp_path}/much]}}
""")
    code, stdout, stderr = command(
        capsys, "w2s", "reasoning", tmp_path / "run.yaml", "-o", tmp_path / "out", "--json", "--quiet"
    )
    assert code == 0, stderr
    (rows,) = json.loads(stdout)["tables"].values()
    assert [row["model"] for row in rows] == ["strong model as it comes", "nothing", "both"]
    same, plain, other = (
        [row["response"] for row in read(tmp_path / f"out/shared/test_{name}/answers.jsonl")]
        for name in ("nothing", "strong", "both")
    )
    assert same == plain and other != plain


@pytest.mark.slow
def test_two_weak_models_without_golds_and_with_a_judge_of_ones_own(finished, tmp_path, capsys):
    """As OlympicArena: a weak model as it comes, no gold for train_2, so no ceiling; here with a second, taught one."""
    out, _ = finished
    made = out / "shared/prepare"
    bare = [{key: row[key] for key in ("id", "prompt")} for row in read(made / "train_2.jsonl")]
    (tmp_path / "train_2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    judge = "import json, sys\nfor line in sys.stdin:\n    p = json.loads(line)\n"
    judge += "    print(json.dumps({'n': p['n'], 'correct': p['pred'] == p['gold']}))\n"
    (tmp_path / "judge.py").write_text(judge)
    trainer = "{max_steps: 2, batch_size: 16, precision: float32, save_every: 0}"
    (tmp_path / "run.yaml").write_text(f"""\
name: two
mode: published
data: {{train_1: {made}/train_1.jsonl, train_2: {tmp_path}/train_2.jsonl, test: {made}/test.jsonl}}
extraction: 'regex:(\\d)\\s*$'
equivalence: {sys.executable} {tmp_path}/judge.py
space: false
weak:
  - {{name: comes, model: {out}/weak/weak_sft/model, sft: false}}
  - {{name: taught, model: {made}/weak_base}}
strong: {made}/strong_base
ceiling: false
sets: [hybrid]
answering: {{max_tokens: 8}}
weak_sft: {trainer}
strong_sft: {trainer}
demos: {{shots: 1}}
drawing: {{samples: 3}}
pairs: {{agree: 0.3, disagree: 0.3, most: 3}}
preference: {{orpo: {trainer}}}
extrapolate: {{alphas: [0.2]}}
device: cpu
""")
    words = ["w2s", "reasoning", tmp_path / "run.yaml", "-o", tmp_path / "out", "--json", "--quiet"]
    code, stdout, stderr = command(capsys, *words)
    assert code == 0, stderr
    report = json.loads(stdout)
    assert set(report["tables"]) == {"comes", "taught"} and report["mended"] == []
    for rows in report["tables"].values():
        pgrs = [row["pgr"] for row in rows if "pgr" in row]
        assert pgrs and all(one == {"value": None, "note": "undefined: no ceiling"} for one in pgrs)
        assert all(row["accuracy"]["n"] == 40 for row in rows)
    assert "gold" not in read(tmp_path / "out/comes/weak_labels/results.jsonl")[0]
    assert not (tmp_path / "out/comes/weak_sft").exists() and (tmp_path / "out/taught/weak_sft").exists()
    assert report["stages"]["taught/extrapolate_orpo"]["chosen"] == "given"


@pytest.mark.slow
def test_the_embedded_run_at_its_full_size(tmp_path):
    words = [sys.executable, "-m", "expo", "w2s", "reasoning", "running-sum", "-o", tmp_path / "out", "--json"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    rows = {row["model"]: row["accuracy"]["value"] for row in json.loads(done.stdout)["tables"]["weak"]}
    assert rows["weak floor"] < rows["ceiling"] and rows["strong model as it comes"] < rows["ceiling"]
    assert {"hybrid, iteration 2", "hybrid + DPO", "hybrid + ORPO, extrapolated"} <= set(rows)
