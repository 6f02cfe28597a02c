"""python killed.py push FOLDER TARGET ROUNDS SEED, or run ARRIVED TARGET ROUNDS SEED: killed by SIGKILL, then repeated.

`push` is killed at random moments, each third time after its first shard has arrived; `run` (org/sft and org/dpo, from
the Hub to the Hub) in round k when k times ARRIVED shards have arrived, and a random while later. Each try is a fork of
this process, so that ten of them take seconds.
Prints one JSON object a round.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.hf_api
import huggingface_hub.repocard  # noqa: F401
import numpy  # noqa: F401

import expo
from expo.errors import ExpoError
from expo.publish import push

AFTER_S = 0.1  # a shard takes about that long


def started(work: Callable[[], dict]) -> tuple[int, int]:
    """A process that does the work, and the pipe that it tells its end through."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        said = work()
    except ExpoError as error:
        said = {"error": str(error)}
    except BaseException as error:
        said = {"crash": repr(error)}
    os.write(writer, json.dumps(said).encode())
    os._exit(0)


def ended(pid: int, pipe: int) -> dict | None:
    """What a process said; None where it was killed."""
    with os.fdopen(pipe, "rb") as file:
        said = file.read()
    _, status = os.waitpid(pid, 0)
    return None if os.WIFSIGNALED(status) else json.loads(said)


def run(target: str) -> dict:
    """From the Hub to the Hub."""
    report = expo.extrapolate(sft="org/sft", dpo="org/dpo", stream=True, push_to=target)
    return {"resumed": report.segments_resumed, **report.published.record()}


def await_arrivals(n: int) -> None:
    """Return when the target that is pushed to remembers so many shards."""
    state = Path(os.environ["XDG_STATE_HOME"]) / "expo" / "push"
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if any(path.read_bytes().count(b"\n") >= n for path in state.glob("*/arrived")):
            return
        time.sleep(0.002)


def main() -> None:
    kind, given, base, rounds, seed = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
    random_ones = random.Random(seed)
    if kind == "run":
        expo.run  # noqa: B018  (loads torch before the forks)

        first, work = 0.0, run
    else:
        work = lambda target: push(given, target).record()  # noqa: E731
        began = time.monotonic()
        whole = ended(*started(lambda: work(f"{base}-whole")))
        first = time.monotonic() - began
        print(json.dumps({"whole": whole, "seconds": first}), flush=True)
    for number in range(rounds):
        target = f"{base}-{number}"
        pid, pipe = started(lambda target=target: work(target))
        moment = random_ones.uniform(0, first or AFTER_S)
        if kind == "run":
            await_arrivals(number * int(given))
        elif number % 3 == 0:  # however slow the machine is, some are killed between two shards
            await_arrivals(1)
            moment /= 4
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        before = ended(pid, pipe)
        after = ended(*started(lambda target=target: work(target)))
        print(
            json.dumps({"target": target, "moment": moment / (first or AFTER_S), "first": before, "second": after}),
            flush=True,
        )


main()
