"""The decoding loop: several rows at once, one or more members, a KV cache each, left padding.

A member is a model that reads the same rows as the others, through prompts of its own; what they say of the next
token is joined into one distribution, and the token that is picked goes to all of them. One member is the special
case in which there is nothing to join. Knows token numbers only: no text, no questions, no files.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Join = Callable[[list[Tensor]], Tensor]  # float32 logits (rows, vocabulary) of each member -> one
Pick = Callable[[Tensor, list[int], int], Tensor]  # logits (slots, vocabulary), rows, step -> tokens (slots,)
Finish = Callable[[int, list[int]], str | None]  # row, all that it wrote -> why it ends, None where it goes on

_COMPACT = 0.75  # finished rows are dropped once no more than this share of the slots is alive


def alone(logits: list[Tensor]) -> Tensor:
    """The only member's own word."""
    (only,) = logits
    return only


class Member:
    """One model and its cache of the rows that it is reading."""

    def __init__(self, model: Any):
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        self.model = model
        self.device = next(model.parameters()).device
        self.accepts = set(inspect.signature(model.forward).parameters)
        self._new_cache = lambda: DynamicCache(config=model.config.get_text_config())
        plain = {DynamicLayer, DynamicSlidingWindowLayer}
        layers = {type(layer) for layer in self._new_cache().layers}
        # Other kinds of state (linear attention) hold what padding would spoil, and cannot be cut row by row.
        self.by_row = layers <= plain and "attention_mask" in self.accepts

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read the prompts from the start; logits of the token after each, float32 (rows, vocabulary)."""
        distinct = {tuple(prompt): None for prompt in prompts} if self.by_row else dict.fromkeys(range(len(prompts)))
        place = {key: number for number, key in enumerate(distinct)}
        read = list(distinct) if self.by_row else [tuple(prompt) for prompt in prompts]
        longest = max(map(len, read))
        tokens = torch.zeros((len(read), longest), dtype=torch.int64)
        mask = torch.zeros_like(tokens)
        for row, prompt in enumerate(read):
            tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        self.mask = mask.to(self.device)  # (rows, all tokens so far)
        self.cache = self._new_cache()
        logits = self._forward(tokens.to(self.device))
        if len(read) < len(prompts):  # samples of one question share the reading of its prompt
            which = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=self.device)
            self.keep(which)
            logits = logits[which]
        return logits

    def read(self, tokens: Tensor) -> Tensor:
        """Read one more token of each row (rows,); logits of the next."""
        self.mask = torch.cat([self.mask, self.mask.new_ones((len(tokens), 1))], dim=1)
        return self._forward(tokens.to(self.device)[:, None])

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, in this order; a row may come twice."""
        rows = rows.to(self.device)
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]

    def _forward(self, tokens: Tensor) -> Tensor:
        given: dict[str, Any] = {"input_ids": tokens, "past_key_values": self.cache, "use_cache": True}
        if "attention_mask" in self.accepts:
            given["attention_mask"] = self.mask
        if "position_ids" in self.accepts:
            positions = (self.mask.cumsum(-1) - 1).clamp_(min=0)
            given["position_ids"] = positions[:, -tokens.shape[1] :]
        if "logits_to_keep" in self.accepts:
            given["logits_to_keep"] = 1
        return self.model(**given).logits[:, -1].float()


@torch.inference_mode()
def decode(
    members: Sequence[Member],
    prompts: Sequence[Sequence[Sequence[int]]],
    *,
    pick: Pick,
    finish: Finish,
    join: Join = alone,
) -> Iterator[tuple[int, list[int], str]]:
    """(row, its tokens, why it ended) of every row, each as soon as it ends.

    prompts: for each member the prompt of every row. All rows of a member that cannot pad must be of one length.
    """
    rows = list(range(len(prompts[0])))  # the row in each slot
    written: list[list[int]] = [[] for _ in rows]
    alive = set(rows)
    logits = join([member.begin(own) for member, own in zip(members, prompts, strict=True)])
    for step in range(1 << 31):
        tokens = pick(logits, rows, step)  # (slots,)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if row in alive:
                written[row].append(token)
                if (why := finish(row, written[row])) is not None:
                    alive.discard(row)
                    yield row, written[row], why
        if not alive:
            return
        if len(alive) <= _COMPACT * len(rows) and all(member.by_row for member in members):
            slots = torch.tensor([slot for slot, row in enumerate(rows) if row in alive])
            tokens = tokens[slots.to(tokens.device)]
            rows = [row for row in rows if row in alive]
            for member in members:
                member.keep(slots)
        logits = join([member.read(tokens) for member in members])
