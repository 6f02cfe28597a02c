"""Writes a copy of a checkpoint with a small step in every weight, as training would leave it, for measuring time.

python benchmarks/make_pair.py FOLDER OTHER [relative size of the step, 0.01]
"""

import sys
from pathlib import Path


def main(folder: Path, other: Path, size: float = 1e-2) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            step = torch.randn(weight.shape, generator=noise) * size * weight.float().std().nan_to_num(0.1)
            weight += step.to(weight.dtype)
    model.save_pretrained(other)
    AutoTokenizer.from_pretrained(folder).save_pretrained(other)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(float, sys.argv[3:]))
