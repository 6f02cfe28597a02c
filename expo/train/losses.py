"""The losses, pure functions of log-probabilities; each returns one value a row (or a token), never a mean.

Means are the trainer's work: it alone knows what the other processes and accumulation steps hold. Knows no model.
"""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid


def token_cross_entropy(logps: Tensor, weights: Tensor) -> Tensor:
    """-weight * log p, token by token; divide its sum by the sum of the weights.

    logps: of the taught tokens, 0 elsewhere; weights: 0 where nothing is taught. Both (batch, length).
    """
    return -weights * logps


def sigmoid_dpo(margins: Tensor, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """-log sigmoid(beta margin), and with smoothing e: -(1 - e) log sigmoid(beta m) - e log sigmoid(-beta m).

    margins: (log p - log ref) of chosen minus that of rejected, summed over each completion.  # (pairs,)
    Source: Rafailov et al., arXiv:2305.18290; smoothing: Mitchell's note on conservative DPO (cDPO).
    """
    right, wrong = logsigmoid(beta * margins), logsigmoid(-beta * margins)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def ipo(chosen: Tensor, rejected: Tensor, chosen_tokens: Tensor, rejected_tokens: Tensor, *, beta: float) -> Tensor:
    """(chosen / its tokens - rejected / its tokens - 1 / (2 beta))^2.

    chosen, rejected: log p - log ref, summed over each completion, whose lengths are given.  # (pairs,)
    Source: Azar et al., arXiv:2310.12036, eq. 17; the average a token is what its authors ran, and TRL's choice.
    """
    margin = chosen / chosen_tokens - rejected / rejected_tokens
    return (margin - 1 / (2 * beta)) ** 2


def odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-log sigmoid of the log odds ratio: ORPO's second term, before beta.

    chosen, rejected: average log p of a completion's tokens, below 0.  # (pairs,)
    Source: Hong et al., arXiv:2403.07691, eqs. 4 and 7.
    """
    log_odds = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))
    return -logsigmoid(log_odds)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, without cancellation on either side of -log 2."""
    x = x.clamp(max=-1e-7)  # a completion of probability 1 would have infinite odds, and a NaN for a gradient
    small = x > -0.6931471805599453
    # The branch not taken must be finite too: its gradient is multiplied by 0.
    near = torch.log(-torch.expm1(torch.where(small, x, -1.0)))
    far = torch.log1p(-torch.exp(torch.where(small, -1.0, x)))
    return torch.where(small, near, far)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-sum of target * log softmax(logits): cross-entropy with a distribution over classes.  # both (batch, classes)"""
    return -(targets * log_softmax(logits.float(), dim=-1)).sum(-1)
