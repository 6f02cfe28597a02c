"""EnsemW2S on the embedded task, small: the whole command, its steps, and what goes wrong."""

import contextlib
import io
import json
import shutil
import sys
from unittest import mock

import pytest
from engine import command
from w2s_files import read

from expo import toy
from expo.cli.main import main

MINI = {
    "seed": 3,
    "embedded": {"terms": 4, "pool": 160, "hardest": 32, "weak_pretraining": 2, "strong_pretraining": 2},
    "split": {"easy": 0.5, "ood": 0.16, "validation": 10, "test": 20},
    "boost.rounds": 2,
    "expert.max_steps": 3,
    "student.max_steps": 2,
}
RUNS = {
    "generation": ("running-sum", {"boost.prior": "samme", "expert.max_steps": 12, "merging.methods": ["linear"]}),
    "classification": (
        "running-sum-classes",
        {
            "boost.weighting": "resample",
            "boost.prior": 0.9,
            "difficulty": {"by": "experts", "folds": 2},
            "merging.methods": ["ties"],
        },
    ),
}


def words(kind, **changes):
    name, more = RUNS[kind]
    asked = MINI | more | changes
    return ["w2s", "ensemble", name, *(w for k, v in asked.items() for w in ("--set", f"{k}={json.dumps(v)}"))]


@pytest.fixture(scope="module", params=list(RUNS))
def finished(request, tmp_path_factory, few_objects):
    """The kind of a finished small run, its folder, and what the command printed on stdout and stderr."""
    out, said, told = tmp_path_factory.mktemp("run") / "out", io.StringIO(), io.StringIO()
    asked = ["expo", *words(request.param), "-o", str(out)]
    with mock.patch.object(sys, "argv", asked), contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        main()
    return request.param, out, said.getvalue(), told.getvalue()


def test_the_report_holds_every_round_and_student_with_n_and_interval(finished):
    kind, out, stdout, stderr = finished
    report = json.loads((out / "report/report.json").read_text())
    assert report["kind"] == kind and [one["round"] for one in report["rounds"]] == [0, 1]
    for one in report["rounds"]:
        assert set(one["own"]) == {"validation", "easy", "hard", "hardest"}
        for part in one["own"].values():
            assert part["n"] in (10, 20) and len(part["interval"]) == 2
    for rows in report["tables"].values():
        names = [row["model"].partition(":")[0] for row in rows]
        assert names[0] == "weak floor" and names[-3:] == ["naive student", "student", "ceiling"]
        merged = "all experts merged, " + ("linear" if kind == "generation" else "ties")
        assert {"ensemble of all experts", merged} <= set(names)
        for row in rows[-3:-1]:
            assert row["pgr"]["note"] or "interval" in row["pgr"]
            assert {"floor", "model", "ceiling", "n"} <= set(row["pgr"])
    for picture in ("rounds.png", "accuracy.png"):
        assert (out / "report" / picture).read_bytes()[:4] == b"\x89PNG"
    text = (out / "report/report.md").read_text()
    assert ("the generative form" in text.partition("What is ours")[2]) == (kind == "generation")
    assert (
        "eps of 0" in text.partition("What is ours")[2]
        and "95 % interval" in text
        and "student: the ensemble's labels" in stdout
    )
    for number in range(2):  # each expert's own accuracy is told as its round ends
        assert f"round_{number}/tests: on its own: validation" in stderr


