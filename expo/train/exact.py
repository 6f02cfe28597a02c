"""A Trainer whose loss is one quotient over all processes and accumulation steps, and which stops at the first NaN.

The quotient's numerators and denominators come from subclasses. So 1 x 4 rows, 4 x 1 rows and 2 processes give the same
gradient. Knows no field, no file and no particular loss.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from expo.train.errors import NonFiniteLoss

Batch = dict[str, Any]


class ExactTrainer(Trainer):
    """Minimises the sum over k of (sum of the loss's k-th part) / (the k-th mass), sums over all that makes a step.

    A subclass gives `mass(batch)` and `parts(model, batch)`, both (k,); it may count figures with `note`.
    where: file and line of each row; a batch names its rows in "rows". settings: of the task.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, *, where: Sequence[str], settings: Any, **arguments: Any):
        super().__init__(**arguments)
        self.where, self.settings = where, settings
        self.noted: dict[str, Tensor] = {}  # name -> (sum, count), since the last log
        self.tokens = torch.zeros((), dtype=torch.int64, device=self.args.device)  # of this process, since it began
        self.tokens_before = 0  # of all processes, when an earlier run wrote the checkpoint that this one goes on from

    def mass(self, batch: Batch) -> Tensor:
        """What the loss's parts are divided by, summed over all batches of a step.  # (k,)"""
        raise NotImplementedError

    def parts(self, model: Any, batch: Batch) -> Tensor:
        """The loss's parts, each a sum over the batch.  # (k,)"""
        raise NotImplementedError

    # --- One loss, however it is cut ---------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: Any) -> tuple[list, Tensor | None]:
        """The batches of one step, and their mass over all processes."""
        batches = list(islice(epoch_iterator, num_batches))
        if not batches:
            return batches, None
        mass = torch.stack([self.mass(batch).float() for batch in batches]).sum(0).to(device)
        if self.args.world_size > 1:
            mass = self.accelerator.reduce(mass, reduction="sum")
        return batches, mass

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Tensor | None = None
    ) -> Any:
        """This batch's share of the step's loss, times the number of processes, whose mean DDP takes."""
        rows = inputs["rows"]
        parts = self.parts(model, inputs)
        mass = self.mass(inputs).float() if num_items_in_batch is None else num_items_in_batch
        mass = torch.where(mass > 0, mass, 1.0)  # all weights are 0: so are the parts
        loss = (parts / mass.to(parts.dtype)).sum() * self.accelerator.num_processes
        if not torch.isfinite(loss.detach()):
            raise NonFiniteLoss(self._stopped(f"the loss is {loss.item()}", [self.where[i] for i in rows.tolist()]))
        self.tokens += inputs["attention_mask"].sum()
        return (loss, {}) if return_outputs else loss

    def _get_grad_norm(self, model: Any, grad_norm: Tensor | None = None) -> Any:
        """The gradient's norm; a gradient that is not finite never reaches the weights."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not torch.isfinite(torch.as_tensor(norm)):
            raise NonFiniteLoss(self._stopped("the gradient is not finite", []))
        return norm

    def _stopped(self, what: str, rows: list[str]) -> str:
        lines = [f"Step {self.state.global_step + 1}: {what}; training stopped before the weights were changed."]
        if rows:
            lines.append(f"Rows of that batch: {', '.join(rows[:8])}{', ...' if len(rows) > 8 else ''}.")
        lines.append(
            "Usual causes: a learning rate that is too high, a model that holds NaN (see: expo inspect MODEL), "
            "or one bad row."
        )
        return "\n".join(lines)

    def leg_tokens(self) -> int:
        """Tokens that all processes have trained on since they began."""
        return int(self.accelerator.reduce(self.tokens.clone(), reduction="sum"))

    def _save_checkpoint(self, *arguments: Any, **named: Any) -> None:
        """A checkpoint also tells the tokens of the whole run until then."""
        self.state.num_input_tokens_seen = self.tokens_before + self.leg_tokens()
        super()._save_checkpoint(*arguments, **named)

    # --- Figures -----------------------------------------------------------------------------------------------------

    def note(self, **values: Tensor) -> None:
        """Add each value's elements to a mean that the next log shows."""
        for name, value in values.items():
            value = value.detach().float().flatten()
            pair = torch.stack([value.sum(), value.new_tensor(float(len(value)))])
            self.noted[name] = self.noted.get(name, 0) + pair

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the means of what was noted, over all processes."""
        for name, pair in sorted(self.noted.items()):
            total, count = self.accelerator.reduce(pair, reduction="sum").tolist()
            logs[name] = total / max(count, 1.0)
        self.noted.clear()
        super().log(logs, start_time)


def pad(rows: Sequence[Sequence], filler: float, dtype: torch.dtype) -> Tensor:
    """Rows of different lengths, filled up on the right.  # (rows, longest)"""
    out = torch.full((len(rows), max(map(len, rows))), filler, dtype=dtype)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.as_tensor(row, dtype=dtype)
    return out


def lengths_mask(rows: Sequence[Sequence]) -> Tensor:
    """1 on a row's elements, 0 on its filling, by length: a padding id may be a token too.  # (rows, longest)"""
    lengths = torch.tensor([len(row) for row in rows])
    return (torch.arange(int(lengths.max()))[None] < lengths[:, None]).long()


def batch_of(taught: Sequence, rows: Sequence[int], filler: int) -> Batch:
    """Taught rows as a model's inputs, with targets where something is learnt."""
    from expo.train.head import IGNORED

    ids = [row.ids for row in taught]
    targets = [[IGNORED] * row.n_prompt + list(row.ids[row.n_prompt :]) for row in taught]
    return {
        "input_ids": pad(ids, filler, torch.int64),
        "attention_mask": lengths_mask(ids),
        "targets": pad(targets, IGNORED, torch.int64),
        "rows": torch.tensor(rows),
    }
