"""What `--stream` and `--push-to` alone promise: their rate beside a plain parallel download, memory, disk, identity.

Knows the stand-in Hub, which runs in a process of its own; `measure.py` knows how to measure a process.
"""

import filecmp
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measure import MIB, spread

HERE = Path(__file__).resolve().parent
SUPPORT = HERE.parent / "tests" / "support"
CONNECTIONS = (2, 4, 8)
ROUNDS = 3
LATENCY_S = 0.03
RATE = 0.8  # of the plain download
MEMORY_MIB = 512


def make_pair(work: Path) -> Path:
    """Two checkpoints of 0.77 GB each in the shape of a small Llama."""
    command = [sys.executable, HERE / "make_checkpoints.py", work / "pair", "--times", "0.3", "--deltas", "1e-2"]
    subprocess.run([*map(str, command), "--shards", "6"], check=True, stdout=subprocess.DEVNULL)
    return work / "pair"


@contextmanager
def served(work: Path, pair: Path, *options: str) -> Iterator[dict[str, str]]:
    """A stand-in Hub with org/sft and org/dpo; the environment that leads to it."""
    environment = os.environ | {"PYTHONPATH": str(SUPPORT)}
    repositories = [f"org/sft={pair / 'sft'}", f"org/dpo={pair / 'dpo-1e-2'}"]
    command = [sys.executable, "-m", "standin_hub", str(work / "hub"), *repositories, *options]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as server:
        said = json.loads(server.stdout.readline())
        yield environment | {
            "HF_ENDPOINT": said["url"],
            "HF_TOKEN": said["token"],
            "HF_HOME": str(work / "home"),
            "XDG_STATE_HOME": str(work / "state"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "*",
        }
        server.stdin.close()


def run_json(command: list, environment: dict[str, str], state: Path | None = None) -> dict:
    """A command's JSON line, with its peak of memory and the most shards that lay below `state`."""
    began = time.perf_counter()
    with subprocess.Popen([*map(str, command)], env=environment, stdout=subprocess.PIPE, text=True) as child:
        watch = Watch(child.pid, state)
        said = child.stdout.read()
        watch.over.set()
        if child.wait():
            raise SystemExit(f"{command}: exit {child.returncode}")
    found = {"wall_s": time.perf_counter() - began, "peak_mib": watch.peak_kib / 1024, "shards": watch.most}
    return json.loads(said.splitlines()[-1]) | found


class Watch(threading.Thread):
    """Looks at a process's peak of memory and at the shards below a folder until it is over."""

    def __init__(self, pid: int, folder: Path | None):
        super().__init__(daemon=True)
        self.pid, self.folder, self.peak_kib, self.most, self.over = pid, folder, 0, 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.over.wait(0.005):
            try:
                lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
            except OSError:
                return
            self.peak_kib = max([self.peak_kib, *(int(x.split()[1]) for x in lines if x.startswith("VmHWM"))])
            if self.folder:
                held = [n for _, _, names in os.walk(self.folder) for n in names if n.endswith(".safetensors")]
                self.most = max(self.most, len(held))


def extrapolate(*options: object) -> list:
    """The command that is measured."""
    return [sys.executable, "-m", "expo", "extrapolate", "--json", "--quiet", *options]


def measure_in(work: Path) -> dict:
    """The rate of `--stream` for several numbers of connections, each beside a plain download; bits and memory.

    The plain download goes through huggingface_hub's session, as its own downloads do, and neither hashes nor writes;
    `--stream` checks every byte's hash, computes, writes, and shares the cores with the server. The floor, sockets
    that are received from and nothing else, is told beside it, without a bar.
    """
    pair = make_pair(work)
    streamed, rates = ["--sft", "org/sft", "--dpo", "org/dpo", "--stream"], {}
    plain_script = HERE / "contenders" / "plain_download.py"
    with served(work, pair, "--latency", str(LATENCY_S)) as environment:
        for n in CONNECTIONS:
            ratios, ours, plains, floors, peak = [], [], [], [], 0.0
            for _ in range(ROUNDS):
                ask = [sys.executable, plain_script, "org/sft", "org/dpo", "--connections", n]
                plain, floor = run_json(ask, environment), run_json([*ask, "--bare"], environment)
                mine = run_json(
                    extrapolate(*streamed, "--connections", n, "-o", work / "out", "--overwrite"), environment
                )
                plains.append(plain["n_bytes"] / MIB / plain["seconds"])
                ours.append(plain["n_bytes"] / MIB / mine["seconds"])
                floors.append(floor["n_bytes"] / MIB / floor["seconds"])
                ratios.append(ours[-1] / plains[-1])
                peak = max(peak, mine["peak_mib"], mine["peak_rss_mib"])  # the second with what its forks add
            rates[str(n)] = {
                "mib_per_s": spread(ours), "plain_mib_per_s": spread(plains), "ratio": spread(ratios),
                "floor_mib_per_s": spread(floors), "peak_mib": round(peak, 1),
            }  # fmt: skip
        local = ["--sft", pair / "sft", "--dpo", pair / "dpo-1e-2", "-o", work / "local"]
        seconds = run_json(extrapolate(*local), environment)["seconds"]
    identical = same_weights(work / "out", work / "local")
    quick = all(row["ratio"]["median"] >= RATE for row in rates.values())
    small = all(row["peak_mib"] <= MEMORY_MIB for row in rates.values())
    told = {"latency_s": LATENCY_S, "rounds": ROUNDS, "connections": rates, "local_seconds": seconds}
    return {**told, "identical": identical, "holds": identical and quick and small}


def measure_out(work: Path) -> dict:
    """Hub to Hub, without and with one request in four failing: bits, memory, and the shards on the disk."""
    pair, found = make_pair(work), {}
    for name, options in (("calm", ()), ("one in four fails", ("--fail-every", "4"))):
        with served(work / name, pair, *options) as environment:
            local = ["--sft", pair / "sft", "--dpo", pair / "dpo-1e-2", "-o", work / "local", "--overwrite"]
            run_json(extrapolate(*local), environment)
            through = ["--sft", "org/sft", "--dpo", "org/dpo", "--stream", "--push-to", "tester/out"]
            line = run_json(extrapolate(*through), environment, state=work / name / "state")
            fetch_back(work / name / "back", environment)
            identical = same_weights(work / name / "back", work / "local")
        found[name] = {key: round(line[key], 2) for key in ("wall_s", "seconds", "peak_mib", "shards")}
        found[name]["identical"] = identical
    good = all(row["identical"] and row["peak_mib"] <= MEMORY_MIB and 1 <= row["shards"] <= 2 for row in found.values())
    return {**found, "holds": good}


def fetch_back(folder: Path, environment: dict[str, str]) -> None:
    """Download what was published; the stand-in may fail that too, so until it comes."""
    code = "import sys, huggingface_hub as hub; hub.snapshot_download('tester/out', local_dir=sys.argv[1])"
    command = [sys.executable, "-c", code, str(folder)]
    for _ in range(20):
        if subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return


def same_weights(one: Path, other: Path) -> bool:
    """Whether two folders hold the same weight files, bit by bit."""
    names = sorted(path.name for path in other.glob("*.safetensors*"))
    return bool(names) and filecmp.cmpfiles(one, other, names, shallow=False)[0] == names
