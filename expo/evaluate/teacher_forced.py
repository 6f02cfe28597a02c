"""Teacher forcing: how right a model, or several that are mixed, would be about each token of given answers.

    found = teacher_forced("OUT", "train.jsonl")            # also an experts.json, or what expo.generate.load returned
    found[0].correct                                        # bool, one for each token of the first row's answer
    eps = (weights * ~correct).sum() / weights.sum()        # over the joined arrays: a boosting round's error

Rows are read and cut into tokens as the SFT trainer does it with the same settings, end token included, so that an
array of one number for each token here is a row's `weights` there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from expo.generate.members import load_answerer
from expo.generate.mixture import mixed
from expo.train.encode import Limits, Taught, check_template, encode_completions
from expo.train.errors import BadRows, Problem
from expo.train.exact import lengths_mask, pad
from expo.train.head import before_head, only_projects
from expo.train.load import context_of, filler_of
from expo.train.rows import completions, read_rows
from expo.train.settings import SftSettings, changed

BATCH_TOKENS = 4096  # prompts and answers of a batch, padding included
_PIECE = 1 << 22  # probabilities at a time: 32 MiB in float64


class Forced(NamedTuple):
    """What was said of one row's answer, given its prompt and the true tokens before each."""

    where: str  # file:line
    tokens: np.ndarray  # int64 (n,): the answer's tokens and its end token
    correct: np.ndarray  # bool (n,): whether the likeliest token is the true one
    logps: np.ndarray  # float64 (n,): log p of the true one


def teacher_forced(
    model: Any,
    rows: str | Path | Sequence[Mapping],
    settings: SftSettings | None = None,
    *,
    batch_tokens: int = BATCH_TOKENS,
    device: str = "auto",
    dtype: str | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
    **changes: Any,
) -> list[Forced]:
    """One Forced for each row, in the order of the rows; a batch changes nothing but a float's last bits.

    model: folder, Hub id, experts.json, or what expo.generate.load returned; several members are mixed as in decoding.
    rows, settings, changes: as for train_sft. Rows that its settings leave out are left out here.
    progress is called with rows done and rows in all. Raises TrainError, SourceError, ModelError, BadExperts.
    """
    settings = changed(settings or SftSettings(), changes)
    local = load_answerer(model, device=device, dtype=dtype, trust_remote_code=settings.trust_remote_code)
    answers = tokenized(local, rows, settings)
    readers = [_Reader(one) for one in local.models]
    weights = [weight for _, weight in local.asked] if hasattr(local, "asked") else [1.0]
    found: list[Any] = [None] * len(answers)
    done = 0
    for places in by_length([len(answer.ids) for answer in answers], batch_tokens):
        batch = [answers[place] for place in places]
        for place, one in zip(places, _forced(readers, weights, batch, filler_of(local.tokenizer)), strict=True):
            found[place] = one
        done += len(places)
        progress(done, len(answers))
    return found


def tokenized(model: Any, rows: str | Path | Sequence[Mapping], settings: SftSettings | None = None) -> list[Taught]:
    """The rows in tokens as the SFT trainer has them; the answer is ids[n_prompt:]. Reads no weights."""
    settings = settings or SftSettings()
    local = load_answerer(model, trust_remote_code=settings.trust_remote_code)
    kept = completions(read_rows(rows, split=settings.split), bad_rows=settings.bad_rows)
    max_length, context = context_of(local.config.get_text_config(), local.label, settings)
    max_length = min(max_length, local.context or max_length)
    check_template(local.tokenizer, kept.rows, settings.chat, local.label)
    limits = Limits(max_length, settings.too_long, context)
    how = {"chat": settings.chat, "end_token": settings.end_token}
    answers = encode_completions(local.tokenizer, kept.rows, limits, **how).rows
    what = "its prompt has no token, so that no model predicts the first token of its answer"
    if problems := [Problem("fields", answer.where, what) for answer in answers if not answer.n_prompt]:
        raise BadRows(problems, len(answers))
    return answers


class _Reader:
    """A model, and whether its logits are what its head makes of hidden states."""

    def __init__(self, model: Any):
        self.model, self.selective = model, only_projects(model)
        self.device = next(model.parameters()).device

    def states(self, ids: Tensor, mask: Tensor, taught: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """What the head reads at each taught token (tokens, width), and the head."""
        given = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
        states, head = before_head(self.model, taught.to(self.device), self.selective, **given)
        return states, head or (lambda logits: logits)


@torch.inference_mode()
def _forced(
    readers: Sequence[_Reader], weights: Sequence[float], batch: Sequence[Taught], filler: int
) -> Iterator[Forced]:
    ids = [answer.ids for answer in batch]
    padded, mask = pad(ids, filler, torch.int64), lengths_mask(ids)
    at = torch.arange(padded.shape[1])[None]
    start = torch.tensor([answer.n_prompt for answer in batch])[:, None]
    taught = ((at >= start) & (mask > 0))[:, 1:]  # (batch, length - 1)
    wanted = padded[:, 1:][taught]  # (tokens,)
    each = [reader.states(padded, mask, taught) for reader in readers]
    vocabulary = readers[0].model.config.get_text_config().vocab_size
    n = max(1, _PIECE // vocabulary)
    judged = [
        _judged([head(states[first : first + n]).float() for states, head in each], weights, wanted[first : first + n])
        for first in range(0, len(wanted), n)
    ]
    correct, logps = (torch.cat(parts).cpu().numpy() for parts in zip(*judged, strict=True))
    ends = np.cumsum([len(answer.ids) - answer.n_prompt for answer in batch])
    for answer, end in zip(batch, ends, strict=True):
        own = slice(end - len(answer.ids) + answer.n_prompt, end)
        tokens = np.array(answer.ids[answer.n_prompt :], dtype=np.int64)
        yield Forced(answer.where, tokens, correct[own], logps[own])


def _judged(logits: list[Tensor], weights: Sequence[float], wanted: Tensor) -> tuple[Tensor, Tensor]:
    """(Whether each wanted token is the mixture's likeliest, its log p.)  # both (tokens,)"""
    wanted = wanted.to(logits[0].device)
    correct = mixed(logits, weights).argmax(-1) == wanted
    shares = torch.tensor(weights, dtype=torch.float64, device=wanted.device) / sum(weights)
    alone = torch.stack([_logp(one, wanted.to(one.device)).to(wanted.device) for one in logits])  # (members, tokens)
    return correct, torch.logsumexp(alone + shares.log()[:, None], 0)


def _logp(logits: Tensor, wanted: Tensor) -> Tensor:
    """log p of each wanted token, float64."""
    wide = logits.double()
    return wide.gather(-1, wanted[:, None])[:, 0] - wide.logsumexp(-1)


def by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Places of rows of like length, the longest first; one row always fits."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
