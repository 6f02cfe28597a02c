"""python -m standin_hub FOLDER [org/name=FOLDER ...]: serve until stdin closes; prints the address as a JSON line.

For measurements: the server is then a process of its own. Each line on stdin is answered with the counts so far.
"""

import argparse
import json
import sys
from pathlib import Path

from standin_hub.faults import Faults
from standin_hub.hub import TOKEN, Hub


def main() -> None:
    """Serve repositories made of folders."""
    parser = argparse.ArgumentParser(prog="standin_hub")
    parser.add_argument("folder", type=Path, help="where objects are kept")
    parser.add_argument("repositories", nargs="*", metavar="ID=FOLDER")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds a request")
    parser.add_argument("--fail-every", type=int, default=0)
    parser.add_argument("--kinds", default="500,429,close,reset")
    args = parser.parse_args()
    with Hub(args.folder, latency=args.latency) as hub:
        for text in args.repositories:
            repo_id, _, folder = text.partition("=")
            hub.add(repo_id, Path(folder) if folder else None)
        hub.faults = Faults(args.fail_every, args.kinds.split(","))
        print(json.dumps({"url": hub.url, "storage_url": hub.storage_url, "token": TOKEN}), flush=True)
        for _ in sys.stdin:
            sent = sum(asked.n_bytes for asked in hub.asked)
            counts = {"requests": len(hub.asked), "bytes_sent": sent, "failed": len(hub.faults.failed)}
            print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main()
