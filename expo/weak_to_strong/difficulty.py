"""From one pool to easy and hard: how hard each question is, and which part it falls into.

    difficulty.jsonl  {id, difficulty}, in the pool's order
    indices.json      part -> ids; parts: train, validation, easy, hard_train, hard, hardest

Experts rate out of fold: each question by the one expert that has not been trained on its fold (the published code
trains every fold on everything, and loads the first fold's model for all). Cuts and tie-breaks are ours.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expo.rows import RowsError
from expo.weak_to_strong.ensemble_run import EnsembleRun
from expo.weak_to_strong.errors import StageError
from expo.weak_to_strong.keyed import read_json, write_rows, write_text
from expo.weak_to_strong.pool import asked_by
from expo.weak_to_strong.provenance import text_hash

RATED = "difficulty.jsonl"
INDICES = "indices.json"
LEARNT = ("train", "hard_train")
Rows = Sequence[Mapping[str, Any]]


# --- How hard --------------------------------------------------------------------------------------------------------


def rate(run: EnsembleRun, rows: Rows, folder: Path, model: Path | str, file: Path | None) -> dict[str, Any]:
    """Write the difficulty of every row; higher is harder."""
    asked = run.difficulty
    facts: dict[str, Any] = {"by": asked.by}
    if asked.by == "experts":
        found, facts["folds"] = by_experts(run, rows, folder, model)
    elif asked.by == "length":
        found = [float(len(asked_by(run, row))) for row in rows]
    elif asked.by == "column":
        found = [_number(row.get(asked.column), f"id {row['id']!r}: its {asked.column}") for row in rows]
    elif asked.by == "file":
        found = by_file(file, rows)
    else:
        found = [0.0] * len(rows)  # all are ties, which a hash decides
    write_rows(folder / RATED, ({"id": row["id"], "difficulty": one} for row, one in zip(rows, found, strict=True)))
    return {**facts, "distinct": len(set(found)), "least": min(found), "greatest": max(found)}


def folds_of(questions: Sequence[str], n: int, seed: int) -> list[int]:
    """The fold of each question, by a hash: equally many different ones each, and what is asked twice in the same."""
    order = sorted(set(questions), key=lambda question: text_hash(str(seed), "fold", question))
    found = {question: place % n for place, question in enumerate(order)}
    return [found[question] for question in questions]


def by_experts(run: EnsembleRun, rows: Rows, folder: Path, model: Path | str) -> tuple[list[float], list[dict]]:
    """1 - the probability of the truth (of its tokens, on average), by the expert that did not see the question."""
    from expo.weak_to_strong.forms import form_of

    questions, n = [asked_by(run, row) for row in rows], run.difficulty.folds
    if len(set(questions)) < 2 * n:
        raise StageError(f"{len(set(questions))} different questions are too few for {n} folds.")
    form, folds = form_of(run), folds_of(questions, n, run.seed)
    found, facts = [0.0] * len(rows), []
    for fold in range(n):
        place = folder / f"fold_{fold}"
        out = [at for at, one in enumerate(folds) if one == fold]
        kept = place / RATED
        if not kept.exists():
            seen = [row for row, one in zip(rows, folds, strict=True) if one != fold]
            form.train(run, run.expert, model, seen, place)
            missed = form.missed(run, place / "model", [rows[at] for at in out])
            write_rows(kept, ({"id": rows[at]["id"], "difficulty": m} for at, m in zip(out, missed, strict=True)))
        rated = [row["difficulty"] for row in read_json(kept)]
        for at, one in zip(out, rated, strict=True):
            found[at] = one
        facts.append({"trained on": len(rows) - len(out), "rated": len(out), "mean": sum(rated) / len(rated)})
    return found, facts


def by_file(path: Path, rows: Rows) -> list[float]:
    """Numbers of a file: one a line in the pool's order, or JSONL {id, difficulty}. Raises RowsError."""
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    if lines and lines[0].lstrip().startswith("{"):
        rated = {row.get("id"): row.get("difficulty") for row in read_json(path)}
        missing = [row["id"] for row in rows if row["id"] not in rated]
        if missing:
            raise RowsError(f"{path}: id {missing[0]!r} has no difficulty, nor have {len(missing) - 1} others.")
        return [_number(rated[row["id"]], f"{path}: id {row['id']!r}: its difficulty") for row in rows]
    if len(lines) != len(rows):
        raise RowsError(f"{path}: {len(lines):,} numbers for {len(rows):,} questions; one a line is expected.")
    return [_number(line, f"{path}:{number}: its difficulty") for number, line in enumerate(lines, start=1)]


