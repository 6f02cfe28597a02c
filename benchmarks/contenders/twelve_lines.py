"""The twelve lines a practitioner would write: shard by shard, lerp past the end. SFT DPO OUT ALPHA."""

import shutil
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

sft, dpo, out, weight = *map(Path, sys.argv[1:4]), 1 + float(sys.argv[4])
out.mkdir()
for shard in dpo.glob("*.safetensors"):
    with safe_open(sft / shard.name, "pt") as a, safe_open(shard, "pt") as b:
        merged = {k: torch.lerp(a.get_tensor(k), b.get_tensor(k), weight) for k in b.offset_keys()}
    save_file(merged, out / shard.name, metadata={"format": "pt"})
for side in dpo.glob("*.json"):
    shutil.copy(side, out)
