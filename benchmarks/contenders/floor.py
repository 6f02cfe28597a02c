"""The floor: reads what an extrapolation reads, writes what it writes, and computes nothing.

The same threads, the same tiles of each tensor, buffers that are used again: what is left is the price of moving the
bytes through Python. Knows the safetensors header; needs neither torch nor expo. Prints its loop's seconds.
"""

import argparse
import json
import mmap
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TILE = 262_144 * 2  # bytes of bf16
SEGMENT = 4  # tiles that one thread takes at a time


def tiles(path: Path) -> list[tuple[int, int]]:
    """(byte offset in the file, bytes) of every tile of every tensor, in file order."""
    with open(path, "rb") as file:
        n_head = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(n_head))
    entries.pop("__metadata__", None)
    spans = sorted(entry["data_offsets"] for entry in entries.values())
    return [(8 + n_head + at, min(TILE, end - at)) for start, end in spans for at in range(start, end, TILE)]


def segments(sft: Path, dpo: Path, out: Path | None) -> list[tuple[list[int], int | None, list[tuple[int, int]]]]:
    """(input fds, output fd, tiles) of every segment of the checkpoint; makes `out`, where named, and its files."""
    if out:
        out.mkdir()
    found = []
    for path in sorted(dpo.glob("*.safetensors")):
        every = tiles(path)
        if every != tiles(sft / path.name):
            raise SystemExit(f"{path.name}: the checkpoints are laid out differently")
        inputs = [os.open(folder / path.name, os.O_RDONLY) for folder in (sft, dpo)]
        file = os.open(out / path.name, os.O_WRONLY | os.O_CREAT) if out else None
        if out:
            os.pwrite(file, os.pread(inputs[-1], every[0][0], 0), 0)  # the header, so that the file can be read
        found += [(inputs, file, every[i : i + SEGMENT]) for i in range(0, len(every), SEGMENT)]
    return found


def move(work, n_inputs: int) -> int:
    """Drain the shared iterator `work` of (input fds, output fd, tiles); return the bytes read."""
    buffers = [memoryview(mmap.mmap(-1, TILE)) for _ in range(n_inputs)]
    n_bytes = 0
    for fds, out, segment in work:  # out is None where nothing is written
        for at, n in segment:
            for fd, buffer in zip(fds, buffers, strict=True):
                done = os.preadv(fd, [buffer[:n]], at)
                assert done == n, "an input is shorter than its header says"
                n_bytes += n
            done = n if out is None else os.pwrite(out, buffers[-1][:n], at)
            assert done == n, "the output folder is full"
    return n_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sft", type=Path)
    parser.add_argument("dpo", type=Path)
    parser.add_argument("out", type=Path, nargs="?", help="without it what would be written is discarded")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    work = iter(segments(args.sft, args.dpo, args.out))  # a list's iterator hands each segment to one thread only
    start = time.perf_counter()
    with ThreadPoolExecutor(args.threads) as pool:
        n_bytes = sum(pool.map(lambda _: move(work, 2), range(args.threads)))
    print(json.dumps({"seconds": time.perf_counter() - start, "n_bytes_read": n_bytes}))


if __name__ == "__main__":
    main()
