"""What a training run did, or would do. Imports no torch."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TrainReport:
    """The outcome of one run; of a dry run, what is known before it."""

    kind: str  # sft, dpo or classify
    model: str
    output: str
    rows: int  # trained on, pairs for dpo
    dropped: dict[str, int]  # kind of problem -> rows left out by policy
    truncated: int  # completions cut at max_length
    max_length: int
    tokens_each_epoch: int
    steps: int
    trainable: int = 0  # parameters; 0 in a dry run
    tokens: int = 0  # that the whole run was trained on, prompts included, padding not
    leg_tokens: int = 0  # of them, since `resumed_at`
    seconds: float = 0.0  # since `resumed_at`, loading included
    loss: float | None = None  # of the last logged steps
    metrics: dict[str, float] = field(default_factory=dict)  # the last logged
    peak_memory: int = 0  # bytes: of the GPU where there is one, else of the process
    resumed_at: int = 0  # step that an earlier, killed run had reached
    settings: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """All of it as a JSON object; tokens_per_second is of the last leg, as `seconds` is."""
        rate = self.leg_tokens / self.seconds if self.seconds else None
        return {**dataclasses.asdict(self), "tokens_per_second": rate}
