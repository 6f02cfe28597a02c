"""--push-to without -o: the result only passes through, two shards at a time; a broken run goes on where it was."""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from engine import command
from sharded import sharded
from standin_hub import Faults
from standin_hub.hub import TOKEN

import expo
from expo.errors import PushLost
from expo.output.hub import HubTarget

N_SHARDS = 6
SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture
def pair(read_from, tmp_path, monkeypatch):
    """org/sft and org/dpo of six shards on the Hub, the same in folders, and the result of the folders."""
    for seed, name in enumerate(("sft", "dpo")):
        read_from.add(f"org/{name}", sharded(tmp_path / name, N_SHARDS, 5_000, seed))
    monkeypatch.chdir(tmp_path)
    expo.extrapolate(sft="sft", dpo="dpo", output="local")
    return read_from


class Watch:
    """While it lasts: how many shards lie below a folder at most, their bytes, and a process's peak of memory."""

    def __init__(self, folder, pid=None):
        self.folder, self.pid = folder, pid
        self.most = self.n_bytes = self.peak_kib = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _watch(self):  # not all the time: the stand-in Hub lives in this process too
        while not self.over.wait(0.004):
            found = [os.path.join(root, name) for root, _, names in os.walk(self.folder) for name in names]
            sizes = []
            for path in found:
                with contextlib.suppress(FileNotFoundError):
                    if path.endswith(".safetensors"):
                        sizes.append(os.stat(path).st_blocks * 512)
            self.most, self.n_bytes = max(self.most, len(sizes)), max(self.n_bytes, sum(sizes))
            if self.pid:
                # Not ru_maxrss: that starts at the peak of the process that was forked.
                with contextlib.suppress(OSError):
                    status = Path(f"/proc/{self.pid}/status").read_text()
                    self.peak_kib = max([self.peak_kib, *map(int, re.findall(r"VmHWM:\s*(\d+) kB", status))])

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def weights(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors*"))}


def held(hub, repo_id):
    files = hub.repositories[repo_id].head.files
    return {name: blob.path.read_bytes() for name, blob in files.items() if ".safetensors" in name}


def slow_arrival(monkeypatch, seconds=0.05):
    """Uploads that take their time, and the shards that lie on the disk at the end of each."""
    seen, send = [], HubTarget.preupload

    def preupload(self, name, path):
        time.sleep(seconds)
        seen.append(sorted(other.name for other in path.parent.glob("*.safetensors")))
        send(self, name, path)

    monkeypatch.setattr(HubTarget, "preupload", preupload)
    return seen


def test_hub_to_hub_is_the_local_result_with_two_shards_on_the_disk(pair, tmp_path, capsys, monkeypatch):
    seen = slow_arrival(monkeypatch)
    arguments = ["--sft", "org/sft", "--dpo", "org/dpo", "--stream", "--push-to", "tester/out"]
    with Watch(tmp_path / "home") as watch:
        code, out, err = command(capsys, "extrapolate", *arguments, "--json")
    assert code == 0, err
    assert held(pair, "tester/out") == weights(tmp_path / "local")
    assert json.loads(out)["published"]["n_sent"] == N_SHARDS and json.loads(out)["output"] == "tester/out"
    assert watch.most <= 2 and max(map(len, seen)) == 2
    left = [path for path in (tmp_path / "home" / "state").rglob("*") if path.is_file()]
    assert [path.parent.name for path in left] == ["shown"] and not list(tmp_path.glob("*.partial"))
    code, _, err = command(capsys, "verify", "tester/out", "--stream")
    assert code == 0, err


def test_local_inputs_and_merges_pass_through_too(pair, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(
        "merge_method: linear\nmodels:\n"
        "  - {model: ./sft, parameters: {weight: 0.25}}\n  - {model: ./dpo, parameters: {weight: 0.75}}\n"
    )
    assert command(capsys, "merge", "recipe.yaml", "-o", "merged")[0] == 0
    code, _, err = command(capsys, "merge", "recipe.yaml", "--push-to", "tester/merged")
    assert code == 0, err
    assert held(pair, "tester/merged") == weights(tmp_path / "merged")


def test_no_output_and_no_target_is_a_mistake_of_usage(pair, capsys):
    assert command(capsys, "extrapolate", "--sft", "sft", "--dpo", "dpo")[0] == 2
    code, _, err = command(capsys, "extrapolate", "--sft", "sft", "--dpo", "dpo", "--push-to", "nobody/m", "--dry-run")
    assert code == 1 and "nobody" in err


def test_after_a_lost_connection_what_arrived_is_neither_made_nor_sent_again(pair, tmp_path, capsys, monkeypatch):
    arguments = ["--sft", "org/sft", "--dpo", "org/dpo", "--stream", "--push-to", "tester/out"]
    made = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "local").glob("*.safetensors")}
    pair.faults = Faults(1, ["500"], where=lambda request: request.method == "PUT" and len(whole()) >= 3)

    def whole():
        return [upload.sha256 for upload in pair.uploads.received if upload.whole]

    code, _, err = command(capsys, "extrapolate", *arguments)
    assert code == 1 and "tester/out" in err and "continues" in err, err
    place = next((tmp_path / "home" / "state" / "expo" / "results").iterdir())
    assert [folder.stat().st_mode & 0o77 for folder in (place, place.parent, place.parent.parent)] == [0, 0, 0]
    assert "tester/out" not in pair.repositories or not held(pair, "tester/out")
    assert len(list((tmp_path / "home" / "state").rglob("*.safetensors"))) <= 2
    pair.faults = Faults()
    n_before, n_arrived = len(pair.asked), len(whole())
    assert n_arrived >= 3
    code, out, err = command(capsys, "extrapolate", *arguments, "--json")
    assert code == 0, err
    assert held(pair, "tester/out") == weights(tmp_path / "local")
    assert len(whole()) == len(set(whole())) == N_SHARDS and set(whole()) == made
    assert json.loads(out)["segments_resumed"] >= n_arrived
    assert json.loads(out)["published"]["n_kept"] == n_arrived
    first = pair.repositories["org/dpo"].head.files["model-00001-of-00006.safetensors"].sha256
    again = [asked for asked in pair.asked[n_before:] if first in asked.path and asked.host == "storage"]
    # The header, the look at a sample, and one block: it lies ahead of nothing that is made again.
    assert len(again) <= 3


