"""The whole-model way: transformers loads both models, adds, saves. SFT DPO OUT ALPHA."""

import sys

import torch
from transformers import AutoModelForCausalLM

sft, dpo, out, alpha = *sys.argv[1:4], float(sys.argv[4])
model0 = AutoModelForCausalLM.from_pretrained(sft, dtype=torch.bfloat16)
model1 = AutoModelForCausalLM.from_pretrained(dpo, dtype=torch.bfloat16)
with torch.no_grad():
    for p0, p1 in zip(model0.parameters(), model1.parameters(), strict=True):
        p1.copy_(p1 + alpha * (p1 - p0))
model1.save_pretrained(out)
