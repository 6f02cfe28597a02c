"""The reference model's log-probabilities of every pair, made once by the model that will be trained, and kept on disk.

So one model is resident while training. The key is a hash of all weights and of all tokens, with the arithmetic's
precision; a second run on the same pairs, with another learning rate or beta, reads the file.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from expo.train.errors import TrainError
from expo.train.head import evaluating


def reference_logps(trainer: Any, pairs: Sequence, folder: Path, batch: Callable[[list], dict]) -> Tensor:
    """(pairs, 2) float32: log p of each chosen and rejected completion under the weights as they are now.

    batch: makes one input of some numbered pairs. Every process gets the whole table.
    """
    state = trainer.accelerator
    path = folder / f"{_key(trainer.model, pairs, trainer.settings.precision)}.npy"
    found = _read(path, len(pairs)) if state.is_main_process else None
    there = torch.tensor([found is not None], dtype=torch.int64, device=state.device)
    if int(state.reduce(there, reduction="sum")) == 0:
        found = _compute(trainer, pairs, batch)
        if state.is_main_process:
            _write(path, found)
    if state.num_processes == 1:
        return torch.from_numpy(found)
    table = torch.zeros(len(pairs), 2, device=state.device)
    if state.is_main_process:
        table.copy_(torch.from_numpy(found))
    return state.reduce(table, reduction="sum").cpu()


def default_folder() -> Path:
    """Where tables are kept unless a setting says otherwise."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "expo" / "reference"


def _key(model: Any, pairs: Sequence, precision: str) -> str:
    state = xxhash.xxh3_128(precision.encode())
    for name, value in model.state_dict().items():
        value = value.detach().contiguous().cpu()
        state.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        state.update(value.flatten().view(torch.uint8).numpy())
    for pair in pairs:
        for side in (pair.chosen, pair.rejected):
            state.update(side.ids.tobytes() + side.n_prompt.to_bytes(8, "little"))
    return state.hexdigest()


@torch.no_grad()
def _compute(trainer: Any, pairs: Sequence, batch: Callable[[list], dict]) -> np.ndarray:
    """The table; each process takes a share of the batches, so that sharded models stay in step."""
    state, model = trainer.accelerator, trainer.model
    # The longest first: memory that suffices for them suffices for all. Padding is least among equals.
    order = sorted(range(len(pairs)), key=lambda i: -max(len(pairs[i].chosen.ids), len(pairs[i].rejected.ids)))
    size = trainer.args.per_device_train_batch_size
    shares = [order[i : i + size] for i in range(0, len(order), size)]
    table = torch.zeros(len(pairs), 2, dtype=torch.float32, device=state.device)
    device = next(model.parameters()).device  # FSDP has not placed its model yet
    with evaluating(model), trainer.autocast():
        for rows in shares[state.process_index :: state.num_processes]:
            inputs = {name: value.to(device) for name, value in batch([(i, pairs[i]) for i in rows]).items()}
            table[rows] = trainer.completion_logps(model, inputs).float().view(2, -1).T.to(state.device)
    return state.reduce(table, reduction="sum").cpu().numpy()


def _read(path: Path, n: int) -> np.ndarray | None:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == (n, 2) and found.dtype == np.float32 and np.isfinite(found).all() else None


def _write(path: Path, table: np.ndarray) -> None:
    if not np.isfinite(table).all():
        raise TrainError("The model gives no finite log-probability to some pairs. Look for NaN: expo inspect MODEL.")
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not the run
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}.new")
        with open(new, "wb") as file:
            np.save(file, table)
        os.replace(new, path)
