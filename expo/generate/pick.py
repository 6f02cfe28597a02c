"""From logits to the next token of each row: greedy, or a draw that only the row's own key and step decide."""

import torch
from torch import Tensor

from expo.generate.noise import gumbel
from expo.generate.sampling import Sampling


def pick(logits: Tensor, sampling: Sampling, keys: list[int], steps: list[int]) -> Tensor:
    """The next tokens, int64 (rows,), of float32 logits (rows, vocabulary)."""
    if sampling.greedy:
        return logits.argmax(-1)  # the first of equals
    scaled = logits.to(torch.float64) / sampling.temperature
    kept = _nucleus(scaled, sampling.top_p, sampling.top_k)
    # argmax(log p + Gumbel) draws from p; a float's last bit in p moves it only where two tokens are as close.
    return (kept + gumbel(keys, steps, logits.shape[-1], logits.device)).argmax(-1)


def _nucleus(scaled: Tensor, top_p: float, top_k: int) -> Tensor:
    """The logits with -inf outside the top_k likeliest, and outside the fewest of those that hold top_p."""
    if top_k and top_k < scaled.shape[-1]:
        least = scaled.topk(top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, float("-inf"))
    if top_p < 1:
        ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
        shares = ordered.softmax(-1)
        outside = shares.cumsum(-1) - shares >= top_p  # what stands before a token holds top_p already
        scaled = scaled.masked_fill(outside.scatter(-1, order, outside), float("-inf"))
    return scaled
