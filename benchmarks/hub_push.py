"""Kill -9 during `expo push` at random moments of the upload: what the same command sends again, and what shows.

Each push is the real command in a process of its own; the Hub is the stand-in of the tests, in this process.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "support")]

from measure import ChildFailed  # noqa: E402
from sharded import sharded  # noqa: E402
from standin_hub import Faults, Hub  # noqa: E402

LATENCY_S = 0.02
PART = 4 * 2**20


def measure(work: Path, *, rounds: int = 10, shards: int = 5, mib: int = 16, seed: int = 0) -> dict:
    """The bar: after each kill the second push commits, and sends at most one shard again."""
    folder = sharded(work / "checkpoint", n_shards=shards, n_elements=mib * 2**18)
    files = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    with Hub(work / "hub", latency=LATENCY_S) as hub:
        hub.uploads.multipart_from, hub.uploads.part_size = 1, PART
        environment = {**os.environ, **hub.environment(work / "home")}
        took = _timed(hub, folder, environment)
        moments = random.Random(seed)
        found: list[dict] = []
        # A push that ends before its kill counts for nothing, and is not hidden either.
        while sum(row["killed"] for row in found) < rounds and len(found) < 2 * rounds:
            target = f"tester/r{len(found)}"
            found.append(_round(hub, folder, target, environment, moments.uniform(0, took)))
        for k, row in enumerate(found):
            row["shown_whole"] = _shown(hub, f"tester/r{k}") == files
            row["sent_again_shards"] = round(row.pop("bytes_again") / len(files[min(files)]), 3)
    again = max(row["sent_again_shards"] for row in found)
    holds = all(row["committed"] and row["shown_whole"] for row in found) and again <= 1
    return {
        "shards": shards,
        "mib_a_shard": mib,
        "latency_ms": LATENCY_S * 1000,
        "upload_seconds": round(took, 3),
        "rounds": found,
        "most_sent_again_shards": again,
        "kills_that_came_in_time": sum(row["killed"] for row in found),
        "at_most": 1,
        "holds": holds,
    }


def _push(folder: Path, target: str, environment: dict[str, str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "expo", "push", str(folder), target, "--json", "--quiet"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _first_upload(hub: Hub) -> threading.Event:
    """Set when the next large file begins to come."""
    begun = threading.Event()

    def seen(request) -> bool:
        if request.path.startswith("/uploads/"):
            begun.set()
        return False

    hub.faults = Faults(1, where=seen)
    return begun


def _timed(hub: Hub, folder: Path, environment: dict[str, str]) -> float:
    """Seconds from the first byte of a push to its commit."""
    marks: list[float] = []

    def seen(request) -> bool:
        if (request.path.startswith("/uploads/") and not marks) or "/commit/" in request.path:
            marks.append(time.perf_counter())
        return False

    hub.faults = Faults(1, where=seen)
    push = _push(folder, "tester/whole", environment)
    _, err = push.communicate()
    if push.returncode:
        raise ChildFailed(f"the push itself failed: {err.decode()}")
    return marks[-1] - marks[0]


def _round(hub: Hub, folder: Path, target: str, environment: dict[str, str], moment: float) -> dict:
    begun = _first_upload(hub)
    push = _push(folder, target, environment)
    begun.wait(120)
    time.sleep(moment)
    push.send_signal(signal.SIGKILL)
    push.communicate()
    again = _push(folder, target, environment)
    out, err = again.communicate()
    said = json.loads(out) if out else {"error": err.decode()}
    came = sum(upload.n_bytes for upload in hub.uploads.received if upload.repo_id == target)
    whole = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return {
        "killed_after_s": round(moment, 3),
        "killed": push.returncode == -signal.SIGKILL,
        "committed": "commit" in said,
        "arrived_before": said.get("n_kept"),
        "already": said.get("already"),
        "bytes_again": max(0, came - whole),
    }


def _shown(hub: Hub, repo_id: str) -> dict[str, bytes]:
    files = hub.repositories[repo_id].head.files
    return {name: blob.path.read_bytes() for name, blob in files.items() if name.endswith(".safetensors")}
