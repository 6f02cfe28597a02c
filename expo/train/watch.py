"""What is told while training goes on: a line of JSON for each log, and a call after each step."""

import json
import math
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

_NOT_METRICS = {"total_flos"}


class Watch(TrainerCallback):
    """Writes metrics.jsonl and reports progress; keeps the last metrics."""

    def __init__(self, metrics: Path, progress: Callable[[int, int, dict], object] | None):
        self.file = metrics
        self.progress = progress
        self.last: dict[str, float] = {}

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that a resumed run will do again, and a line that a kill cut."""
        kept = []
        for line in self.file.read_text().splitlines() if self.file.exists() else []:
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text("".join(kept))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
        """Append what was logged."""
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        found = {name: value for name, value in logs.items() if name not in _NOT_METRICS}
        self.last = {name: value for name, value in found.items() if _is_finite(value)}
        with open(self.file, "a") as file:
            file.write(json.dumps({"step": state.global_step, **self.last}) + "\n")
        if self.progress:
            self.progress(state.global_step, state.max_steps, self.last)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """The last step is always logged, and no checkpoint follows it: the result itself does."""
        if state.global_step >= state.max_steps:
            control.should_log, control.should_save = True, False
        if self.progress and state.is_world_process_zero:
            self.progress(state.global_step, state.max_steps, {})
        return control


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def peak_memory() -> int:
    """Bytes: of the GPU's allocator where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
