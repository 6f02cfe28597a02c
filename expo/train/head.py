"""Log-probabilities of the taught tokens alone: the (batch, length, vocabulary) logits never exist as a whole.

A model's forward is replaced on the instance, so that wrappers (DDP, FSDP, peft, autocast) still call it.
Knows no loss.
"""

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

IGNORED = -100
PIECE = 1 << 25  # logits at a time: 128 MiB of them in float32
_PROBE_TOLERANCE = 1e-3


def teach_tokens(model: Any, piece: int | None = None) -> None:
    """Let `model(..., targets=ids)` return the log-probability of each target, 0 where it is -100.

    targets: (batch, length), the ids themselves where they are taught.
    The result is {"logps": (batch, length - 1)}: entry i belongs to the token i + 1. Other calls are as before.
    Where the head does more than project (a soft cap, a scale), a probe notices, and whole logits are used.
    piece: logits that exist at a time; PIECE by default.
    """
    model.forward = types.MethodType(_forward, model)
    model.logits_at_a_time = piece
    model.selective_head = only_projects(model)


@contextmanager
def teaching(model: Any, piece: int | None = None) -> Iterator[None]:
    """teach_tokens for a while; the model's forward is as it was afterwards."""
    names = ("forward", "logits_at_a_time", "selective_head")
    before = {name: vars(model)[name] for name in names if name in vars(model)}
    try:
        teach_tokens(model, piece)
        yield
    finally:
        for name in names:
            vars(model).pop(name, None)
        vars(model).update(before)


def _forward(self, *args: Any, targets: Tensor | None = None, **inputs: Any) -> Any:
    if targets is None:
        return type(self).forward(self, *args, **inputs)
    return {"logps": _logps(self, targets, self.selective_head, *args, **inputs)}


def _logps(model: Any, targets: Tensor, selective: bool, *args: Any, **inputs: Any) -> Tensor:
    taught = targets[:, 1:] != IGNORED  # (batch, length - 1)
    wanted = targets[:, 1:][taught]  # (tokens,)
    states, head = before_head(model, taught, selective, *args, **inputs)
    piece = getattr(model, "logits_at_a_time", None) or PIECE
    found = _chosen(states, wanted) if head is None else _in_pieces(head, states, wanted, piece)
    return found.new_zeros(taught.shape).masked_scatter(taught, found)


def before_head(model: Any, taught: Tensor, selective: bool, *args: Any, **inputs: Any) -> tuple[Tensor, Any]:
    """(what the head reads to tell the taught tokens, the head); not selective: their logits, and None.

    taught: (batch, length - 1), True where the token behind is taught. The states are (tokens, width).
    """
    inputs = {name: value for name, value in inputs.items() if value is not None} | {"use_cache": False}
    if selective:
        return model.base_model(*args, **inputs).last_hidden_state[:, :-1][taught], model.get_output_embeddings()
    return type(model).forward(model, *args, **inputs).logits[:, :-1][taught], None


def _in_pieces(head: Any, hidden: Tensor, wanted: Tensor, piece: int) -> Tensor:
    """log p of each wanted id; beyond one piece the logits are made again in the backward pass."""
    n = max(1, piece // head.weight.shape[0])  # tokens at a time
    if len(hidden) <= n:
        return _projected(head, hidden, wanted)
    pieces = zip(hidden.split(n), wanted.split(n), strict=True)
    return torch.cat([checkpoint(_projected, head, *piece, use_reentrant=False) for piece in pieces])


def _projected(head: Any, hidden: Tensor, wanted: Tensor) -> Tensor:
    return _chosen(head(hidden), wanted)


def _chosen(logits: Tensor, wanted: Tensor) -> Tensor:
    """log softmax at the wanted ids, in float32."""
    logits = logits.float()
    return logits.gather(-1, wanted[:, None])[:, 0] - logits.logsumexp(-1)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """No dropout for a while; every module is as it was afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    for module, _ in before:
        # bitsandbytes packs a 4-bit layer for inference when it is evaluated on a CPU, and no gradient passes it then.
        module.training = type(module).__name__ == "Linear4bit"
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@torch.no_grad()
def only_projects(model: Any) -> bool:
    """Whether hidden states and head alone give the log-probabilities of the model's own logits."""
    head = model.get_output_embeddings()
    if getattr(head, "weight", None) is None or getattr(model.config, "is_encoder_decoder", False):
        return False
    ids = torch.arange(1, 9, device=head.weight.device)[None] % model.config.get_text_config().vocab_size
    found = []
    try:
        with evaluating(model):
            for selective in (True, False):
                found.append(_logps(model, ids, selective, input_ids=ids))
    except (AttributeError, TypeError):  # no base_model, or one that takes other inputs
        return False
    return torch.allclose(*found, atol=_PROBE_TOLERANCE, rtol=_PROBE_TOLERANCE)
