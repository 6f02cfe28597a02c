"""The questions of GSM8K, MATH and OlympicArena as the pipelines' JSONL: train_1, train_2 and test.

train_1 teaches the weak model; the method sees train_2's prompts only, its golds are for the ceiling and the report.
Files of the authors' own clone are converted exactly; without one, the public data sets are split by a fixed hash.
Source of prompts, targets and filters: arXiv:2407.13647 and its published code.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from expo.errors import ExpoError
from expo.weak_to_strong.answers import field
from expo.weak_to_strong.errors import RowError
from expo.weak_to_strong.keyed import Keyed, read_json, write_rows
from expo.weak_to_strong.provenance import pick

SUBJECTS = ("Math", "Physics", "Chemistry", "Biology", "Geography", "Astronomy")  # of OlympicArena
MATH_PARTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
NOT_COMPARABLE = ("CODE", "OT")  # OlympicArena's answer types that need a run or a person
SPLIT_SEED = 0
_CALCULATION = re.compile(r"<<.*?>>")
_GOLD = re.compile(r"#### (.*)$")

Load = Callable[..., Iterable[Mapping[str, Any]]]


def ask(question: str) -> str:
    """The zero-shot prompt of the paper."""
    return f"Question: {question}\nAnswer:"


def from_gsm8k(row: Mapping[str, Any]) -> dict[str, Any]:
    """A raw GSM8K row as prompt, completion (without its <<calculations>>) and gold."""
    question, solution = field(dict(row), ("question",), str), field(dict(row), ("answer",), str)
    found = _GOLD.search(solution)
    if not found or not found[1].strip():
        raise ValueError("'answer' does not end in '#### NUMBER'")
    return {"prompt": ask(question), "completion": _CALCULATION.sub("", solution), "gold": found[1]}


def from_gsm8k_test(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the published test files (question, solution, answer)."""
    row = dict(row)
    if "solution" not in row:
        return from_gsm8k(row)
    solution = _CALCULATION.sub("", field(row, ("solution",), str))
    return {"prompt": ask(field(row, ("question",), str)), "completion": solution, "gold": field(row, ("answer",), str)}


def from_math(row: Mapping[str, Any]) -> dict[str, Any]:
    """A MATH row with a separate `answer`; the target states it once more after the solution."""
    row = dict(row)
    answer, solution = field(row, ("answer",), str), field(row, ("solution",), str)
    target = f"{solution} The answer is: {answer}"
    return {"prompt": ask(field(row, ("problem", "question"), str)), "completion": target, "gold": answer}


def from_olympicarena(row: Mapping[str, Any]) -> dict[str, Any]:
    """An OlympicArena row; its own prompt, with the problem as a Question and room for the Answer."""
    row = dict(row)
    prompt = field(row, ("prompt",), str).replace("\n\nproblem:\n", "\n\nQuestion: ") + "\n\nAnswer:"
    made = {"prompt": prompt}
    answer = row.get("answer")
    if answer not in (None, "", []):
        made["gold"] = answer[0] if isinstance(answer, list) and len(answer) == 1 else str(answer)
    kept = ("id", "answer_type", "subject", "unit", "answer_sequence", "type_sequence")
    return made | {f"source_{name}" if name == "id" else name: row[name] for name in kept if row.get(name)}


# --- Data sets -------------------------------------------------------------------------------------------------------


def gsm8k(output: str | Path, *, raw: str | Path | None = None, load: Load | None = None) -> dict[str, Any]:
    """Write GSM8K's three files; from the folder `raw` (train_1, train_2, test .jsonl) or from `openai/gsm8k`.

    The paper's halves hold 7,000 questions each, half of them Abel's augmentation, which only `raw` has.
    """
    if raw is not None:
        return _write(output, _raw(raw, from_gsm8k, from_gsm8k_test), f"{Path(raw).name}: the published halves")
    load = load or hub
    first, second = _halves([from_gsm8k(row) for row in load("openai/gsm8k", "main", "train")])
    test = [from_gsm8k(row) for row in load("openai/gsm8k", "main", "test")]
    note = (
        "openai/gsm8k, its training set in two halves by a hash; the paper's halves have 7,000 augmented questions more"
    )
    return _write(output, {"train_1": first, "train_2": second, "test": test}, note)


def math(output: str | Path, *, raw: str | Path | None = None, load: Load | None = None) -> dict[str, Any]:
    """Write MATH's three files; from the folder `raw`, or MATH-500 as test and the other 12,000 in two halves."""
    if raw is not None:
        return _write(output, _raw(raw, from_math, from_math), f"{Path(raw).name}: the published halves")
    load = load or hub
    test = list(load("HuggingFaceH4/MATH-500", None, "test"))
    held_out = {row["problem"] for row in test}
    found = [
        with_answer(row)
        for part in MATH_PARTS
        for split in ("train", "test")
        for row in load("EleutherAI/hendrycks_math", part, split)
        if row["problem"] not in held_out
    ]
    first, second = _halves([from_math(row) for row in found])
    note = "EleutherAI/hendrycks_math without MATH-500, in two halves by a hash; the paper's own halves are not public"
    return _write(output, {"train_1": first, "train_2": second, "test": [from_math(row) for row in test]}, note)