def test_another_recipe_for_the_same_target_says_whose_journal_is_in_its_way(pair, capsys):
    arguments = ["--sft", "org/sft", "--dpo", "org/dpo", "--stream", "--push-to", "tester/out"]
    pair.faults = Faults(1, ["500"], where=lambda request: request.method == "PUT")
    assert command(capsys, "extrapolate", *arguments)[0] == 1
    pair.faults = Faults()
    code, _, err = command(capsys, "extrapolate", *arguments, "--alpha", "0.5")
    assert code == 1 and "belongs to another run" in err and "rm -r" in err


def test_python_raises_and_goes_on(pair, tmp_path):
    planned = expo.plan(expo.extrapolation(sft="org/sft", dpo="org/dpo", stream=True))
    pair.faults = Faults(1, ["500"], where=lambda request: "/commit/" in request.path)
    target = HubTarget("tester/out")
    target.check()
    with pytest.raises(PushLost):
        expo.run(planned, target=target)
    pair.faults = Faults()
    target = HubTarget("tester/out")
    target.check()
    report = expo.run(expo.plan(expo.extrapolation(sft="org/sft", dpo="org/dpo", stream=True)), target=target)
    assert report.published.n_kept == N_SHARDS and held(pair, "tester/out") == weights(tmp_path / "local")


