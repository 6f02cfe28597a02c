"""Supervised fine-tuning: weighted cross-entropy on completions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expo.train.encode import Encoded, Limits, check_template, encode_completions
from expo.train.exact import Batch, ExactTrainer, batch_of, pad
from expo.train.head import IGNORED
from expo.train.losses import token_cross_entropy
from expo.train.report import TrainReport
from expo.train.rows import completions, read_rows
from expo.train.run import Task, train
from expo.train.settings import SftSettings, changed


class SftTrainer(ExactTrainer):
    """Divides the weighted loss of all taught tokens of a step by their weights."""

    def mass(self, batch: Batch) -> Tensor:
        """The sum of the weights of the taught tokens.  # (1,)"""
        return _weights(batch).sum()[None]

    def parts(self, model: Any, batch: Batch) -> Tensor:
        """The sum of the weighted loss.  # (1,)"""
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "targets")}
        logps = model(**inputs)["logps"]
        return token_cross_entropy(logps, _weights(batch)).sum()[None]


def _weights(batch: Batch) -> Tensor:
    """(batch, length - 1), 0 where nothing is taught."""
    taught = (batch["targets"] != IGNORED).float()
    return (taught * batch["weights"] if "weights" in batch else taught)[:, 1:]


def collate(rows: Sequence[tuple[int, Any]], filler: int) -> Batch:
    """Numbered rows as one batch."""
    numbers, taught = zip(*rows, strict=True)
    batch = batch_of(taught, numbers, filler)
    if any(row.weights is not None for row in taught):
        weights = [[1.0] * row.n_prompt + list(row.weights or [1.0] * (len(row.ids) - row.n_prompt)) for row in taught]
        batch["weights"] = pad(weights, 1.0, torch.float32)
    return batch


def _encode(tokenizer: Any, rows: list, limits: Limits, settings: SftSettings) -> Encoded:
    return encode_completions(tokenizer, rows, limits, chat=settings.chat, end_token=settings.end_token)


def train_sft(
    model: str | Path,
    data: str | Path | Sequence[Mapping],
    output: str | Path,
    settings: SftSettings | None = None,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int, dict], object] | None = None,
    warn: Callable[[str], object] | None = None,
    **changes: Any,
) -> TrainReport:
    """Fine-tune `model` on completions and write an ordinary checkpoint to `output`; returns what was done.

    See expo.train for the arguments. Rows: prompt/completion, messages, content/output or instruction/output;
    `weights`, one for each token of the completion and its end token, are optional. Raises TrainError, SourceError or
    OutputError.
    """
    settings = changed(settings or SftSettings(), changes)
    kept = completions(read_rows(data, split=settings.split), bad_rows=settings.bad_rows)
    task = Task("sft", kept, check_template, _encode, collate, SftTrainer)
    return train(task, model, output, settings, overwrite=overwrite, dry_run=dry_run, progress=progress, warn=warn)
