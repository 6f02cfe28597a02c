"""Trainers: SFT, DPO (sigmoid, IPO, ORPO) and classifiers, as thin subclasses of transformers.Trainer.

    from expo.train import train_sft
    report = train_sft("org/base", "train.jsonl", "OUT", learning_rate=1e-5, epochs=2, lora={"rank": 16})

Importing this costs nothing; torch and transformers load when a trainer is called. All three share one signature:

    train_sft(model, data, output, settings=None, *, overwrite=False, dry_run=False, progress=None, warn=None,
              **changes) -> TrainReport
    train_dpo(...), train_classify(...)

model: a folder or a Hub id (org/name or org/name@revision).
data: a JSONL file, a JSON file that holds one list, a `datasets` id, or a list of rows (dictionaries).
settings: SftSettings, DpoSettings or ClassifySettings; `changes` are fields of it by name.
    `SftSettings.of({...})` makes one from a YAML mapping, and names the nearest field for an unknown one.
output: a folder that appears whole or not at all. A run that was killed goes on when it is called again.
progress: called as progress(step, steps, metrics) after each step, and again, with metrics, when they are logged.
Raises a TrainError: BadRows, BadSetting, NoChatTemplate, NonFiniteLoss, MissingPackage, ...; each message is complete.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expo.train.classify import train_classify
    from expo.train.dpo import train_dpo
    from expo.train.report import TrainReport
    from expo.train.settings import ClassifySettings, DpoSettings, LoraSettings, SftSettings
    from expo.train.sft import train_sft

_HOMES = {
    "ClassifySettings": "expo.train.settings",
    "DpoSettings": "expo.train.settings",
    "LoraSettings": "expo.train.settings",
    "SftSettings": "expo.train.settings",
    "TrainReport": "expo.train.report",
    "train_classify": "expo.train.classify",
    "train_dpo": "expo.train.dpo",
    "train_sft": "expo.train.sft",
}

__all__ = [
    "ClassifySettings",
    "DpoSettings",
    "LoraSettings",
    "SftSettings",
    "TrainReport",
    "train_classify",
    "train_dpo",
    "train_sft",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'expo.train' has no attribute {name!r}")
