"""A push that is killed by SIGKILL at any moment: the same command commits, and sends at most one shard again."""

import json
import os
import subprocess
import sys
from pathlib import Path

from sharded import sharded
from standin_hub import Hub

ROUNDS = 10
SCRIPT = Path(__file__).parents[1] / "support" / "killed.py"


def test_after_kill_9_at_ten_random_moments_the_second_push_commits_and_sends_at_most_one_shard_again(tmp_path):
    folder = sharded(tmp_path / "out", n_shards=4, n_elements=1 << 15)
    shards = {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
    with Hub(tmp_path / "hub", latency=0.004) as hub:
        hub.uploads.multipart_from, hub.uploads.part_size = 1, 1 << 16
        environment = {**os.environ, **hub.environment(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(SCRIPT), "push", str(folder), "tester/m", str(ROUNDS), "20261122"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        whole, *rounds = map(json.loads, done.stdout.splitlines())
    assert whole["whole"]["n_sent"] == 4 and len(rounds) == ROUNDS
    killed_while_sending = 0
    for row in rounds:
        assert row["second"].get("commit"), row
        repository = hub.repositories[row["target"]]
        assert repository.head.sha == row["second"]["commit"]
        assert len(repository.commits) <= 3, "one commit beside the two of a new repository"
        assert {name: (folder / name).read_bytes() for name in shards} == {
            name: repository.head.files[name].path.read_bytes() for name in shards
        }
        received = [upload for upload in hub.uploads.received if upload.repo_id == row["target"]]
        assert sum(upload.n_bytes for upload in received) <= sum(shards.values()) + max(shards.values())
        killed_while_sending += row["first"] is None and row["second"]["n_kept"] > 0
    assert killed_while_sending >= 2, [row["moment"] for row in rounds]
    by_kills = ("reset", "broken pipe")
    assert all(any(word in error.lower() for word in by_kills) for error in hub.errors), hub.errors
