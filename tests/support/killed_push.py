"""python killed_push.py FOLDER TARGET SEED: push, and be killed by SIGKILL at a random moment; then push again.

Each push is a fork of this process, so that ten of them take seconds. Prints one JSON object a round.
"""

import json
import os
import random
import signal
import sys
import time

import huggingface_hub.hf_api
import huggingface_hub.repocard  # noqa: F401
import numpy  # noqa: F401

from expo.errors import ExpoError
from expo.publish import push


def started(folder: str, target: str) -> tuple[int, int]:
    """A process that pushes, and the pipe that it tells its end through."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        said = push(folder, target).record()
    except ExpoError as error:
        said = {"error": str(error)}
    except BaseException as error:
        said = {"crash": repr(error)}
    os.write(writer, json.dumps(said).encode())
    os._exit(0)


def ended(pid: int, pipe: int) -> dict | None:
    """What a push said; None where it was killed."""
    with os.fdopen(pipe, "rb") as file:
        said = file.read()
    _, status = os.waitpid(pid, 0)
    return None if os.WIFSIGNALED(status) else json.loads(said)


def main() -> None:
    folder, base, rounds, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    began = time.monotonic()
    whole = ended(*started(folder, f"{base}-whole"))
    took = time.monotonic() - began
    print(json.dumps({"whole": whole, "seconds": took}), flush=True)
    moments = random.Random(seed)
    for number in range(rounds):
        target = f"{base}-{number}"
        pid, pipe = started(folder, target)
        moment = moments.uniform(0, took)
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        first = ended(pid, pipe)
        second = ended(*started(folder, target))
        print(json.dumps({"target": target, "moment": moment / took, "first": first, "second": second}), flush=True)


main()