def test_the_parts_are_apart_and_easier_first(finished):
    kind, out, _, _ = finished
    indices = json.loads((out / "split/indices.json").read_text())
    ids = [key for held in indices.values() for key in held]
    assert len(ids) == len(set(ids)) == 30 + 20 + sum(len(indices[part]) for part in ("train", "hard_train", "hardest"))
    parts = {name: read(out / "split" / f"{name}.jsonl") for name in indices}
    assert all([row["id"] for row in parts[name]] == indices[name] for name in indices)
    rated = {row["id"]: row["difficulty"] for row in read(out / "difficulty/difficulty.jsonl")}
    levels = {name: [rated[key] for key in held] for name, held in indices.items()}
    assert max(levels["train"]) <= min(levels["hard_train"]) and max(levels["hard"]) <= min(levels["hardest"])
    if kind == "classification":  # two experts have rated; neither was trained on what it rated
        folds = [{row["id"] for row in read(out / f"difficulty/fold_{n}/train.jsonl")} for n in range(2)]
        assert not folds[0] & folds[1] and len(folds[0] | folds[1]) == len(rated)
    else:
        assert set(levels["hardest"]) == {5.0}


def test_alphas_and_weights_follow_from_the_errors(finished):
    """From the files alone: the next round's weights are the last round's, grown where its expert is wrong."""
    import numpy as np

    from expo.weak_to_strong import boosting

    kind, out, _, _ = finished
    state = json.loads((out / "round_1/weigh/state.json").read_text())
    first, second = (
        np.concatenate([row["weights"] for row in read(out / f"round_{n}/weigh/weights.jsonl")]) for n in (0, 1)
    )
    assert first.mean() == pytest.approx(1) and second.mean() == pytest.approx(1)
    assert len(set(np.round(first / first.min(), 6))) == 2  # right or wrong
    rule = boosting.rule_of("samme" if kind == "generation" else 0.9, classes=len(toy.VOCABULARY))
    one = state["rounds"][0]
    wrong = first > first.min() * 1.0001
    assert one["error"] == pytest.approx(wrong.mean())
    assert one["alpha"] == pytest.approx(boosting.judge(wrong.mean(), rule, len(wrong)).alpha)
    grown = boosting.reweighted(np.ones(len(wrong)), wrong, one["alpha"], rule)
    assert first / len(first) == pytest.approx(grown)


def test_both_labellers_write_the_same_form_and_no_gold(finished):
    kind, out, _, _ = finished
    for who, experts in (("ensemble", None), ("single", 1)):
        rows = read(out / f"labels/{who}/labels.jsonl")
        assert [row["id"] for row in rows] == json.loads((out / "split/indices.json").read_text())["hard_train"]
        listed = json.loads((out / f"labels/{who}/experts.json").read_text())["experts"]
        assert experts is None or len(listed) == experts
        for row in rows:
            if kind == "classification":
                assert set(row) == {"id", "text", "label"}
                assert sum(row["label"]) == pytest.approx(1) and min(row["label"]) > 0
            else:
                assert set(row) == {"id", "prompt", "completion"}


def test_the_same_command_again_makes_nothing(finished, capsys):
    kind, out, _, _ = finished
    code, stdout, stderr = command(capsys, *words(kind), "-o", out, "--json")
    assert code == 0 and stderr.count("done before") == len(stderr.splitlines()) > 20
    assert json.loads(stdout)["kind"] == kind


def test_a_dry_run_names_what_a_change_reaches(finished, capsys):
    kind, out, _, _ = finished
    code, stdout, _ = command(capsys, *words(kind, **{"student.max_steps": 5}), "-o", out, "--dry-run", "--json")
    again = [row["stage"] for row in json.loads(stdout) if not row["done"]]
    assert code == 0 and "student/train" in again and "report" in again
    assert not any(name.startswith(("round", "labels", "split")) for name in again)


def test_a_missing_checkpoint_is_named_and_nothing_else_is_lost(finished, capsys, tmp_path):
    kind, out, _, _ = finished
    shutil.copytree(out, tmp_path / "out")
    shutil.rmtree(tmp_path / "out/round_1/expert/model")
    before = {path for path in (tmp_path / "out").rglob("*") if path.is_file() and ".partial" not in str(path)}
    code, _, stderr = command(capsys, *words(kind), "-o", tmp_path / "out")
    assert code == 1 and "round_1/expert/model is missing" in stderr and "--from round_1/expert" in stderr
    assert before <= set((tmp_path / "out").rglob("*"))