def _number(value: Any, what: str) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if isinstance(value, bool) or not math.isfinite(found):
        raise RowsError(f"{what} is {value!r}, not a finite number.")
    return found


# --- Which part ------------------------------------------------------------------------------------------------------


def split(run: EnsembleRun, rows: Rows, difficulty: Sequence[float], folder: Path) -> dict[str, Any]:
    """Write each part's rows as PART.jsonl, and indices.json. Raises StageError where a part would be empty."""
    parts = parts_of(run, rows, difficulty)
    for name, held in parts.items():
        write_rows(folder / f"{name}.jsonl", (rows[at] for at in held))
    write_text(folder / INDICES, json.dumps({name: [rows[at]["id"] for at in held] for name, held in parts.items()}))
    spans = {name: _span([difficulty[at] for at in held]) for name, held in parts.items()}
    return {
        "rows": {name: len(held) for name, held in parts.items()},
        "difficulty": spans,
        **_ties(parts, difficulty),
    } | _seen(run, rows, parts)


def parts_of(run: EnsembleRun, rows: Rows, difficulty: Sequence[float]) -> dict[str, list[int]]:
    """Part -> positions in the pool, in its order; equal difficulties are told apart by a hash of the id."""
    asked = run.split

    def chance(at: int, purpose: str) -> bytes:
        return text_hash(str(run.seed), purpose, str(rows[at]["id"]))

    order = sorted(range(len(rows)), key=lambda at: (difficulty[at], chance(at, "tie")))
    cut = len(order) - round(asked.ood * len(order))
    half = round(asked.easy * cut)
    easy, hard, hardest = (
        sorted(part, key=lambda at: chance(at, "part")) for part in (order[:half], order[half:cut], order[cut:])
    )
    held_out = asked.validation + asked.test
    if len(easy) <= held_out:
        _too_few("easy", len(easy), f"{asked.validation:,} for validation and {asked.test:,} for the test", run)
    if len(hard) <= asked.test:
        _too_few("hard", len(hard), f"{asked.test:,} for the test", run)
    found = {
        "train": easy[held_out:],
        "validation": easy[: asked.validation],
        "easy": easy[asked.validation : held_out],
        "hard_train": hard[asked.test :],
        "hard": hard[: asked.test],
    }
    found |= {"hardest": hardest[: asked.test]} if hardest else {}
    if run.kind == "classification":
        _check_classes(run, rows, found)
    return {name: sorted(held) for name, held in found.items()}


def _too_few(part: str, n: int, wanted: str, run: EnsembleRun) -> None:
    raise StageError(
        f"the {part} part has {n:,} questions; {wanted} leave none to learn from.\n"
        f"Change split (easy: {run.split.easy:g}, ood: {run.split.ood:g}, validation, test), or give a larger pool."
    )


def _check_classes(run: EnsembleRun, rows: Rows, parts: Mapping[str, Sequence[int]]) -> None:
    for name in LEARNT:
        classes = {rows[at]["label"] for at in parts[name]}
        if len(classes) == 1:
            only = run.labels[classes.pop()]
            raise StageError(
                f"all {len(parts[name]):,} rows of the part {name} are of one class, {only!r}: nothing can be learnt.\n"
                "The difficulty tells the classes apart; rate by something else (difficulty: by), or mix the pool."
            )


def _seen(run: EnsembleRun, rows: Rows, parts: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """How many questions of each tested part stand, word for word, in a part that is learnt from, too."""
    learnt = {asked_by(run, rows[at]) for name in LEARNT for at in parts[name]}
    tested = {name: [asked_by(run, rows[at]) for at in held] for name, held in parts.items() if name not in LEARNT}
    found = {name: sum(one in learnt for one in asked) for name, asked in tested.items()}
    shared = ", ".join(f"{n:,} of {name}" for name, n in found.items() if n)
    return {"learnt, too": found} | ({"said": f"learnt from in another part, too: {shared}"} if shared else {})


def _span(values: Sequence[float]) -> dict[str, float]:
    return {"least": min(values), "mean": sum(values) / len(values), "greatest": max(values)}


def _ties(parts: Mapping[str, Sequence[int]], difficulty: Sequence[float]) -> dict[str, Any]:
    """How many questions at the cut between easy and hard are told apart by chance alone."""
    border = max(difficulty[at] for name in ("train", "validation", "easy") for at in parts[name])
    above = sum(difficulty[at] == border for name in ("hard_train", "hard") for at in parts[name])
    return {"tied at the cut": Counter(difficulty)[border] if above else 0}
