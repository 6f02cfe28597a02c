"""All experts merged in weight space, by `expo merge`: does one checkpoint do as well as the ensemble of them?

A question of this toolkit's own; the paper combines experts by their probabilities only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from expo.weak_to_strong.ensemble_run import EnsembleRun

RECIPE = "recipe.yaml"


def merge_experts(
    run: EnsembleRun, method: str, base: Path | str, experts: Sequence[tuple[Path, float]], folder: Path
) -> dict[str, Any]:
    """Write folder/model: experts merged with their alphas as weights, and the recipe beside it; facts.

    ties counts changes from the weak model; for classifiers from that model with the head that every expert began with.
    """
    import expo

    recipe = recipe_of(method, experts, run.merging.density)
    if method == "ties":
        recipe["base_model"] = str(_with_head(run, base, folder) if run.kind == "classification" else base)
    text = yaml.safe_dump(recipe, sort_keys=False)
    (folder / RECIPE).write_text(text)
    report = expo.merge(folder / RECIPE, output=folder / "model", overwrite=True, dtype="float32")
    return {"experts": len(experts), "weights": [weight for _, weight in experts], "method": method} | _told(report)


def recipe_of(method: str, experts: Sequence[tuple[Path, float]], density: float) -> dict[str, Any]:
    """A recipe in mergekit's schema."""
    more = {"density": density} if method == "ties" else {}
    models = [{"model": str(model), "parameters": {"weight": weight, **more}} for model, weight in experts]
    return {"merge_method": method, "models": models, "parameters": {"normalize": True}}


def _with_head(run: EnsembleRun, base: Path | str, folder: Path) -> Path:
    """The weak model as a classifier, with the new head that experts get from the run's seed."""
    from transformers import set_seed

    from expo.checkpoint.source import resolve
    from expo.train.load import filler_of, load_classifier, load_tokenizer, quietly

    place = folder / "base"
    settings = run.trainer({name: value for name, value in run.expert.items() if name != "lora"})
    source = resolve(base)
    with quietly():
        tokenizer = load_tokenizer(source, settings)
        set_seed(settings.seed)
        load_classifier(source, settings, list(run.labels), filler_of(tokenizer)).model.save_pretrained(place)
        tokenizer.save_pretrained(place)
    return place


def _told(report: Any) -> dict[str, Any]:
    seconds = getattr(report, "seconds", None)
    return {"seconds to merge": round(seconds, 3)} if isinstance(seconds, float) else {}
