"""Corrupted sets as files: one for each pair of rates, and a manifest of the rates asked and reached."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expo.weak_to_strong.errors import RowError
from expo.weak_to_strong.keyed import write_rows, write_text
from expo.weak_to_strong.provenance import hash_of
from expo.weak_to_strong.supervision.corrupt import check_rate, corrupt, shown, wrong_count
from expo.weak_to_strong.supervision.errors import BadRate
from expo.weak_to_strong.supervision.rates import NOTE, by_teacher, rates
from expo.weak_to_strong.supervision.records import Judged, open_judged, open_tasks

MANIFEST = "manifest.json"


def corrupt_files(
    judged: Sequence[str | Path],
    folder: str | Path,
    outcomes: Sequence[float],
    *,
    steps: Sequence[float] = (),
    seed: int = 0,
    only_pairs: bool = False,
    tasks: str | Path | None = None,
) -> dict[str, Any]:
    """Write outcome-R.jsonl, or outcome-R-steps-S.jsonl for each of `steps`, and manifest.json; the manifest.

    judged: files of judged samples, of one teacher or several. tasks: which samples must belong to (subtasks by their
    field `task`). Every set is made before the first is written. Raises RowError, Stranger, BadRate, NotEnoughSamples.
    """
    _check(outcomes, steps)
    samples = read_all(judged)
    if tasks is not None:
        _belong(samples, tasks)
    how = {"seed": seed, "only_pairs": only_pairs}
    asked = [(outcome, step) for outcome in dict.fromkeys(outcomes) for step in dict.fromkeys(steps or [None])]
    made = {(outcome, step): corrupt(samples, outcome, steps=step, **how) for outcome, step in asked}
    told = {}
    for (outcome, step), rows in made.items():
        name = file_name(outcome, step)
        write_rows(Path(folder) / f"{name}.jsonl", (one.row() for one in rows))
        told[name] = manifest_of(rows, outcome, step)
    manifest = {
        "inputs": {str(path): hash_of(path) for path in judged},
        "seed": seed,
        "only pairs": only_pairs,
        "tasks": len({one.id for one in samples}),
        "sets": told,
        "note": NOTE,
    }
    write_text(Path(folder) / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def _check(outcomes: Sequence[float], steps: Sequence[float]) -> None:
    """Raise BadRate for a rate that is none, before a file is read."""
    if not outcomes:
        raise BadRate("no outcome error rate is asked for: --outcome 0.2")
    for name, given in (("outcome error rate", outcomes), ("step-wise error rate", steps)):
        for rate in given:
            check_rate(name, rate)


def file_name(outcome: float, steps: float | None) -> str:
    """What a set is called."""
    return f"outcome-{shown(outcome)}" + ("" if steps is None else f"-steps-{shown(steps)}")


def manifest_of(rows: Sequence[Judged], outcome: float, steps: float | None) -> dict[str, Any]:
    """The rates asked and reached, and how many wrong samples the outcome error rate means."""
    told = {"asked": {"outcome": outcome, "steps": steps}, "wrong asked": wrong_count(outcome, len(rows))}
    told |= rates(rows)
    teachers = {name: found["samples"] for name, found in by_teacher(rows).items()}
    return told | ({"rows of teachers": teachers} if teachers else {})


def read_all(judged: Sequence[str | Path]) -> list[Judged]:
    """The judged samples of several files. RowError where one sample stands in two of them."""
    found: dict[Any, Judged] = {}
    for path in judged:
        rows = open_judged(path)
        for key in rows.numbers:
            if key in found:
                raise RowError(
                    rows.where(key),
                    f"sample {key[2]} of id {key[0]!r} is in another file too.",
                    "Samples of different teachers need a field `teacher`: expo w2s judge --samples NAME=FILE.",
                )
            found[key] = rows[key]
    return list(found.values())


def _belong(samples: Sequence[Judged], tasks: str | Path) -> None:
    """Every sample is of a task in the file, every subtask's task is there."""
    from expo.weak_to_strong.supervision.records import belong

    known = open_tasks(tasks).numbers
    # A hard task's sample stands for itself.
    belong((one if one.task is not None else one._replace(task=one.id) for one in samples), known, "samples", tasks)
