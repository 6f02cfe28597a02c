"""Gumbel noise that is a function of (seed, question, sample, step, token) alone, never of a generator's state."""

import json
from typing import Any

import torch
import xxhash
from torch import Tensor

_MASK = 0xFFFFFFFF


def draw_key(seed: int, question: Any, sample: int) -> int:
    """A 64-bit key for each sample of each question; 1 and "1" are two ids."""
    return xxhash.xxh3_64_intdigest(json.dumps([seed, "generate", question, sample]).encode())


def gumbel(keys: list[int], steps: list[int], n_tokens: int, device: torch.device | str) -> Tensor:
    """Standard Gumbel noise, float64 (rows, n_tokens); row i belongs to keys[i] and steps[i]."""
    words = [
        xxhash.xxh3_64_intdigest(step.to_bytes(8, "little"), seed=key) for key, step in zip(keys, steps, strict=True)
    ]
    low, high = ([word >> shift & _MASK for word in words] for shift in (0, 32))
    low, high = (torch.tensor(half, dtype=torch.int64, device=device)[:, None] for half in (low, high))
    # An integer hash of the token's number (Wellons' "lowbias32") between two halves of the row's key; in int64, whose
    # products are cut to 32 bits, since int32 would need sign corrections at every shift.
    word = torch.arange(n_tokens, dtype=torch.int64, device=device)[None] ^ high  # (rows, n_tokens)
    word = ((word ^ word >> 16) * 0x7FEB352D) & _MASK
    word = ((word ^ word >> 15) * 0x846CA68B) & _MASK
    word = (word + low) & _MASK
    word = ((word ^ word >> 16) * 0x7FEB352D) & _MASK
    word = word ^ word >> 15
    uniform = (word.to(torch.float64) + 0.5) * 2.0**-32  # never 0 or 1
    return -torch.log(-torch.log(uniform))