def expo_process(hub, home, *arguments):
    environment = {**os.environ, **hub.environment(home), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, SUPPORT / "hurried.py", "extrapolate", "--sft", "org/sft", "--dpo", "org/dpo", *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_memory_and_disk_stay_bounded_while_one_request_in_four_fails(standin, tmp_path):
    n_elements = 6 * 2**20
    for seed, name in enumerate(("sft", "dpo")):
        standin.add(f"org/{name}", sharded(tmp_path / name, 4, n_elements, seed))
    standin.latency = 0.01
    standin.faults = Faults(4, ["500", "429", "close", "reset"])
    child = expo_process(standin, tmp_path / "home", "--stream", "--push-to", "tester/out")
    with Watch(tmp_path / "home", child.pid) as watch:
        said, _ = child.communicate()
    assert child.returncode == 0, said
    assert TOKEN not in said
    assert 200 * 1024 < watch.peak_kib <= 512 * 1024
    assert 1 <= watch.most <= 2 and watch.n_bytes <= 2 * (4 * n_elements + 8192)
    expo.extrapolate(sft=tmp_path / "sft", dpo=tmp_path / "dpo", output=tmp_path / "local")
    assert held(standin, "tester/out") == weights(tmp_path / "local")
    assert len(standin.faults.failed) > 20
    for asked in standin.asked:
        assert asked.host == "hub" or TOKEN not in asked.header_text + asked.target


def test_after_kill_9_the_same_command_continues(standin, tmp_path):
    rounds, shard = 3, 4 * 2**16
    for seed, name in enumerate(("sft", "dpo")):
        standin.add(f"org/{name}", sharded(tmp_path / name, N_SHARDS, 2**16, seed))
    standin.latency = 0.02
    command = [sys.executable, str(SUPPORT / "killed.py"), "run", "2", "tester/m", str(rounds), "20261122"]
    environment = {**os.environ, **standin.environment(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == rounds and all(row["first"] is None for row in found), found
    expo.extrapolate(sft=tmp_path / "sft", dpo=tmp_path / "dpo", output=tmp_path / "local")
    for number, row in enumerate(found):
        assert row["second"].get("commit") == standin.repositories[row["target"]].head.sha, row
        assert held(standin, row["target"]) == weights(tmp_path / "local")
        assert row["second"]["n_kept"] >= 2 * number and row["second"]["resumed"] >= 2 * number
        received = [upload.n_bytes for upload in standin.uploads.received if upload.repo_id == row["target"]]
        assert sum(received) <= (N_SHARDS + 1) * (shard + 8192)
    assert not list((tmp_path / "home").rglob("*.safetensors"))


def test_a_dry_run_names_the_disk_of_two_shards_and_checks_their_place(pair, capsys, tmp_path, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(
        "merge_method: linear\nmodels:\n"
        "  - {model: org/sft, parameters: {weight: 0.25}}\n  - {model: org/dpo, parameters: {weight: 0.75}}\n"
    )
    extrapolate = ["extrapolate", "--sft", "org/sft", "--dpo", "org/dpo"]
    two = 2 * max(path.stat().st_size for path in (tmp_path / "local").glob("*.safetensors"))
    for given in (extrapolate, ["merge", "recipe.yaml"]):
        arguments = [*given, "--stream", "--push-to", "tester/out", "--dry-run"]
        code, out, err = command(capsys, *arguments, "--json")
        assert code == 0 and json.loads(out)["plan"]["peak_disk"] == two, err
        assert "40.2 kB of disk at a time;" in command(capsys, *arguments)[1]
        with monkeypatch.context() as full:
            full.setattr("expo.output.folder.shutil.disk_usage", lambda path: SimpleNamespace(free=two - 1))
            code, _, err = command(capsys, *arguments)
        assert code == 1 and "the output needs" in err
    assert not (tmp_path / "home" / "state").exists()
    pair.faults = Faults(1, ["500"], where=lambda request: request.method == "PUT")
    assert command(capsys, *extrapolate, "--stream", "--push-to", "tester/out")[0] == 1
    pair.faults = Faults()
    code, _, err = command(capsys, *arguments)
    assert code == 1 and "belongs to another run" in err


def test_a_finished_command_repeated_computes_nothing(pair, tmp_path, capsys):
    arguments = ["extrapolate", "--sft", "org/sft", "--dpo", "org/dpo", "--stream", "--push-to", "tester/out"]
    code, out, _ = command(capsys, *arguments)
    commit = pair.repositories["tester/out"].head.sha
    assert code == 0 and f"next: expo verify tester/out@{commit} --stream" in out
    n_before = len(pair.asked)
    code, out, err = command(capsys, *arguments)
    assert code == 0 and "holds exactly this already: nothing was committed" in out and "wrote" not in out, err
    # Headers and a look at a sample, but no shard is read through.
    assert sum(asked.n_bytes for asked in pair.asked[n_before:] if asked.host == "storage") < 15 * 20_000
    assert json.loads(command(capsys, *arguments, "--json")[1])["published"]["already"]
    assert not list((tmp_path / "home" / "state" / "expo" / "results").iterdir())


STAGES = """name: middle
merge_method: linear
models: [{model: org/sft}, {model: org/dpo}]
parameters: {weight: 0.5}
---
name: last
merge_method: extrapolate
base_model: org/sft
models: [{model: middle}]
parameters: {alpha: 0.3}
"""


def test_several_stages_that_are_shown_are_not_made_again(pair, tmp_path, capsys):
    (tmp_path / "stages.yaml").write_text(STAGES)
    assert command(capsys, "merge", "stages.yaml", "-o", "folder", "--quiet")[0] == 0
    arguments = ["merge", "stages.yaml", "--stream", "--push-to", "tester/out"]
    pair.faults = Faults(1, ["500"], where=lambda request: request.method == "PUT")
    assert command(capsys, *arguments)[0] == 1  # the first stage is there, and the second goes on
    pair.faults = Faults()
    assert command(capsys, *arguments)[0] == 0
    assert held(pair, "tester/out") == weights(tmp_path / "folder")
    n_before, state = len(pair.asked), tmp_path / "home" / "state" / "expo"
    code, out, err = command(capsys, *arguments)
    commit = pair.repositories["tester/out"].head.sha
    assert code == 0 and "holds exactly this already: nothing was committed" in out and "wrote" not in out, err
    assert f"next: expo verify tester/out@{commit} --stream" in out
    assert not [asked for asked in pair.asked[n_before:] if asked.host == "storage" and asked.n_bytes > 3_000]
    found = json.loads(command(capsys, *arguments, "--json", "--quiet")[1])
    assert found["published"]["already"] and found["tensors"] == N_SHARDS and found["asked_alpha"] == 0.3
    assert not list((state / "results").iterdir())
    (tmp_path / "stages.yaml").write_text(STAGES.replace("0.5", "0.25"))
    code, _, err = command(capsys, *arguments)
    assert code == 1 and "tester/out exists and holds other content" in err


def test_several_stages_are_refused_before_they_are_made_where_the_target_was_changed(pair, tmp_path, capsys):
    (tmp_path / "stages.yaml").write_text(STAGES)
    arguments = ["merge", "stages.yaml", "--stream", "--push-to", "tester/out"]
    assert command(capsys, *arguments)[0] == 0
    head = pair.repositories["tester/out"].head
    pair.repositories["tester/out"].commit({**head.files, "README.md": pair.blob(b"# Mine\n")}, message="by hand")
    n_before = len(pair.asked)
    code, _, err = command(capsys, *arguments)
    assert code == 1 and "tester/out exists and holds other content" in err
    # Headers, of files so small that they come whole; the stages would read each again.
    assert sum(asked.n_bytes for asked in pair.asked[n_before:] if asked.host == "storage") < 19 * 20_000


def test_a_finished_command_is_refused_before_it_computes_where_the_target_was_changed(pair, capsys, tmp_path):
    arguments = ["extrapolate", "--sft", "org/sft", "--dpo", "org/dpo", "--stream", "--push-to", "tester/out"]
    assert command(capsys, *arguments)[0] == 0
    head = pair.repositories["tester/out"].head
    pair.repositories["tester/out"].commit({**head.files, "README.md": pair.blob(b"# Mine\n")}, message="by hand")
    n_before = len(pair.asked)
    code, _, err = command(capsys, *arguments)
    assert code == 1 and "tester/out exists and holds other content" in err and "--overwrite" in err
    assert not [asked for asked in pair.asked[n_before:] if asked.method in ("PUT", "POST")]
    code, _, err = command(capsys, *arguments, "--overwrite")
    assert code == 0 and held(pair, "tester/out") == weights(tmp_path / "local"), err
