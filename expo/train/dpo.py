"""Preference training on pairs: DPO (sigmoid, with label smoothing), IPO, ORPO."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expo.train import losses
from expo.train.encode import Encoded, Limits, check_template, encode_pairs
from expo.train.exact import Batch, ExactTrainer, batch_of
from expo.train.head import IGNORED
from expo.train.reference import default_folder, reference_logps
from expo.train.report import TrainReport
from expo.train.rows import pairs, read_rows
from expo.train.run import Task, train
from expo.train.settings import DpoSettings, changed


class PreferenceTrainer(ExactTrainer):
    """Divides the loss of all pairs of a step by their number; ORPO's likelihood term by its tokens."""

    reference: Tensor | None = None  # (pairs, 2): log-probabilities before training

    def mass(self, batch: Batch) -> Tensor:
        """Pairs; for ORPO also the tokens of its likelihood term.  # (1,) or (2,)"""
        n = torch.tensor([len(batch["rows"])], device=batch["rows"].device)
        if self.settings.loss != "orpo":
            return n
        return torch.cat([n, (batch["targets"][: len(batch["rows"]), 1:] != IGNORED).sum()[None]])

    def parts(self, model: Any, batch: Batch) -> Tensor:
        """The sum of the pairs' losses; for ORPO beside it that of its likelihood term."""
        logps = self.token_logps(model, batch)
        answers = _answers(batch)  # (2 pairs, length - 1)
        chosen, rejected = (logps * answers).sum(-1).chunk(2)
        n_chosen, n_rejected = answers.sum(-1).chunk(2)
        if self.settings.loss == "orpo":
            odds = losses.odds_ratio(chosen / n_chosen, rejected / n_rejected)
            self._note(chosen / n_chosen, rejected / n_rejected)
            likelihood = -logps[: len(odds)].sum()  # of the targets: prompt included if asked for
            return torch.stack([self.settings.beta * odds.sum(), likelihood])
        before = self.reference[batch["rows"].cpu()].to(chosen.device)
        chosen, rejected = chosen - before[:, 0], rejected - before[:, 1]
        self._note(chosen, rejected)
        if self.settings.loss == "ipo":
            found = losses.ipo(chosen, rejected, n_chosen, n_rejected, beta=self.settings.beta)
        else:
            smoothing = self.settings.label_smoothing
            found = losses.sigmoid_dpo(chosen - rejected, beta=self.settings.beta, label_smoothing=smoothing)
        return found.sum()[None]

    def _note(self, chosen: Tensor, rejected: Tensor) -> None:
        beta = self.settings.beta
        figures = {"rewards_chosen": beta * chosen, "rewards_rejected": beta * rejected}
        self.note(**figures, margins=beta * (chosen - rejected), accuracy=(chosen > rejected).float())

    def token_logps(self, model: Any, batch: Batch) -> Tensor:
        """log p of each target, 0 elsewhere.  # (2 pairs, length - 1)"""
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "targets")}
        return model(**inputs)["logps"]

    def completion_logps(self, model: Any, batch: Batch) -> Tensor:
        """log p of each completion, all chosen, then all rejected.  # (2 pairs,)"""
        return (self.token_logps(model, batch) * _answers(batch)).sum(-1)

    def autocast(self) -> Any:
        """The arithmetic's precision, for passes outside of training."""
        bf16 = self.settings.precision == "bf16"
        return torch.autocast(self.args.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()


def _answers(batch: Batch) -> Tensor:
    """1 on completions' tokens, as predicted.  # (2 pairs, length - 1)"""
    return batch["answers"][:, 1:]


def collate(rows: Sequence[tuple[int, Any]], filler: int, *, prompt_loss: bool = False) -> Batch:
    """Numbered pairs as one batch: all chosen, then all rejected."""
    numbers, found = zip(*rows, strict=True)
    batch = batch_of([*(pair.chosen for pair in found), *(pair.rejected for pair in found)], numbers, filler)
    batch["answers"] = (batch["targets"] != IGNORED).float()
    if prompt_loss:
        taught = batch["attention_mask"].bool()
        batch["targets"] = batch["input_ids"].masked_fill(~taught, IGNORED)
    return batch


def _encode(tokenizer: Any, rows: list, limits: Limits, settings: DpoSettings) -> Encoded:
    return encode_pairs(tokenizer, rows, limits, chat=settings.chat, end_token=settings.end_token)


def _refer(trainer: PreferenceTrainer) -> None:
    """Give the trainer its table of reference log-probabilities."""
    if trainer.settings.loss == "orpo":
        return
    cache = trainer.settings.reference_cache
    folder = Path(cache) if cache else default_folder()
    found = [pair for _, pair in trainer.train_dataset]
    trainer.reference = reference_logps(trainer, found, folder, trainer.data_collator)


def train_dpo(
    model: str | Path,
    data: str | Path | Sequence[Mapping],
    output: str | Path,
    settings: DpoSettings | None = None,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int, dict], object] | None = None,
    warn: Callable[[str], object] | None = None,
    **changes: Any,
) -> TrainReport:
    """Train `model` on preference pairs and write an ordinary checkpoint to `output`; returns what was done.

    See expo.train for the arguments. Rows: prompt/chosen/rejected, chosen/rejected conversations, or
    instruction/output of [chosen, rejected]. The reference is `model` itself; its log-probabilities are computed once
    and cached. Raises TrainError, SourceError or OutputError.
    """
    settings = changed(settings or DpoSettings(), changes)
    kept = pairs(read_rows(data, split=settings.split), bad_rows=settings.bad_rows)
    prompt_loss = settings.loss == "orpo" and settings.orpo_prompt_loss

    def batch(rows: Sequence, filler: int) -> Batch:
        return collate(rows, filler, prompt_loss=prompt_loss)

    task = Task("dpo", kept, check_template, _encode, batch, PreferenceTrainer, ready=_refer)
    return train(task, model, output, settings, overwrite=overwrite, dry_run=dry_run, progress=progress, warn=warn)
