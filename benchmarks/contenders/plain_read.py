"""Reads both checkpoints once, from front to back, and keeps nothing: the rate that the disk allows.

Each thread reads a file of its own in large blocks, which is kinder to a disk than tiles. Prints its seconds.
"""

import argparse
import json
import mmap
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BLOCK = 1 << 20


def drain(path: Path) -> int:
    """Bytes of the file, all of them read."""
    buffer, at = mmap.mmap(-1, BLOCK), 0
    fd = os.open(path, os.O_RDONLY)
    try:
        while n := os.preadv(fd, [buffer], at):
            at += n
    finally:
        os.close(fd)
    return at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    paths = sorted((p for folder in args.folders for p in folder.glob("*.safetensors")), key=lambda p: p.name)
    start = time.perf_counter()
    with ThreadPoolExecutor(args.threads) as pool:
        n_bytes = sum(pool.map(drain, paths))
    print(json.dumps({"seconds": time.perf_counter() - start, "n_bytes_read": n_bytes}))


if __name__ == "__main__":
    main()
