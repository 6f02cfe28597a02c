"""A whole study on the embedded task, small and fast; one on files; and run files that cannot be."""

import contextlib
import io
import json
import sys
from unittest import mock

import pytest
from engine import command
from w2s_files import read, write

from expo.cli.main import main

MINI = {
    "seeds": [100, 101],
    "embedded": {
        "terms": 4, "easy": [2], "tasks": 60, "test": 40, "pretraining": 3,
        "teachers": [{"name": "a", "slip": 0.3, "samples": 8}, {"name": "b", "slip": 0.7, "samples": 4}],
    },
    "lengths": {"short": 2, "two": 4, "three": 7},
    "sft.max_steps": 1,
    "grid": {
        "hard": [0.5], "subtask": [], "mixed": {"hard": [0.5], "subtask": [0]}, "paraphrase": [0.5],
        "steps": {"outcome": 0.9, "rates": [0.5]}, "equal": "counts",
    },
}  # fmt: skip
CELLS = ["hard-0.5", "hard-0.5+subtask-0", "hard-0.5+paraphrase", "hard-0.9-steps-0.5"]


def arguments(**changes):
    return [word for key, value in (MINI | changes).items() for word in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished small study, and what the command printed on stdout."""
    out, said = tmp_path_factory.mktemp("study") / "out", io.StringIO()
    words = ["expo", "w2s", "supervision", "running-sum", "-o", str(out), *arguments()]
    with mock.patch.object(sys, "argv", words), contextlib.redirect_stdout(said):
        main()
    return out, said.getvalue()


def test_every_cell_stands_in_the_report_with_its_rates_and_intervals(finished):
    out, stdout = finished
    report = json.loads((out / "report/report.json").read_text())
    found = report["tests"]["test"]
    assert [row["cell"] for row in found["cells"]] == CELLS and report["seeds"] == [100, 101]
    for row in found["cells"]:
        assert row["accuracy"]["n"] == 2 and len(row["accuracy"]["interval"]) == 2
        assert all(seed["n"] == 40 and len(seed["interval"]) == 2 for seed in row["seeds"].values())
        assert row["cell"] in stdout
        assert all(held["rows"] == 120 for held in report["sets"][row["cell"]]), "all sets are of equal size"
    assert len(found["claims"]) == 3 and [one["added"] for one in found["gains"]] == [
        "subtasks, 0% wrong",
        "paraphrases",
    ]
    assert "annotated by people" in report["note"]
    for picture in ("supervision-test.png",):
        assert (out / "report" / picture).read_bytes()[:4] == b"\x89PNG"
    text = (out / "report/report.md").read_text()
    assert all(claim["claim"] in text and claim["claim"] in stdout for claim in found["claims"])


def test_accuracies_and_rates_belong_to_the_files_that_lie_there(finished):
    """Recounted from answers and rows, with the task's own rules."""
    from expo import toy
    from expo.weak_to_strong.supervision.embedded import verdicts

    out, _ = finished
    report = json.loads((out / "report/report.json").read_text())
    for seed in (100, 101):
        golds = {row["id"]: row["gold"] for row in read(out / f"seed-{seed}/prepare/test.jsonl")}
        for row in report["tests"]["test"]["cells"]:
            folder = out / f"seed-{seed}" / row["cell"]
            answers = read(folder / "test_test/answers.jsonl")
            right = sum(toy.answer(one["response"].strip()) == golds[one["id"]] for one in answers)
            assert row["seeds"][str(seed)]["correct"] == right
        manifest = json.loads((out / f"seed-{seed}/sets/manifest.json").read_text())
        for name, told in manifest["sets"].items():
            rows = read(out / f"seed-{seed}/sets/{name}.jsonl")
            sums = {row["id"]: row["gold"] for row in rows}
            wrong = sum(row["response"][-1] != sums[row["id"]] for row in rows)
            assert wrong == told["wrong"] == told["wrong asked"]
            steps = [right for row in rows for right in verdicts(row["prompt"], row["response"])]
            assert sum(not right for right in steps) == told["steps"]["errors"] and len(steps) == told["steps"]["steps"]
            if told["asked"]["steps"]:
                assert abs(told["steps"]["errors"] - told["asked"]["steps"] * len(steps)) <= 4


def test_a_mixed_set_holds_subtasks_of_its_own_tasks_and_a_paraphrase_the_same_solution(finished):
    out, _ = finished
    seed = out / "seed-100"
    hard = {row["id"]: row for row in read(seed / "sets/hard-0.5.jsonl")}
    mixed = read(seed / "hard-0.5+subtask-0/rows/rows.jsonl")
    assert {row["task"] for row in mixed if "task" in row} <= set(hard)
    assert sum("task" in row for row in mixed) == 60 == sum("task" not in row for row in mixed)
    for row in read(seed / "hard-0.5+paraphrase/rows/rows.jsonl"):
        assert (
            row["response"] == hard[row["id"]]["response"]
            and row["prompt"].strip("=") + "=" == hard[row["id"]]["prompt"]
        )


def test_the_same_command_again_makes_nothing_and_a_changed_grid_only_its_cells(finished, capsys):
    out, _ = finished
    words = ["w2s", "supervision", "running-sum", "-o", out]
    code, stdout, stderr = command(capsys, *words, "--json", *arguments())
    assert code == 0 and stderr.count("done before") == len(stderr.splitlines()) > 20
    assert json.loads(stdout)["run"] == "supervision"
    grid = json.loads(json.dumps(MINI["grid"])) | {"hard": [0.5, 1]}
    code, stdout, _ = command(capsys, *words, "--dry-run", "--json", *arguments(grid=grid))
    again = {row["stage"] for row in json.loads(stdout) if not row["done"]}
    assert code == 0 and {"seed-100/sets", "seed-100/hard-1/student", "report"} <= again
    assert "seed-100/judge" not in again and "seed-100/prepare" not in again


def test_a_study_on_files_takes_judged_samples_as_they_are(finished, tmp_path, capsys):
    out, _ = finished
    seed = out / "seed-100"
    run = {
        "name": "files", "seeds": [7], "base": str(seed / "prepare/base"), "space": False, "device": "cpu",
        "data": {
            "tasks": str(seed / "prepare/tasks.jsonl"), "samples": {"a": str(seed / "judge/hard.jsonl")},
            "subtasks": str(seed / "decompose/subtasks.jsonl"),
            "subtask_samples": {"a": str(seed / "samples/subtask.jsonl")},
        },
        "tests": {"sums": str(seed / "prepare/test.jsonl")}, "extraction": r"regex:(\d)\s*$", "equivalence": "string",
        "answering": {"max_tokens": 6}, "threads": 1,
        "sft": {"learning_rate": 1e-3, "max_steps": 1, "precision": "float32", "save_every": 0},
        "grid": {"hard": [0.5], "subtask": [0], "teacher": "a", "equal": "tokens", "size": 300},
        "lengths": {"tokenizer": str(seed / "prepare/base")},
    }  # fmt: skip
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(run))
    code, stdout, stderr = command(capsys, "w2s", "supervision", file, "-o", tmp_path / "out", "--json")
    assert code == 0, stderr
    report = json.loads(stdout)
    assert [row["cell"] for row in report["tests"]["sums"]["cells"]] == ["hard-0.5", "subtask-0"]
    assert all(abs(held[0]["tokens"] - 300) <= 8 for held in report["sets"].values())
    found = report["tests"]["sums"]
    assert found["cells"][0]["accuracy"]["interval"] is None, "one seed has no interval over seeds"
    (told,) = found["claims"][0]["evidence"]
    assert told["difference"]["over"] == "questions" and len(told["difference"]["interval"]) == 2
    lost = read(seed / "samples/subtask.jsonl")
    strange = write(tmp_path / "strange.jsonl", [row | {"id": f"x{row['id']}"} for row in lost])
    words = ["w2s", "supervision", file, "-o", tmp_path / "out", "--set", f"data.subtask_samples={{a: {strange}}}"]
    code, _, stderr = command(capsys, *words)
    assert code == 1 and "belong to no task that is given" in stderr and (tmp_path / "out/report").is_dir()


