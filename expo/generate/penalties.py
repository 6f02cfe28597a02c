"""Presence and frequency penalties: what an answer has said already becomes less likely, as OpenAI and vLLM define it.

logit - frequency x (times that the answer holds the token) - presence x (1 where it holds it), before the temperature.
The prompt's tokens do not count.
"""

from typing import Any

from torch import Tensor

from expo.generate.sampling import Sampling


class Penalties:
    """What the rows of one batch have said; as large as their logits."""

    def __init__(self, sampling: Sampling, n_rows: int):
        self.presence, self.frequency = sampling.presence_penalty, sampling.frequency_penalty
        self.n_rows = n_rows
        self.counts: Any = None  # (all rows, vocabulary), of the logits' type and device

    def applied(self, logits: Tensor, rows: list[int]) -> Tensor:
        """The logits (slots, vocabulary) of these rows, less the penalties."""
        if self.counts is None:
            self.counts = logits.new_zeros((self.n_rows, logits.shape[-1]))
        counts = self.counts[rows]
        return logits - self.frequency * counts - self.presence * (counts > 0)

    def add(self, rows: list[int], tokens: Tensor) -> None:
        """Each of these rows has said one more token."""
        self.counts[rows, tokens.to(self.counts.device)] += 1
