"""sd-mecha's weighted sum, one shard at a time, since it takes single files. SFT DPO OUT ALPHA.

Runs in sd-mecha's own environment. The file is not called sd_mecha.py: it would import itself.
"""

import shutil
import sys
from pathlib import Path

import sd_mecha
import torch

sft, dpo, out, weight = *map(Path, sys.argv[1:4]), 1 + float(sys.argv[4])
out.mkdir()
for shard in dpo.glob("*.safetensors"):
    recipe = sd_mecha.weighted_sum(sd_mecha.model(sft / shard.name), sd_mecha.model(shard), alpha=weight)
    sd_mecha.merge(recipe, output=out / shard.name, output_dtype=torch.bfloat16)
for side in dpo.glob("*.json"):
    shutil.copy(side, out)