def olympicarena(output: str | Path, *, raw: None = None, load: Load | None = None) -> dict[str, Any]:
    """Write OlympicArena's train_2 (its `test` split, without answers) and test (its `val` split)."""
    load = load or hub
    files = {}
    for name, split in (("train_2", "test"), ("test", "val")):
        rows = (row for subject in SUBJECTS for row in load("GAIR/OlympicArena", subject, split))
        files[name] = [from_olympicarena(row) for row in rows if _is_comparable(row)]
    note = "GAIR/OlympicArena, English, without code and open answers; the answers of its test split are not public"
    return _write(output, files, note)


DATA_SETS = {"gsm8k": gsm8k, "math": math, "olympicarena": olympicarena}


def hub(name: str, config: str | None, split: str) -> Iterable[Mapping[str, Any]]:
    """One split of a data set on the Hub, by way of `datasets`."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ExpoError(
            f"{name} is read with `datasets`, which is not installed.\nTo install it: pip install 'expo[train]'"
        ) from error
    try:
        return load_dataset(name, config, split=split)
    except Exception as error:  # `datasets` raises whatever its loaders raise
        raise ExpoError(
            f"{name} ({config or 'default'}, {split}) cannot be loaded: {error}\n"
            "Check the connection, or convert files that you have: --raw FOLDER."
        ) from error


def with_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """A MATH row of the original data set with the content of its last \\boxed{} as `answer`."""
    solution = row["solution"]
    start = max(solution.rfind("\\boxed{"), solution.rfind("\\fbox{"))
    if start < 0:  # a few are written \boxed 3
        words = solution.rpartition("\\boxed")[2].strip(" $.").split("$")
        return {**row, "answer": words[0].strip() if words else ""}
    begin = solution.index("{", start) + 1
    depth, at = 1, begin
    while at < len(solution) and depth:
        depth += {"{": 1, "}": -1}.get(solution[at], 0)
        at += 1
    return {**row, "answer": solution[begin : at - 1]}


def _is_comparable(row: Mapping[str, Any]) -> bool:
    return row["language"] == "EN" and row["answer_type"] not in NOT_COMPARABLE


def _raw(folder: str | Path, train: Callable, test: Callable) -> dict[str, Keyed]:
    return {
        name: read_json(Path(folder) / f"{name}.jsonl", test if name == "test" else train)
        for name in ("train_1", "train_2", "test")
    }


def _halves(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """Two halves without a common prompt, chosen by a hash of each prompt; each in the given order."""
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    first = set(pick(prompts, len(prompts) // 2, SPLIT_SEED, "halves"))
    return [row for row in rows if row["prompt"] in first], [row for row in rows if row["prompt"] not in first]


def _write(output: str | Path, files: Mapping[str, Iterable[dict]], note: str) -> dict[str, Any]:
    counts = {name: write_rows(Path(output) / f"{name}.jsonl", numbered(rows)) for name, rows in files.items()}
    return {"source": note, "rows": counts}


def numbered(rows: Iterable[dict]) -> Iterator[dict]:
    """Each row with its position as its id, as the published files have it."""
    for number, row in enumerate(rows):
        yield {"id": number, **row}


# --- The published layout --------------------------------------------------------------------------------------------


def published(raw: str | Path, output: str | Path, kind: str, source: str) -> int:
    """Rewrite one raw file as the authors' scripts do, byte for byte; how many rows.

    kind: "test" (source, question, solution, answer, tag as JSONL) or "training" (id, content, output as an array).
    source: the text of the field `source`, such as GSM8K_TRAIN_2.
    """
    if kind == "training":
        rows = numbered(read_json(raw, from_gsm8k if _has(raw, "question") else from_math))
        return write_rows(output, ({"id": r["id"], "content": r["prompt"], "output": r["completion"]} for r in rows))
    return write_rows(output, (as_test(row, source) for row in read_json(raw)))


def as_test(row: dict, source: str) -> dict[str, Any]:
    """A raw row in the layout of the published test files."""
    if "problem" in row:
        tag = {name: row[name] for name in ("subject", "level", "unique_id")}
        told = {"question": row["problem"], "solution": row["solution"], "answer": row["answer"], "tag": tag}
    else:
        gold = from_gsm8k(row)["gold"]
        told = {"question": row["question"], "solution": row["answer"], "answer": gold, "tag": {}}
    return {"source": source, **told}


def _has(path: str | Path, name: str) -> bool:
    rows = read_json(path)
    first = next(iter(rows))
    if "problem" not in first and name not in first:
        raise RowError(rows.at(0), f"has neither 'problem' nor {name!r}; it has: {', '.join(first)}.")
    return name in first
