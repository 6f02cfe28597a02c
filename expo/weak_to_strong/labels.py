"""A model answers questions: greedily or in samples, zero-shot or with demonstrations; final answers are taken out.

A stage's folder then holds answers.jsonl, as the model wrote them, and results.jsonl, whose rows are
{id, sample, prompt, response, pred} and, where the questions have golds, {gold, result}.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expo.weak_to_strong.answers import open_answers
from expo.weak_to_strong.errors import StageError
from expo.weak_to_strong.keyed import read_json, write_rows
from expo.weak_to_strong.modes import Mode
from expo.weak_to_strong.provenance import pick
from expo.weak_to_strong.runfile import RunFile

RESULTS = "results.jsonl"
ANSWERS = "answers.jsonl"


def answering_settings(run: RunFile, *, drawn: bool = False) -> dict[str, Any]:
    """All settings that change what `answer` makes."""
    asked = run.answering.model_dump(mode="json", exclude={"batch_tokens"})
    graded = {"extraction": run.extraction, "equivalence": run.equivalence, "mode": str(run.mode)}
    return asked | graded | {"seed": run.seed} | (run.drawing.model_dump(mode="json") if drawn else {})


def answer(
    run: RunFile, model: Any, questions: Path, folder: Path, *, demos: Path | None = None, drawn: bool = False
) -> dict[str, Any]:
    """Ask `model` all questions and write answers and results into `folder`; facts about them."""
    from expo.generate import Sampling, generate

    settings = run.answering
    how = run.drawing.model_dump() if drawn else {}
    report = generate(
        model,
        questions,
        folder / ANSWERS,
        sampling=Sampling(max_tokens=settings.max_tokens, stop=settings.stop, seed=run.seed, **how),
        demos=demos,
        long_prompts=settings.long_prompts,
        batch_tokens=settings.batch_tokens,
        device=run.device,
    )
    told = {"answers": report.n_answers, "finishes": report.finishes, "warnings": report.warnings}
    return told | finish(run, folder / ANSWERS, questions, folder / RESULTS)


def finish(run: RunFile, answers: Path, questions: Path, results: Path) -> dict[str, Any]:
    """Write results.jsonl from answers of any origin; facts. Golds are looked at for `result` only."""
    from expo.evaluate import extractor, grade
    from expo.generate import read_answers

    rows = [{**row, "response": clean(row["response"], run.mode)} for row in read_answers(answers)]
    asked = {row.get("id", number): row for number, row in enumerate(read_json(questions))}
    for row in rows:
        if row["id"] not in asked:
            raise StageError(f"{answers}: id {row['id']!r} is not among the questions of {questions}.")
        row.setdefault("prompt", asked[row["id"]].get("prompt", ""))
    if any(row.get("gold") in (None, "") for row in asked.values()):
        find = extractor(run.extraction)
        made = [_result(row, find(row["response"])) for row in rows]
        write_rows(results, made)
        return {"empty": sum(row["pred"] == "" for row in made), "accuracy": None}
    seconds = {"seconds": run.judge_seconds} if run.judge_seconds else {}
    golds = [{"id": key, "prompt": row["prompt"], "gold": row["gold"]} for key, row in asked.items()]
    graded = grade(rows, golds, extraction=run.extraction, equivalence=run.equivalence, **seconds)
    by_key = {(row["id"], row["sample"]): row for row in rows}
    made = [
        _result(by_key[one.id, one.sample], one.pred) | {"gold": one.gold, "result": one.correct}
        for one in graded.grades
    ]
    write_rows(results, made)
    right = sum(row["result"] for row in made)
    told = {"correct": right, "n": len(made), "accuracy": right / len(made)}
    return {"empty": sum(row["pred"] == "" for row in made), "accuracy": told}


def clean(response: str, mode: Mode) -> str:
    """A response without space around it; mode "published" takes full stops off both ends too, as the authors' code."""
    return response.strip().strip(".") if mode is Mode.PUBLISHED else response.strip()


def choose_demos(weak: Path, output: Path, shots: int, seed: int) -> int:
    """Write `shots` of the weak model's own answers as demonstrations, right or wrong; only empty ones are left out."""
    rows = open_answers(weak)
    fit = [key for key in rows.numbers if rows[key].pred and rows[key].response]
    if len(fit) < shots:
        raise StageError(f"{weak}: {len(fit)} answers can serve as demonstrations, {shots} are needed.")
    drawn: Sequence[Any] = pick(fit, shots, seed, "demos")
    return write_rows(output, ({"prompt": rows[key].prompt, "response": rows[key].response} for key in drawn))


def _result(row: Mapping[str, Any], pred: str) -> dict[str, Any]:
    return {
        "id": row["id"],
        "sample": row["sample"],
        "prompt": row["prompt"],
        "response": row["response"],
        "pred": pred,
    }
