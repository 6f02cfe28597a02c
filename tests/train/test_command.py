"""`expo train`: results on stdout, progress on stderr, errors as one message, and what to run next."""

import json
import subprocess
import sys

import pytest
import torch
from engine import command
from taught import preferences, questions, weights, write_rows

import expo
from expo.recipe import Recipe


def test_dpo_names_the_extrapolation_that_follows(start, tmp_path, capsys):
    data = write_rows(tmp_path / "pairs.jsonl", preferences(8))
    options = ["--model", start, "--data", data, "-o", tmp_path / "dpo", "--max-steps", 2, "--lr", "1e-3"]
    code, out, err = command(capsys, "train", "dpo", *options, "--reference-cache", tmp_path / "r", "--loss", "ipo")
    assert code == 0, err
    after = f"expo extrapolate --sft {start} --dpo {tmp_path / 'dpo'} --alpha 0.3 -o {tmp_path / 'dpo-expo'}"
    assert out.splitlines()[-1] == f"next: {after}"
    assert "wrote" in out and "tokens/s" in out
    assert "step 1 of 2" in err and "step 1" not in out
    code, out, err = command(capsys, *after.split()[1:])
    assert code == 0, err
    assert weights(tmp_path / "dpo-expo").keys() == weights(start).keys()


def test_an_adapter_is_named_with_its_base_in_what_follows(start, tmp_path, capsys):
    usual = ["--model", start, "--max-steps", 1, "--lora-rank", 2, "--no-merge"]
    for kind, rows in (("sft", questions(8)), ("dpo", preferences(8))):
        own = ["--reference-cache", tmp_path / "r"] if kind == "dpo" else []
        data = write_rows(tmp_path / f"{kind}.jsonl", rows)
        code, out, err = command(capsys, "train", kind, *usual, *own, "--data", data, "-o", tmp_path / kind)
        assert code == 0, err
        after = out.splitlines()[-1].removeprefix("next: ")
        assert f" {start}+{tmp_path / kind} " in after
    code, out, err = command(capsys, *after.split()[1:])
    assert code == 0, err
    assert weights(tmp_path / "dpo-expo").keys() == weights(start).keys()


def test_json_is_one_object_and_quiet_says_nothing(start, tmp_path, capsys):
    data = write_rows(tmp_path / "d.jsonl", questions(8))
    options = ["--model", start, "--data", data, "--max-steps", 1, "--lora-rank", 2, "--lora-targets", "q_proj,v_proj"]
    code, out, err = command(capsys, "train", "sft", *options, "-o", tmp_path / "a", "--json", "--quiet")
    assert code == 0 and err == ""
    told = json.loads(out)
    assert told["steps"] == 1 and told["settings"]["lora"]["targets"] == ["q_proj", "v_proj"]
    code, out, err = command(capsys, "train", "sft", *options, "-o", tmp_path / "b", "--quiet")
    assert (code, out, err) == (0, "", "")


def test_classify_takes_names_of_classes(start, tmp_path, capsys):
    rows = [{"text": row["prompt"], "label": "yes"} for row in questions(8)]
    data = write_rows(tmp_path / "d.jsonl", rows)
    options = ["--model", start, "--data", data, "-o", tmp_path / "out", "--max-steps", 1]
    code, out, err = command(capsys, "train", "classify", *options)
    assert code == 1 and "only one class" in err and out == ""
    code, out, err = command(capsys, "train", "classify", *options, "--labels", "no, yes")
    assert code == 0, err
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"] == {"0": "no", "1": "yes"}


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        ((1, "1", "0"), "d.jsonl:2) are both labels. Write"),
        (([0.5, 0.5], [0.2, 0.3, 0.5]), "different lengths: 2 ("),
    ],
)
def test_labels_of_two_kinds_are_told_apart(labels, what, start, tmp_path, capsys):
    data = write_rows(tmp_path / "d.jsonl", [{"text": "1", "label": label} for label in labels])
    code, out, err = command(capsys, "train", "classify", "--model", start, "--data", data, "-o", tmp_path / "out")
    assert code == 1 and what in err and out == ""