def test_what_data_does_not_hold_a_teacher_makes(tmp_path):
    """Tasks alone: the stages before the sets, with a stand-in that decomposes, samples and judges steps."""
    from stand_in import chat, served

    from expo.weak_to_strong.stages import run_stages
    from expo.weak_to_strong.supervision.grid import build
    from expo.weak_to_strong.supervision.runfile import SupervisionFile

    prompt = "Question: Task {}?\nAnswer:"
    rows = [{"id": k, "prompt": prompt.format(k), "completion": "a b c", "gold": "1"} for k in range(4)]
    tasks = write(tmp_path / "tasks.jsonl", rows)
    form = "[SUBTASK {0}]\nPROBLEM: Part {0} of it?\nSOLUTION: It is 1.\nANSWER: 1\n"

    def reply(route, body, number):
        text = body["messages"][0]["content"]
        if "Steps to judge" in text:
            return 200, {}, chat("STEP 1: RIGHT")
        if "SUBTASK" in text:
            return 200, {}, chat(form.format(1) + form.format(2) + "[END]")
        return 200, {}, chat(*(f"The answer is: {k % 2}" for k in range(body.get("n", 1))))

    with served(reply) as server:
        run = SupervisionFile(
            name="x", seeds=(1,), base="b", data={"tasks": str(tasks)}, tests={"t": str(tasks)},
            teacher={"model": "t", "endpoint": server.url, "samples": 4}, lengths={"tokenizer": "words", "short": 1},
            grid={"hard": [0.5], "subtask": [0.5], "steps": {"outcome": 0.5, "rates": [0]}},
        )  # fmt: skip
        before = [one for one in build(run) if one.name.startswith("shared/") or one.name == "seed-1/sets"]
        run_stages(before, tmp_path / "out", say=lambda text: None)
        asked = len(server.requests)
        more = run.model_copy(update={"teacher": run.teacher.model_copy(update={"attempts": 5})})
        again = [one for one in build(more) if one.name.startswith("shared/")]
        made = [one.stage for one in run_stages(again, tmp_path / "out", say=lambda text: None) if not one.done]
        assert made == ["shared/judge_hard", "shared/decompose", "shared/judge_subtask"]
        assert len(server.requests) == asked, "answers outlive a changed setting"
    assert [stage.name for stage in before] == [
        "shared/sample_hard", "shared/judge_hard", "shared/decompose", "shared/sample_subtask", "shared/judge_subtask",
        "seed-1/sets",
    ]  # fmt: skip
    manifest = json.loads((tmp_path / "out/seed-1/sets/manifest.json").read_text())
    assert {name: told["wrong"] for name, told in manifest["sets"].items()} == {
        "hard-0.5": 2, "hard-0.5-steps-0": 2, "subtask-0.5": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid.hard": "[1.2]"}, "grid.hard: 1.2 is no rate from 0 to 1"),
        ({"grid.steps": "{outcome: 2, rates: [0.1]}"}, "grid.steps.outcome: 2 is out of range"),
        ({"grid.steps": "{outcome: 1, rates: [0.1, -1]}"}, "-1 is no rate from 0 to 1"),
        ({"grid.mixed": "{hard: [0.5]}"}, "needs rates for `hard` and for `subtask`"),
        ({"grid.size": "100", "grid.equal": "none"}, "goes with `equal: counts`"),
        ({"grid.teacher": "nobody"}, "'nobody' is none of the embedded teachers"),
        ({"grid.hart": "[0.5]"}, "'grid.hart' is no setting"),
        ({"embedded.easy": "[2, 5]"}, "`easy` must hold lengths from 2 to 4"),
        ({"embedded.tasks": "90000"}, "embedded.tasks: 90,000 questions of 5 numbers; there are 80,000"),
        ({"seed": "3"}, "a study has several: write `seeds: "),
        ({"seeds": "[1, 1]"}, "a seed is given twice"),
        ({"sft.learning_rat": "1"}, "learning_rat"),
        ({"released": "{}"}, "give one of `embedded`, `released` and `data`"),
        ({"extraction": "nonsense"}, "no extraction is called 'nonsense'"),
    ],
)
def test_run_files_that_cannot_be(changes, message, capsys, tmp_path):
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    code, _, stderr = command(capsys, "w2s", "supervision", "running-sum", "-o", tmp_path / "out", "--dry-run", *words)
    assert code == 1 and message in stderr, stderr


