"""The generative form: a sample is a token of the answer, a label is a text that the experts write together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expo.weak_to_strong.ensemble_run import BoostRun
from expo.weak_to_strong.errors import StageError
from expo.weak_to_strong.forms import Sampled
from expo.weak_to_strong.keyed import read_json, write_rows
from expo.weak_to_strong.labels import RESULTS, answer
from expo.weak_to_strong.tuning import spaced

Rows = Sequence[Mapping[str, Any]]


def train(
    run: BoostRun,
    settings: Mapping[str, Any],
    model: Path | str,
    rows: Rows,
    folder: Path,
    *,
    weights: Sequence[Sequence[float] | None] | None = None,
    again: int = 0,
) -> dict[str, Any]:
    """SFT of `model` on {prompt, completion}; weights: one a token of each completion, None: leave the row out."""
    from expo.train import train_sft

    told = [_taught(run, row) for row in rows]
    if weights is not None:
        told = [one | {"weights": list(w)} for one, w in zip(told, weights, strict=True) if w is not None]
    count = write_rows(folder / "train.jsonl", told)
    report = train_sft(
        model, folder / "train.jsonl", folder / "model", run.trainer(settings, seed=run.seed + again), overwrite=True
    )
    return {"rows": count, "left out": report.dropped, "steps": report.steps, "loss": report.loss}


def missed(run: BoostRun, model: Path | str, rows: Rows) -> list[float]:
    """For each row 1 - the mean probability of its answer's true tokens."""
    found = dict(_forced(run, model, rows))
    if len(found) < len(rows):
        raise StageError(f"{len(rows) - len(found):,} questions are too long for {model} and cannot be rated.")
    return [1 - float(np.exp(found[at].logps).mean()) for at in range(len(rows))]


def sampled(run: BoostRun, model: Path | str, rows: Rows) -> Sampled:
    """Whether each token of each answer is not the likeliest, by teacher forcing."""
    found = _forced(run, model, rows)
    wrong = np.concatenate([~one.correct for _, one in found])
    return Sampled([at for at, _ in found], [len(one.tokens) for _, one in found], wrong, _vocabulary(run, model))


def test(run: BoostRun, model: Path | str, rows: Path, folder: Path) -> dict[str, Any]:
    """A model's or an experts.json's greedy answers, graded."""
    return answer(run, model, rows, folder)


def test_ensemble(run: BoostRun, experts: Path, tested: Sequence[Path], rows: Path, folder: Path) -> dict[str, Any]:
    """The experts' answers together, graded; one pass through all of them, as each token depends on the ones before."""
    return answer(run, experts, rows, folder)


def label(run: BoostRun, experts: Path, rows: Path, output: Path) -> dict[str, Any]:
    """Write {id, prompt, completion}: what the experts answer together. Golds are not looked at, nor passed on."""
    scratch = output.with_name(f"{output.name}.answers")
    asked = [{name: row[name] for name in ("id", "prompt")} for row in read_json(rows)]
    write_rows(scratch / "questions.jsonl", asked)
    facts = answer(run, experts, scratch / "questions.jsonl", scratch)
    made = (
        {"id": row["id"], "prompt": row["prompt"], "completion": row["response"]}
        for row in read_json(scratch / RESULTS)
    )
    count = write_rows(output, made)
    return {"rows": count, "empty": facts["empty"], "finishes": facts["finishes"], "warnings": facts["warnings"]}


def _forced(run: BoostRun, model: Path | str, rows: Rows) -> list[tuple[int, Any]]:
    """(position of a row, what the model says of its answer's tokens) of every row that training would take."""
    from expo.evaluate.teacher_forced import teacher_forced

    found = teacher_forced(model, [_taught(run, row) for row in rows], run.trainer(run.expert), device=run.device)
    return [(int(one.where.removeprefix("row ")) - 1, one) for one in found]


def _vocabulary(run: BoostRun, model: Path | str) -> int:
    from expo.generate import load

    return load(model, device=run.device).config.get_text_config().vocab_size


def _taught(run: BoostRun, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "prompt": row["prompt"],
        "completion": spaced(row["prompt"], row["completion"], run.space) if row["completion"] else "",
    }
