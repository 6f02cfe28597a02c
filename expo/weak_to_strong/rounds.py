"""What one round of boosting hands to the next: weights of samples, and the record of all rounds so far.

    weights.jsonl  {id, weights: [one a sample of the row]}, with the mean 1
    state.json     {rounds: [{round, error, alpha, verdict, own, ensemble}], stopped, restarts}

Once `stopped` says why, later rounds make nothing and pass the record on.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expo.weak_to_strong.boosting import Values
from expo.weak_to_strong.errors import StageError
from expo.weak_to_strong.forms import Sampled
from expo.weak_to_strong.keyed import read_json, write_rows, write_text

STATE = "state.json"
WEIGHTS = "weights.jsonl"
EXPERTS = "experts.json"
MODEL = "model"
LEAST = (
    1e-30  # the least weight that the trainers take; lighter samples (of SAMME with a large vocabulary) count as this
)
FRESH: dict[str, Any] = {"rounds": [], "stopped": "", "restarts": 0}


def read_state(folder: Path) -> dict[str, Any]:
    """The record in a stage's folder."""
    return json.loads((folder / STATE).read_text())


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Put the record into a stage's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / STATE, json.dumps(state, indent=1) + "\n")


def kept(state: Mapping[str, Any], until: int | None = None) -> list[Mapping[str, Any]]:
    """The rounds whose experts have a say, up to one of them."""
    rounds = state["rounds"] if until is None else state["rounds"][: until + 1]
    return [one for one in rounds if one["alpha"] > 0]


def write_experts(path: Path, chosen: Sequence[Mapping[str, Any]], up: str, kind: str, **more: Any) -> None:
    """experts.json of some rounds' experts; up: from the file's folder to the run's."""
    listed = [{"model": f"{up}round_{one['round']}/expert/{MODEL}", "weight": one["alpha"]} for one in chosen]
    write_text(path, json.dumps({"kind": kind, "experts": listed, **more}, indent=1) + "\n")


def checkpoint(folder: Path) -> Path:
    """The model in an expert's folder; StageError where it has gone since."""
    model = folder / MODEL
    if not (model / "config.json").is_file():
        name = "/".join(folder.parts[-2:])
        raise StageError(
            f"{model} is missing, although its stage was finished. Put it back, or make it again: --from {name}. "
            "Earlier rounds stay as they are."
        )
    return model


def was_made(folder: Path) -> bool:
    """Whether a round's expert was trained, and not left out because boosting had ended."""
    return not (folder / STATE).exists()


# --- Weights ---------------------------------------------------------------------------------------------------------


def write_weights(path: Path, rows: Sequence[Mapping[str, Any]], found: Sampled, weights: Values) -> None:
    """The weights of all samples, row by row, scaled to the mean 1 and no less than LEAST."""
    cut = found.by_row(np.maximum(weights * len(weights), LEAST))
    write_rows(path, ({"id": rows[at]["id"], "weights": own.tolist()} for at, own in zip(found.rows, cut, strict=True)))


def read_weights(path: Path, rows: Sequence[Mapping[str, Any]], found: Sampled) -> Values:
    """The weights of the samples that were found, in their order."""
    held = {row["id"]: row["weights"] for row in read_json(path)}
    missing = [rows[at]["id"] for at in found.rows if rows[at]["id"] not in held]
    lengths = [len(held.get(rows[at]["id"], ())) for at in found.rows]
    if missing or lengths != found.lengths:
        raise StageError(f"{path}: its weights are of other questions or tokens. Make that round again: --from weigh.")
    return np.concatenate([held[rows[at]["id"]] for at in found.rows])


def of_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Iterator[list[float] | None]:
    """Each row's weights in the rows' order; None where training leaves the row out."""
    held = {row["id"]: row["weights"] for row in read_json(path)}
    return (held.get(row["id"]) for row in rows)
