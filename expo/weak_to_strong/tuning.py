"""Models are trained on a stage's rows, and extrapolated past what training reached. A stage's folder holds `model`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expo.weak_to_strong.answers import PROMPT, RESPONSE, field
from expo.weak_to_strong.errors import StageError
from expo.weak_to_strong.keyed import read_json, write_rows
from expo.weak_to_strong.labels import answer
from expo.weak_to_strong.runfile import RunFile

MODEL = "model"
LOSSES = {"dpo": "sigmoid", "orpo": "orpo"}


def fine_tune(run: RunFile, settings: Mapping[str, Any], model: Path | str, rows: Path, folder: Path) -> dict[str, Any]:
    """SFT of `model` on rows of (content, output) or (prompt, completion)."""
    from expo.train import SftSettings, train_sft

    count = write_rows(folder / "train.jsonl", (_completion(row, run.space) for row in read_json(rows)))
    report = train_sft(model, folder / "train.jsonl", folder / MODEL, SftSettings.of({**_defaults(run), **settings}))
    return {
        "rows": count,
        "trained on": report.rows,
        "left out": report.dropped,
        "steps": report.steps,
        "loss": report.loss,
    }


def prefer(
    run: RunFile, loss: str, settings: Mapping[str, Any], model: Path, pairs: Path, folder: Path
) -> dict[str, Any]:
    """DPO or ORPO of `model` on pairs of (instruction, [chosen, rejected])."""
    from expo.train import DpoSettings, train_dpo

    count = write_rows(folder / "train.jsonl", (_pair(row, run.space) for row in read_json(pairs)))
    more = {"loss": LOSSES[loss], "reference_cache": str(folder.parent / ".reference")}
    report = train_dpo(
        model, folder / "train.jsonl", folder / MODEL, DpoSettings.of({**_defaults(run), **more, **settings})
    )
    return {
        "pairs": count,
        "trained on": report.rows,
        "left out": report.dropped,
        "steps": report.steps,
        "loss": report.loss,
    }


def _defaults(run: RunFile) -> dict[str, Any]:
    """What a run's training settings need not say. A model may answer with nothing; such rows are left out, counted."""
    return {"seed": run.seed, "bad_rows": "drop"} | ({"device": "cpu"} if run.device == "cpu" else {})


def _completion(row: dict, space: bool) -> dict[str, Any]:
    prompt, text = field(row, PROMPT, str), field(row, RESPONSE, str)
    return {"id": row.get("id"), "prompt": prompt, "completion": spaced(prompt, text, space)}


def _pair(row: dict, space: bool) -> dict[str, Any]:
    prompt, (chosen, rejected) = field(row, PROMPT, str), row["output"]
    sides = {"chosen": spaced(prompt, chosen, space), "rejected": spaced(prompt, rejected, space)}
    return {"id": row["id"], "prompt": prompt, **sides}


def spaced(prompt: str, text: str, space: bool) -> str:
    """A completion as it follows its prompt; the published tokenizer sets a space between the two."""
    return f" {text}" if space and not prompt[-1:].isspace() and not text[:1].isspace() else text


# --- Extrapolation ---------------------------------------------------------------------------------------------------


def extrapolate(run: RunFile, sft: Path, preferred: Path, validation: Path | None, folder: Path) -> dict[str, Any]:
    """Write preferred + alpha (preferred - sft); of several alphas the one that answers most validation questions.

    Scores are taken on exactly the weights that would be written. Ties go to the smaller alpha.
    """
    import expo

    alphas = sorted(run.extrapolate.alphas)
    curve = []
    if len(alphas) > 1:
        if validation is None:
            raise StageError("several alphas need validation questions.")
        curve = [{"alpha": alpha, **_score(run, sft, preferred, alpha, validation, folder)} for alpha in alphas]
    alpha = max(curve, key=lambda point: (point["correct"], -point["alpha"]))["alpha"] if curve else alphas[0]
    report = expo.extrapolate(sft=str(sft), dpo=str(preferred), output=folder / MODEL, alpha=alpha, overwrite=True)
    chosen = "validation" if curve else "given"
    return {"alpha": alpha, "effective alpha": report.effective_alpha, "chosen": chosen, "curve": curve}


def _score(run: RunFile, sft: Path, preferred: Path, alpha: float, questions: Path, folder: Path) -> dict[str, Any]:
    """Validation accuracy at one alpha, kept in the folder so that a killed stage does not answer twice."""
    place = folder / "validation" / f"alpha_{alpha:g}"
    kept = place / "score.json"
    if kept.exists():
        return json.loads(kept.read_text())
    from transformers import AutoTokenizer

    import expo
    from expo.generate.local import wrap

    recipe = expo.extrapolation(sft=str(sft), dpo=str(preferred), alpha=alpha)
    model = wrap(expo.load_model(recipe), AutoTokenizer.from_pretrained(preferred), f"alpha {alpha:g}")
    found = answer(run, model, questions, place)["accuracy"]
    if found is None:
        raise StageError(f"{questions}: validation questions need golds.")
    kept.write_text(json.dumps(found))
    return found


# --- Released adapters -----------------------------------------------------------------------------------------------


def adapted(strong: str, adapters: tuple[str, ...], device: str) -> Any:
    """The strong model with LoRA adapters merged into it one after the other, ready to be asked."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise StageError("adapters need peft, which is not installed: pip install 'expo[train]'") from error
    from expo.generate import load
    from expo.generate.local import wrap

    local = load(strong, device=device)
    model = local.model
    for name in adapters:
        model = PeftModel.from_pretrained(model, name).merge_and_unload()
    return wrap(model.eval(), local.tokenizer, " + ".join((str(strong), *adapters)))
