"""A sequence classifier on hard or soft labels, with a weight for each row."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expo.checkpoint.spec import Source
from expo.train.encode import Encoded, Limits, check_template, encode_labelled
from expo.train.errors import BadData, BadRows, BadSetting, Problem
from expo.train.exact import Batch, ExactTrainer, lengths_mask, pad
from expo.train.load import Loaded, load_classifier
from expo.train.losses import soft_cross_entropy
from expo.train.report import TrainReport
from expo.train.rows import Labelled, labelled, read_rows
from expo.train.run import Task, train
from expo.train.settings import ClassifySettings, changed


class ClassifyTrainer(ExactTrainer):
    """Divides the weighted cross-entropy of all rows of a step by their weights."""

    def mass(self, batch: Batch) -> Tensor:
        """The sum of the rows' weights.  # (1,)"""
        return batch["weights"].sum()[None]

    def parts(self, model: Any, batch: Batch) -> Tensor:
        """The sum of the weighted loss.  # (1,)"""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits  # (rows, classes)
        right = logits.argmax(-1) == batch["shares"].argmax(-1)
        self.note(accuracy=right.float())
        return (batch["weights"] * soft_cross_entropy(logits, batch["shares"])).sum()[None]


def collate(rows: Sequence[tuple[int, Any]], filler: int, *, names: Sequence[str]) -> Batch:
    """Numbered rows as one batch."""
    numbers, found = zip(*rows, strict=True)
    ids = [row.ids for row in found]
    return {
        "input_ids": pad(ids, filler, torch.int64),
        "attention_mask": lengths_mask(ids),
        "shares": torch.tensor([shares(row.label, names) for row in found]),
        "weights": torch.tensor([row.weight for row in found]),
        "rows": torch.tensor(numbers),
    }


def shares(label: str | int | list[float], names: Sequence[str]) -> list[float]:
    """A probability for each class."""
    if isinstance(label, list):
        return label
    at = label if isinstance(label, int) else names.index(label)
    return [float(i == at) for i in range(len(names))]


def class_names(rows: Sequence[Labelled], asked: Sequence[str]) -> list[str]:
    """The classes in their order: as asked, else as numbered, else the names found, sorted.

    Raises BadRows for a label that is none of them, BadData for mixed kinds, BadSetting where there is only one.
    """
    _check_kinds(rows)
    names, widths, numbers = set(), set(), set()
    for row in rows:
        kind = {str: names, int: numbers, list: widths}[type(row.label)]
        kind.add(len(row.label) if isinstance(row.label, list) else row.label)
    if asked:
        found = list(asked)
    elif names:
        found = sorted(names)
    else:
        found = [str(i) for i in range(max(widths | {number + 1 for number in numbers}))]
    wrong = [Problem("label", row.where, f"{row.label!r} is none of {found}") for row in rows if not _fits(row, found)]
    if wrong:
        raise BadRows(wrong, len(rows))
    if len(found) < 2:
        raise BadSetting(f"labels: only one class, {found[0]!r}, is in the data. Name all of them: --labels NO,YES.")
    return found


def _check_kinds(rows: Sequence[Labelled]) -> None:
    """Raise BadData where 1 and "1" both occur, or lists of different lengths."""
    lengths = {len(row.label): row.where for row in reversed(rows) if isinstance(row.label, list)}
    if len(lengths) > 1:
        found = ", ".join(f"{n} ({lengths[n]})" for n in sorted(lengths))
        raise BadData(f"Lists of probabilities have different lengths: {found}. Each needs one entry a class.")
    first = {row.label: row.where for row in reversed(rows) if not isinstance(row.label, list)}
    for label, where in first.items():
        if isinstance(label, int) and str(label) in first:
            raise BadData(
                f"The number {label} ({where}) and the name {str(label)!r} ({first[str(label)]}) are both labels. "
                "Write labels as numbers or as names throughout."
            )


def _fits(row: Labelled, names: Sequence[str]) -> bool:
    if isinstance(row.label, list):
        return len(row.label) == len(names)
    return 0 <= row.label < len(names) if isinstance(row.label, int) else row.label in names


def _encode(tokenizer: Any, rows: list, limits: Limits, settings: ClassifySettings) -> Encoded:
    return encode_labelled(tokenizer, rows, limits, chat=settings.chat)


def train_classify(
    model: str | Path,
    data: str | Path | Sequence[Mapping],
    output: str | Path,
    settings: ClassifySettings | None = None,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int, dict], object] | None = None,
    warn: Callable[[str], object] | None = None,
    **changes: Any,
) -> TrainReport:
    """Train `model` as a sequence classifier and write an ordinary checkpoint to `output`; returns what was done.

    See expo.train for the arguments. Rows: text, messages or prompt[/completion]; label: a name, a number or a list of
    probabilities (soft label); weight: optional. Raises TrainError, SourceError or OutputError.
    """
    settings = changed(settings or ClassifySettings(), changes)
    kept = labelled(read_rows(data, split=settings.split), bad_rows=settings.bad_rows)
    names = class_names(kept.rows, settings.labels)

    def batch(rows: Sequence, filler: int) -> Batch:
        return collate(rows, filler, names=names)

    def load(source: Source, settings: ClassifySettings, filler: int) -> Loaded:
        return load_classifier(source, settings, names, filler)

    task = Task("classify", kept, check_template, _encode, batch, ClassifyTrainer, load)
    return train(task, model, output, settings, overwrite=overwrite, dry_run=dry_run, progress=progress, warn=warn)
