"""Counts the elements of a bf16 output that are not the correctly rounded extrapolation. SFT DPO OUT ALPHA.

The benchmark runs it once on each contender's output, so that nobody wins by writing something else. It looks at the
first rows of every tensor, in float64.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open

SAMPLE = 1 << 18  # elements of a tensor


def files(folder: str) -> dict[str, Path]:
    """Tensor name -> the shard that holds it."""
    held = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as shard:
            held |= dict.fromkeys(shard.offset_keys(), path)
    return held


def sample(path: Path, name: str) -> torch.Tensor:
    """The first rows of one tensor, exactly, as float64."""
    with safe_open(path, "pt") as shard:
        rows = shard.get_slice(name)
        width = max(1, torch.Size(rows.get_shape()[1:]).numel())
        return rows[: max(1, SAMPLE // width)].double()


def to_bf16_grid(x: torch.Tensor) -> torch.Tensor:
    """x rounded once, to nearest even, to the 8 significant bits of bf16; torch's own cast rounds twice."""
    bits = x.view(torch.int64)
    bits = bits + ((1 << 44) - 1) + ((bits >> 45) & 1)
    return (bits & ~((1 << 45) - 1)).view(torch.float64)


sft, dpo, out = map(files, sys.argv[1:4])
alpha = float(sys.argv[4])
if absent := sorted(dpo.keys() - out.keys()):
    sys.exit(f"the output lacks {len(absent)} tensors, {absent[0]} first")
wrong = total = 0
for name in dpo:
    a, b, written = sample(sft[name], name), sample(dpo[name], name), sample(out[name], name)
    wrong += int((written != to_bf16_grid(b + alpha * (b - a))).sum())
    total += written.numel()
print(json.dumps({"misrounded_percent": round(100 * wrong / total, 4), "n_elements": total}))
