"""Two processes under torchrun compute what one computes with two batches a step."""

import json
import subprocess
import sys

import pytest
from taught import EXACT, distance, logs, preferences, questions, write_rows

from expo.errors import NoRendezvous, RankGone
from expo.train import train_dpo, train_sft
from expo.train.processes import among_processes

SETTINGS = {"max_steps": 3, "batch_size": 2, "learning_rate": 1e-3, "optimizer": "sgd", **EXACT}
SCRIPT = """
import json, sys
import torch
torch.set_num_threads(1)
from expo.train import train_dpo, train_sft
start, home, told = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3]))
train_sft(start, told["sft"], home + "/sft", **told["settings"])
train_dpo(start, told["dpo"], home + "/dpo", reference_cache=home + "/r", **told["settings"])
"""


LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.parametrize("what", ["row", "output"])
def test_one_of_two_processes_says_what_is_wrong(what, start, tmp_path):
    rows = [{"prompt": "1=", "completion": "" if what == "row" else "1"}]
    data = write_rows(tmp_path / "d.jsonl", rows)
    if what == "output":
        (tmp_path / "out").mkdir()
    options = ["--model", str(start), "--data", str(data), "-o", str(tmp_path / "out")]
    done = subprocess.run(
        [*LAUNCH, "-m", "expo", "train", "sft", *options], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and done.stderr.count("error: ") == 1, done.stderr
    told = {"row": "completion is empty", "output": "out exists. To replace it"}[what]
    assert told in done.stderr
    for word in ("gloo", "destroy_process_group", "expo/train/"):
        assert word not in done.stderr, done.stderr


def test_two_processes_are_two_batches_a_step(start, tmp_path):
    rows = [{**row, "weights": (i % 3) / 2} for i, row in enumerate(questions(8))]
    for i, row in enumerate(rows[::2]):
        row["weights"] = [0.25 * i + j for j in range(len(row["completion"]) + 1)]
    pairs = preferences(8)
    (tmp_path / "run.py").write_text(SCRIPT)
    (tmp_path / "told.json").write_text(json.dumps({"sft": rows, "dpo": pairs, "settings": SETTINGS}))
    command = [*LAUNCH, str(tmp_path / "run.py"), str(start), str(tmp_path), str(tmp_path / "told.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    train_sft(start, rows, tmp_path / "one-sft", accumulation=2, **SETTINGS)
    train_dpo(start, pairs, tmp_path / "one-dpo", accumulation=2, reference_cache=str(tmp_path / "r2"), **SETTINGS)
    for kind in ("sft", "dpo"):
        assert distance(tmp_path / kind, tmp_path / f"one-{kind}") < 1e-6
        for two, one in zip(logs(tmp_path / kind), logs(tmp_path / f"one-{kind}"), strict=True):
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
            assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
        told = json.loads((tmp_path / kind / "runs" / "train.json").read_text())
        assert told["tokens"] == json.loads((tmp_path / f"one-{kind}" / "runs" / "train.json").read_text())["tokens"]


def test_copies_that_know_nothing_of_each_other_are_refused(start, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(NoRendezvous, match="torchrun"):
        train_sft(start, questions(2), tmp_path / "out", **SETTINGS)
    assert not list(tmp_path.glob("out*"))


def test_a_lost_process_is_one_error_that_says_so(monkeypatch):
    def lost(text):
        with among_processes():
            raise RuntimeError(text)

    with pytest.raises(RuntimeError, match="gloo"):
        lost("gloo: alone this is no other process")
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RankGone, match="the same command continues"):
        lost("[third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer")
    with pytest.raises(RuntimeError, match="shapes"):
        lost("shapes cannot be multiplied")
