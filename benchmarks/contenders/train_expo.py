"""expo's trainer on the rows of a benchmark; prints seconds of the steps, first losses and memory as one JSON line."""

import json
import sys
import time
from pathlib import Path

from expo.train import train_dpo, train_sft


def main(kind: str, model: str, rows: str, output: str, batch: int, steps: int, precision: str, lr: float) -> None:
    ends: list[float] = []

    def progress(step: int, total: int, metrics: dict) -> None:
        if not metrics:
            ends.append(time.perf_counter())

    settings = {"batch_size": batch, "max_steps": steps, "precision": precision, "learning_rate": lr}
    settings |= {"warmup": 0.0, "log_every": 1, "save_every": 0, "schedule": "constant"}
    began = time.perf_counter()
    if kind == "dpo":
        cache = str(Path(output).with_name("cache"))
        report = train_dpo(model, rows, output, reference_cache=cache, progress=progress, **settings)
    else:
        report = train_sft(model, rows, output, progress=progress, **settings)
    lines = (Path(output) / "runs" / "metrics.jsonl").read_text().splitlines()
    told = {
        "seconds_of_steps": ends[-1] - ends[0],
        "seconds_in_all": time.perf_counter() - began,
        "tokens_of_steps": report.tokens // steps * (steps - 1),
        "losses": [json.loads(line)["loss"] for line in lines],
        "peak_device_mib": _device_mib(),
    }
    print(json.dumps(told))


def _device_mib() -> float | None:
    import torch

    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None


if __name__ == "__main__":
    kind, model, rows, output, batch, steps, precision, lr = sys.argv[1:]
    main(kind, model, rows, output, int(batch), int(steps), precision, float(lr))
