"""A run's questions in one form: {id, text, label} to classify, {id, prompt, completion, gold} to answer.

label is the class's number. What other columns a row has is kept: one of them may say how hard it is.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from expo.rows import RowsError
from expo.weak_to_strong.answers import PROMPT, RESPONSE, field
from expo.weak_to_strong.ensemble_run import BoostRun, EnsembleRun
from expo.weak_to_strong.keyed import read_json, write_rows

POOL = "pool.jsonl"
_TEXT = ("text", "prompt")


def prepare(run: EnsembleRun, folder: Path, given: Mapping[str, Path]) -> dict[str, Any]:
    """Write the pool, and what is tested beside it, into `folder`; facts. given: the run's files by their role."""
    from expo.weak_to_strong.choices import pool_of

    if run.embedded:
        from expo.weak_to_strong.running_sum_pool import prepare_embedded

        return prepare_embedded(run, folder)
    rows = numbered(pool_of(run.data.dataset, run.seed)) if run.data.dataset else read_json(given["pool"])
    counts = {"pool": write_rows(folder / POOL, in_form(run, rows, run.data.dataset or str(given["pool"])))}
    for name in run.data.ood:
        counts[name] = write_rows(folder / f"{name}.jsonl", in_form(run, read_json(given[name]), str(given[name])))
    return {"rows": counts}


def numbered(rows: Iterable[dict]) -> Iterator[dict]:
    """Rows with their position as their id."""
    return ({"id": number, **row} for number, row in enumerate(rows))


def in_form(run: BoostRun, rows: Iterable[dict], where: str) -> list[dict[str, Any]]:
    """All rows in the run's form. Raises RowsError with every row that is not usable."""
    made, problems, seen = [], [], {}
    for number, row in enumerate(rows):
        place = rows.at(number) if hasattr(rows, "at") else f"{where}, row {number + 1}"
        key = row.get("id", number)
        if isinstance(key, bool) or not isinstance(key, int | str):
            problems.append(f"{place}: the id is {key!r}; it must be a text or a whole number.")
        elif key in seen:
            problems.append(f"{place}: the id {key!r} stands already at {seen[key]}.")
        seen.setdefault(str(key) if isinstance(key, list | dict) else key, place)
        try:
            form = _labelled(run, row) if run.kind == "classification" else _solved(run, row)
            made.append({**row, "id": key, **form})
        except ValueError as error:
            problems.append(f"{place}: {error}.")
    if problems:
        silent = any("no answer is found" in problem for problem in problems)
        raise RowsError(problems, "To say how answers are found: --set extraction=whole (see expo eval)." * silent)
    return made


def asked_by(run: BoostRun, row: Mapping[str, Any]) -> str:
    """The question of a row in the run's form."""
    return row["text" if run.kind == "classification" else "prompt"]


def _labelled(run: BoostRun, row: dict) -> dict[str, Any]:
    text = field(row, _TEXT, str)
    if "text" not in row and isinstance(row.get("completion"), str):
        text += row["completion"]
    if not text.strip():
        raise ValueError("its text is empty")
    label = row.get("label")
    if isinstance(label, bool):
        label = int(label)
    if isinstance(label, int) and 0 <= label < len(run.labels):
        return {"text": text, "label": label}
    if isinstance(label, str) and label in run.labels:
        return {"text": text, "label": run.labels.index(label)}
    known = ", ".join(run.labels)
    raise ValueError(f"the label {label!r} is none of the classes ({known}), nor the number of one (from 0)")


def _solved(run: BoostRun, row: dict) -> dict[str, Any]:
    from expo.evaluate import extractor

    prompt, completion = field(row, PROMPT, str), field(row, RESPONSE, str)
    if not prompt.strip() or not completion.strip():
        raise ValueError(f"its {'completion' if prompt.strip() else 'prompt'} is empty")
    gold = row.get("gold")
    gold = str(gold) if gold not in (None, "") else extractor(run.extraction)(completion)
    if not gold:
        raise ValueError(f"it has no `gold`, and no answer is found in {completion[-80:]!r} by {run.extraction}")
    return {"prompt": prompt, "completion": completion, "gold": gold}
