"""The least that eager torch can do: the floor's reads and writes with an extrapolation's arithmetic between them.

Everything is computed in place in buffers that are used again: widen both, subtract, multiply, add, round. No checks,
no hashes, no resume. Processes, not threads, which wait for each other's interpreter. Prints its loop's seconds.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import floor
import torch

TILE = 65_536  # elements: the best of 16,384, 65,536 and 262,144 where this was written


def extrapolate(work: list, alpha: float) -> None:
    """Write bf16(b + alpha * (b - a)) for every tile."""
    stored = torch.empty(3, TILE, dtype=torch.bfloat16)
    views = [memoryview(row.view(torch.uint8).numpy()) for row in stored]
    wide = torch.empty(2, TILE)
    for fds, out, segment in work:
        for at, n_bytes in segment:
            n = n_bytes // 2
            a, b = wide[0, :n], wide[1, :n]
            for fd, view in zip(fds, views, strict=False):
                os.preadv(fd, [view[:n_bytes]], at)
            a.copy_(stored[0, :n])
            b.copy_(stored[1, :n])
            stored[2, :n].copy_(a.sub_(b).mul_(-alpha).add_(b))
            os.pwrite(out, views[2][:n_bytes], at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sft", type=Path)
    parser.add_argument("dpo", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--alpha", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(1)
    floor.TILE = 2 * TILE
    work = floor.segments(args.sft, args.dpo, args.out)
    start = time.perf_counter()
    children = []
    for k in range(args.threads):
        if not (child := os.fork()):
            with torch.inference_mode():
                extrapolate(work[k :: args.threads], args.alpha)
            os._exit(0)
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        sys.exit("a process failed")
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
