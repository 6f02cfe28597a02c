"""expo demo on the command line, with hardly any training: what it writes and what it says."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

from expo.cli.main import group


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One whole demo and where it ran."""
    home = tmp_path_factory.mktemp("home")
    command = [sys.executable, "-m", "expo", "demo", "--steps-scale", "0.02", "--seed", "7"]
    return subprocess.run(command, cwd=home, capture_output=True, text=True), home / "demo"


def test_it_ends_well_and_shows_its_table(done):
    result, _ = done
    assert result.returncode == 0, result.stderr
    for words in (
        "base -> SFT on a toy task, not the paper's SFT -> DPO",
        "stopped early on purpose",
        "seed 7",
        "95 % interval",
        "of 2000",
        "$ expo extrapolate --sft demo/base --dpo demo/sft --alpha ",
        "expo diff SFT DPO",
    ):
        assert words in result.stdout
    assert result.stderr.splitlines() == [
        "training the base model",
        "fine-tuning it (SFT)",
        "choosing alpha on validation questions",
        "answering test questions",
    ]


def test_it_leaves_three_checkpoints_that_transformers_loads(done):
    for name in ("base", "sft", "extrapolated"):
        model = AutoModelForCausalLM.from_pretrained(done[1] / name)
        asked = AutoTokenizer.from_pretrained(done[1] / name)("31475=", return_tensors="pt")["input_ids"]
        assert model(asked).logits.shape == (1, 6, model.config.vocab_size)


def test_its_figures_agree_with_each_other(done):
    record = json.loads((done[1] / "demo.json").read_text())
    assert record["finished"] and record["seed"] == 7
    assert [point["alpha"] for point in record["validation"]] == [i / 10 for i in range(11)]
    chosen = next(point for point in record["validation"] if point["alpha"] == record["alpha"])
    assert chosen["correct"] == max(point["correct"] for point in record["validation"])
    assert f"--alpha {record['alpha']:g} " in record["command"]
    for found in (*record["validation"], *record["test"].values()):
        low, high = found["interval"]
        assert low < found["accuracy"] < high and found["accuracy"] == found["correct"] / found["n"]
    test, gain = record["test"], record["gain"]
    assert gain["mean"] == pytest.approx(test["extrapolated"]["accuracy"] - test["sft"]["accuracy"])
    assert gain["interval"][0] <= gain["mean"] <= gain["interval"][1]


def test_it_draws_the_curve(done):
    pytest.importorskip("matplotlib")
    assert (done[1] / "alpha.png").read_bytes().startswith(b"\x89PNG")
    assert "wrote demo/alpha.png and demo/demo.json" in done[0].stdout


def test_an_earlier_demo_is_replaced_and_json_is_one_object(done, monkeypatch):
    monkeypatch.chdir(done[1].parent)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if matplotlib were missing
    monkeypatch.setattr("expo.cli.demo.N_QUESTIONS", 50)
    result = CliRunner().invoke(group, ["demo", "--steps-scale", "0.02", "--seed", "7", "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["picture"] is None and "pip install 'expo[plot]'" in result.stderr
    assert not (done[1] / "alpha.png").exists()
    assert record == json.loads((done[1] / "demo.json").read_text())


def test_a_folder_with_anything_else_is_refused_untouched(tmp_path):
    (tmp_path / "demo.json").write_text("{}")
    result = CliRunner().invoke(group, ["demo", "-o", str(tmp_path)])
    assert result.exit_code == 1 and "is no earlier demo" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"]
