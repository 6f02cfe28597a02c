"""The classifying form: a sample is a row, a label is a probability for each class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expo.weak_to_strong.boosting import combined
from expo.weak_to_strong.classifying import probabilities
from expo.weak_to_strong.ensemble_run import BoostRun
from expo.weak_to_strong.forms import Sampled
from expo.weak_to_strong.keyed import read_json, write_rows
from expo.weak_to_strong.labels import RESULTS

Rows = Sequence[Mapping[str, Any]]


def train(
    run: BoostRun,
    settings: Mapping[str, Any],
    model: Path | str,
    rows: Rows,
    folder: Path,
    *,
    weights: Sequence[float | None] | None = None,
    again: int = 0,
) -> dict[str, Any]:
    """A classifier from `model` on {text, label}: a class's number, or a share for each; weights: one a row."""
    from expo.train import train_classify

    told: list[dict] = [{"id": row["id"], "text": row["text"], "label": row["label"]} for row in rows]
    if weights is not None:
        told = [one | {"weight": w} for one, w in zip(told, weights, strict=True) if w is not None]
    count = write_rows(folder / "train.jsonl", told)
    settings = run.trainer(settings, seed=run.seed + again)
    report = train_classify(model, folder / "train.jsonl", folder / "model", settings, overwrite=True)
    return {"rows": count, "left out": report.dropped, "steps": report.steps, "loss": report.loss}


def missed(run: BoostRun, model: Path | str, rows: Rows) -> list[float]:
    """For each row 1 - the probability of its class."""
    found = _probabilities(run, model, rows)
    return [1 - float(one[row["label"]]) for row, one in zip(rows, found, strict=True)]


def sampled(run: BoostRun, model: Path | str, rows: Rows) -> Sampled:
    """Whether each row's likeliest class is a wrong one."""
    found = _probabilities(run, model, rows).argmax(-1)
    wrong = found != np.array([row["label"] for row in rows])
    return Sampled(list(range(len(rows))), [1] * len(rows), wrong, len(run.labels))


def test(run: BoostRun, model: Path | str, rows: Path, folder: Path) -> dict[str, Any]:
    """A model's probabilities of each row's classes, graded."""
    asked = list(read_json(rows))
    return _graded(asked, _probabilities(run, model, asked), folder)


def test_ensemble(run: BoostRun, experts: Path, tested: Sequence[Path], rows: Path, folder: Path) -> dict[str, Any]:
    """The experts' probabilities together, from what each gave when it was tested: no model is loaded again.

    tested: the folder of each expert's own test, in the order of experts.json.
    """
    from expo.generate.experts import read_experts

    alphas = [expert.weight for expert in read_experts(experts, kind="classification")]
    votes = np.array([[row["probabilities"] for row in read_json(place / RESULTS)] for place in tested])
    return _graded(list(read_json(rows)), combined(votes, alphas, discrete=_discrete(run)), folder)


def label(run: BoostRun, experts: Path, rows: Path, output: Path) -> dict[str, Any]:
    """Write {id, text, label}, the label a probability for each class: the experts' weighted mean."""
    from expo.generate.experts import read_experts

    asked = list(read_json(rows))
    found = read_experts(experts, kind="classification")
    votes = np.array([_probabilities(run, expert.model, asked) for expert in found])
    shares = combined(votes, [expert.weight for expert in found], discrete=_discrete(run))
    pairs = zip(asked, shares.tolist(), strict=True)
    count = write_rows(output, ({"id": row["id"], "text": row["text"], "label": one} for row, one in pairs))
    likeliest = np.bincount(shares.argmax(-1), minlength=len(run.labels)).tolist()
    return {"rows": count, "likeliest": dict(zip(run.labels, likeliest, strict=True))}


def _probabilities(run: BoostRun, model: Path | str, rows: Rows) -> NDArray[np.float64]:
    return probabilities(model, rows, run.labels, run.trainer(run.expert), run.device)


def _discrete(run: BoostRun) -> bool:
    return run.boost.combine == "discrete"


def _graded(rows: Rows, shares: NDArray[np.float64], folder: Path) -> dict[str, Any]:
    """results.jsonl, and the accuracy."""
    found = shares.argmax(-1).tolist()
    made = [
        {"id": row["id"], "probabilities": one, "label": label, "gold": row["label"], "result": label == row["label"]}
        for row, one, label in zip(rows, shares.tolist(), found, strict=True)
    ]
    write_rows(folder / RESULTS, made)
    right = sum(row["result"] for row in made)
    return {"accuracy": {"correct": right, "n": len(made), "accuracy": right / len(made)}}