@pytest.mark.parametrize("name", ["running-sum", "released"])
def test_shipped_runs_are_listed_and_valid(name, capsys):
    code, stdout, _ = command(capsys, "w2s", "supervision", "--list")
    assert code == 0 and f"{name}: " in stdout
    from expo.weak_to_strong.runfile import load_run
    from expo.weak_to_strong.supervision.grid import build
    from expo.weak_to_strong.supervision.runfile import SupervisionFile

    run = load_run(name, {}, SupervisionFile)
    stages = build(run)
    assert stages[-1].name == "report" and len({stage.name for stage in stages}) == len(stages)


def test_means_and_differences_over_seeds_by_hand():
    from expo.weak_to_strong.supervision.seeds import difference, over_seeds, verdict

    found = over_seeds([0.1, 0.2, 0.3])
    assert found["value"] == pytest.approx(0.2)
    assert found["interval"] == pytest.approx([0.2 - 4.303 * 0.1 / 3**0.5, 0.2 + 4.303 * 0.1 / 3**0.5])
    marks = [[dict(enumerate(map(bool, row))) for row in rows] for rows in ([[0, 0], [0, 1]], [[1, 1], [1, 1]])]
    assert difference(*marks)["values"] == [1.0, 0.5] and difference([None, None], marks[1]) is None
    assert [verdict({"interval": bounds}) for bounds in ([0.1, 0.2], [-0.2, -0.1], [-0.1, 0.1], None)] == [
        "for", "against", "undecided", "undecided",
    ]  # fmt: skip
