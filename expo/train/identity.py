"""Whose run this is: what decides its result, told so that another run can say in what it differs.

OUT.partial/training/run.json  what the unfinished run was told
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xxhash

from expo.checkpoint.spec import Checkpoint
from expo.train.settings import TrainSettings
from expo.version import __version__

# Settings that do not change what comes out.
_FREE = {"report_to", "log_every", "save_every", "resume", "reference_cache", "shard_size"}
_FILE = "run.json"


def identity(kind: str, checkpoint: Checkpoint, rows: Iterable, settings: TrainSettings, processes: int) -> dict:
    """Model, rows, settings, number of processes and version, as a flat JSON object."""
    source = checkpoint.source
    files = [(file.name, file.n_bytes, file.header_hash, file.mtime_ns) for file in checkpoint.files.values()]
    kept = {name: value for name, value in dataclasses.asdict(settings).items() if name not in _FREE}
    told = {
        **kept,
        "kind of training": kind,
        "model": source.label if source.repo_id else str(source.folder),
        "model's files": source.revision if source.repo_id else files,
        "rows": _hash(repr(row[1:]) for row in rows),  # without file and line
        "processes": processes,
        "version of expo": __version__,
    }
    return json.loads(json.dumps(told))


def fingerprint(told: Mapping[str, Any]) -> str:
    """One word for an identity."""
    return _hash([json.dumps(told, sort_keys=True)])


def note(told: Mapping[str, Any], scratch: Path) -> None:
    """Leave the identity beside the run's checkpoints."""
    scratch.mkdir(exist_ok=True)
    (scratch / _FILE).write_text(json.dumps(told, indent=2) + "\n")


def differences(told: Mapping[str, Any], scratch: Path) -> list[str]:
    """A line for each thing in which the run that left `scratch` differs; none if it left no identity."""
    try:
        there = json.loads((scratch / _FILE).read_text())
    except (OSError, ValueError):
        return []
    names = [name for name in {**there, **told} if there.get(name) != told.get(name)]
    return [_difference(name, there.get(name), told.get(name)) for name in names]


def _difference(name: str, there: Any, now: Any) -> str:
    if name in ("rows", "model's files"):
        return f"{name}: they have changed"
    return f"{name}: {there} there, {now} now"


def _hash(texts: Iterable[str]) -> str:
    state = xxhash.xxh3_128()
    for text in texts:
        state.update(text.encode())
    return state.hexdigest()
