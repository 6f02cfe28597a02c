"""What several models say together of the next token: p(v) = sum of weight * p_model(v) / sum of weights.

Probabilities are added, not logits, and in float64: where two logits differ, so do the sums made of them, and equal
members answer as one of them alone. Source: EnsemW2S (arXiv:2410.04571), "token-level, probability voting".
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def mixed(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The mixture's probabilities, float64 on the first's device, of each model's logits.  # all (..., vocabulary)"""
    total = sum(weights)
    whole: Tensor | None = None
    for one, weight in zip(logits, weights, strict=True):
        shares = torch.softmax(one, -1, dtype=torch.float64)
        if whole is None:
            whole = shares.mul_(weight / total)
        else:
            whole.add_(shares.to(whole.device), alpha=weight / total)
    assert whole is not None, "no member"
    return whole


def mixture(weights: Sequence[float], *, logs: bool) -> Callable[[list[Tensor]], Tensor]:
    """A Join for the decoding loop. logs: log p, as draws need it; else p, of which the largest is the same token."""

    def join(logits: list[Tensor]) -> Tensor:
        shares = mixed(logits, weights)
        return shares.log_() if logs else shares

    return join