def test_a_dry_run_states_steps_and_what_is_left_out(start, tmp_path, capsys):
    rows = [*questions(8), {"prompt": "1=", "completion": ""}, {"prompt": "1" * 70, "completion": "1"}]
    data = write_rows(tmp_path / "d.jsonl", rows)
    options = ["--model", start, "--data", data, "-o", tmp_path / "out", "--batch-size", 4, "--dry-run"]
    code, out, err = command(capsys, "train", "sft", *options)
    assert code == 1 and f"{data}:9: completion is empty" in err
    code, out, err = command(capsys, "train", "sft", *options, "--bad-rows", "drop")
    assert code == 1 and f"{data}:10: the prompt alone has 70 tokens; at most 64 fit" in err
    assert "The model's context is 64 tokens, so longer rows need another model" in err and "--max-length" not in err
    code, out, err = command(capsys, "train", "sft", *options, "--bad-rows", "drop", "--max-length", 40)
    assert code == 1 and "The model's context allows more: --max-length 64." in err
    code, out, err = command(capsys, "train", "sft", *options, "--bad-rows", "drop", "--too-long", "drop")
    assert code == 0, err
    assert "2 steps" in out and "8 rows" in out and "1 row left out (empty)" in err and "left out: 1 (empty)" in out
    assert "left out: 1 (prompt too long)" in out and "warning: " in err
    assert [path.name for path in tmp_path.iterdir()] == ["d.jsonl"]


@pytest.mark.parametrize(
    ("options", "code", "what"),
    [
        (["--model", "nowhere"], 1, "nowhere"),
        (["--data", "nowhere.jsonl"], 1, "nowhere.jsonl does not exist"),
        (["--lr", "0"], 1, "learning_rate (--lr): 0.0 is out of range"),
        (["--label-smoothing", "0.1", "--loss", "ipo"], 1, "label_smoothing belongs to --loss sigmoid"),
        (["--no-merge"], 1, "--no-merge is about adapters, and none are trained. Add --lora-rank 16"),
        (["--lora-alpha", "4", "--lora-targets", "q"], 1, "--lora-alpha, --lora-targets are about adapters"),
        (["--shard-size", "banana"], 1, "'banana' is not a size; write it as 5GB"),
        (["--optimizer", "adamw_troch"], 1, "transformers has no 'adamw_troch'. Did you mean 'adamw_torch'"),
        (["--optimizer", "galore_adamw"], 1, "optimizer (--optimizer): galore_adamw cannot be used here"),
        (["--loss", "hinge"], 2, "'hinge' is not one of"),
        (["--epochs", "many"], 2, "'many' is not a valid float"),
    ],
)
def test_wrong_options_are_one_message(options, code, what, start, tmp_path, capsys):
    data = write_rows(tmp_path / "pairs.jsonl", preferences(4))
    usual = ["--model", start, "--data", data, "-o", tmp_path / "out"]
    found, out, err = command(capsys, "train", "dpo", *usual, *options)
    assert found == code and what in err and out == "" and "Traceback" not in err
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_its_settings_import_no_torch():
    code = "import sys, expo.train, expo.train.settings, expo.cli.train, expo.train.rows; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_training_goes_on_from_base_plus_adapter(start, tmp_path, capsys):
    rows = write_rows(tmp_path / "d.jsonl", questions(8))
    first = ["--model", start, "--data", rows, "--max-steps", 3, "--lr", 0.05, "--lora-rank", 2, "--no-merge"]
    assert command(capsys, "train", "sft", *first, "-o", tmp_path / "adapter")[0] == 0
    whole = tmp_path / "whole"
    recipe = Recipe("passthrough", {"m": f"{start}+{tmp_path / 'adapter'}"}, dtype="float32")
    expo.run(expo.plan(recipe), whole)
    for name, model in (("a", f"{start}+{tmp_path / 'adapter'}"), ("b", whole)):
        step = ["--model", model, "--data", rows, "--max-steps", 1, "--lr", 1e-9, "-o", tmp_path / name]
        code, _, err = command(capsys, "train", "sft", *step)
        assert code == 0, err
    one, other, before = weights(tmp_path / "a"), weights(tmp_path / "b"), weights(start)
    assert all(torch.allclose(one[n].float(), other[n].float(), atol=1e-5) for n in other)
    assert any(not torch.allclose(one[n].float(), before[n].float(), atol=1e-4) for n in before)
