"""log p of completions under a live model, by the trainers' own encoding and head. Knows no files."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from expo.evaluate.metrics.halving import default_tokens, in_batches
from expo.generate.sizes import threads_for, window_of
from expo.train.encode import Limits, Taught

_NO_LIMIT = 1 << 40  # tokens: a config that states no window
_LOGITS_ON_CPU = 1 << 20  # at a time: 4 MiB of them in float32


class LogP(NamedTuple):
    """The sum of a completion's token log-probabilities, and how many tokens it has, its end included."""

    total: float
    tokens: int


def limits_of(model: Any) -> Limits:
    """As many tokens as the model's window has; longer examples are errors, never cut."""
    context = window_of(model.config)
    return Limits(context or _NO_LIMIT, "error", context)


def completion_logps(model: Any, tokenizer: Any, taught: Sequence[Taught], batch_tokens: int | None) -> list[LogP]:
    """A LogP for each encoded completion, in their order. Raises OutOfMemory."""
    import torch

    from expo.train.exact import batch_of
    from expo.train.head import teaching
    from expo.train.load import filler_of

    filler, device = filler_of(tokenizer), next(model.parameters()).device
    on_cpu = device.type == "cpu"

    def run(rows: list[Taught]) -> list[LogP]:
        batch = batch_of(rows, range(len(rows)), filler)
        inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask", "targets")}
        sums = model(**inputs)["logps"].to(torch.float64).sum(-1).tolist()
        return [LogP(total, len(row.ids) - row.n_prompt) for total, row in zip(sums, rows, strict=True)]

    with threads_for([model]), teaching(model, _LOGITS_ON_CPU if on_cpu else None):
        tokens = batch_tokens or default_tokens(model)
        return in_batches(taught, lambda row: len(row.ids), run, tokens=tokens)
