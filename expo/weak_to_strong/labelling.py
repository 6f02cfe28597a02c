"""The labels of any experts.json for any file of questions: what a stage of the pipeline does, as a step of its own."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expo.rows import RowsError
from expo.weak_to_strong.answers import PROMPT, field
from expo.weak_to_strong.ensemble_run import BoostRun
from expo.weak_to_strong.errors import BoostingError
from expo.weak_to_strong.forms import form_of
from expo.weak_to_strong.keyed import read_json, write_rows
from expo.weak_to_strong.provenance import hash_of, text_hash
from expo.weak_to_strong.runfile import validated


def label_file(
    experts: Path, data: Path, output: Path, *, max_tokens: int, stop: tuple[str, ...], device: str, write: bool = True
) -> dict[str, Any]:
    """Write the labels of the questions in `data`; facts. write=False: check all that can be checked without a model.

    Answers are kept beside `output` until all are there, so that the same call after a kill continues.
    Raises BadExperts, RunFileError, DifferentTokens, BoostingError, RowsError.
    """
    from expo.generate.experts import read_experts

    told = _table(experts)
    found = read_experts(experts, kind=told["kind"])
    run = _run_of(told, experts, {"device": device, "answering": {"max_tokens": max_tokens, "stop": stop}})
    rows = questions(run, data)
    if run.kind == "generation":
        from expo.generate import load_members

        load_members(experts, device=device)
    facts: dict[str, Any] = {"experts": len(found), "questions": len(rows)}
    if not write:
        return facts
    key = text_hash(experts.read_text(), hash_of(data), run.model_dump_json()).hex()[:12]
    scratch = output.with_name(f".{output.name}.{key}.partial")
    write_rows(scratch / "questions.jsonl", rows)
    made = form_of(run).label(run, experts, scratch / "questions.jsonl", scratch / "labels.jsonl")
    os.replace(scratch / "labels.jsonl", output)
    shutil.rmtree(scratch)
    return facts | made


def questions(run: BoostRun, data: Path) -> list[dict[str, Any]]:
    """{id, text} or {id, prompt} of each row. Raises RowsError with every row that asks nothing."""
    names, name = (("text", "prompt"), "text") if run.kind == "classification" else (PROMPT, "prompt")
    rows, problems, found = read_json(data), [], []
    for number, row in enumerate(rows):
        try:
            text = field(row, names, str)
            if name == "text" and "text" not in row and isinstance(row.get("completion"), str):
                text += row["completion"]
            if not text.strip():
                raise ValueError(f"its {name} is empty")
            found.append({"id": row.get("id", number), name: text})
        except ValueError as error:
            problems.append(f"{rows.at(number)}: {error}.")
    if len({str(one["id"]) for one in found}) < len(found):
        problems.append(f"{data}: some ids stand on several rows; every question needs its own.")
    if problems:
        raise RowsError(problems)
    return found


def _run_of(told: Mapping[str, Any], experts: Path, more: Mapping[str, Any]) -> BoostRun:
    """The settings that an experts.json holds for its experts. Raises RunFileError where they cannot be."""
    found = {"name": "label", "kind": told["kind"], "extraction": "whole", **more}
    found |= {name: told[name] for name in ("labels", "space") if name in told}
    found |= {"boost": {"combine": told["combine"]}} if "combine" in told else {}
    return validated(found, BoostRun, experts, {}, {})


def _table(experts: Path) -> dict[str, Any]:
    """The whole content of an experts.json, as far as it can be read; what is wrong with it, `read_experts` says."""
    from expo.generate.experts import read_experts

    try:
        found = json.loads(experts.read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("kind", "generation") not in ("generation", "classification"):
        read_experts(experts)
        raise BoostingError(f"{experts}: not a list of experts.")
    return {"kind": "generation", **found}
