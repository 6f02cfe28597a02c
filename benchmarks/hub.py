"""Measures what the Hub's door promises, against the stand-in Hub of the tests; one JSON line a part.

Each part is a file of its own with measure(work) -> {..., "holds": bool}.
"""

import argparse
import datetime
import importlib
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from measure import filesystem, keep, machine, versions  # noqa: E402

PARTS = {
    "push": "hub_push",
    "stream_in": "hub_stream_in",
    "stream_out": "hub_stream_out",
}  # key in the results -> module
PACKAGES = ["expo", "huggingface_hub", "hf_xet", "torch"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=sorted(PARTS), default=sorted(PARTS))
    parser.add_argument(
        "--work", type=Path, help="folder for checkpoints and the stand-in's objects; default: a new one"
    )
    parser.add_argument("--save", action="store_true", help="keep the result in results/hub-YYYY-MM-DD.json")
    args = parser.parse_args()
    if args.work:
        args.work.mkdir(parents=True, exist_ok=True)
    described = {"machine": machine(), "versions": versions(PACKAGES)}
    for part in args.parts:
        with tempfile.TemporaryDirectory(dir=args.work) as work:
            head = {"benchmark": part, "date": str(datetime.date.today()), **described}
            line = {**head, "filesystem": filesystem(Path(work))}
            line |= importlib.import_module(PARTS[part]).measure(Path(work))
        print(json.dumps(line), flush=True)
        if args.save:
            keep("hub", line)


if __name__ == "__main__":
    main()
