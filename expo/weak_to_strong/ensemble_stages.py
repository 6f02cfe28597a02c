"""What the stages of EnsemW2S do: each fills a folder from its inputs and returns facts.

A fact called `said` is printed when its stage is made: each round says there how good its expert is on its own.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from expo.weak_to_strong import boosting, difficulty, rounds
from expo.weak_to_strong.ensemble_run import BoostRun, EnsembleRun
from expo.weak_to_strong.errors import BoostingError, StageError
from expo.weak_to_strong.forms import Sampled, form_of
from expo.weak_to_strong.keyed import read_json, write_rows
from expo.weak_to_strong.labels import RESULTS
from expo.weak_to_strong.pool import asked_by, in_form, prepare

Inputs = Mapping[str, Path]
Facts = Mapping[str, Any]
VALIDATION = "validation"


# --- Questions -------------------------------------------------------------------------------------------------------


def data_stage(run: EnsembleRun, folder: Path, inputs: Inputs) -> Facts:
    """The pool in the run's form, further test sets, and the embedded task's base models."""
    return prepare(run, folder, inputs)


def given_stage(run: BoostRun, folder: Path, inputs: Inputs) -> Facts:
    """Files of questions in the run's form; StageError where validation asks nothing that is not learnt from."""
    counts, asked = {}, {}
    for name, path in inputs.items():
        made = in_form(run, read_json(path), str(path))
        if run.kind == "classification" and len({row["label"] for row in made}) == 1:
            raise StageError(f"{path}: all {len(made):,} rows are of one class: nothing can be learnt.")
        counts[name] = write_rows(folder / f"{name}.jsonl", made)
        asked[name] = [asked_by(run, row) for row in made]
    learnt = set(asked["train"])
    known = sum(one in learnt for one in asked[VALIDATION])
    told = f"{inputs[VALIDATION]}: {known:,} of {counts[VALIDATION]:,} questions are also learnt from"
    if known == counts[VALIDATION]:
        raise StageError(f"{told}. The round is chosen there: hold questions back that no expert sees.")
    return {"rows": counts, "learnt, too": known} | ({"said": told} if known else {})


def difficulty_stage(run: EnsembleRun, folder: Path, inputs: Inputs) -> Facts:
    """How hard each question of the pool is."""
    return difficulty.rate(run, list(read_json(inputs["pool"])), folder, inputs.get("model", ""), inputs.get("file"))


def split_stage(run: EnsembleRun, folder: Path, inputs: Inputs) -> Facts:
    """The parts of the pool."""
    rated = {row["id"]: row["difficulty"] for row in read_json(inputs["difficulty"])}
    rows = list(read_json(inputs["pool"]))
    return difficulty.split(run, rows, [rated[row["id"]] for row in rows], folder)


# --- Rounds ----------------------------------------------------------------------------------------------------------


def prior_stage(run: BoostRun, folder: Path, inputs: Inputs) -> Facts:
    """The error of the model that experts are made from, before any of them is trained."""
    found = form_of(run).sampled(run, inputs["model"], list(read_json(inputs["train"])))
    told = {"error": float(np.mean(found.wrong)), "samples": len(found.wrong)}
    rounds.write_state(folder, told)
    return told


def expert_stage(run: BoostRun, number: int, folder: Path, inputs: Inputs) -> Facts:
    """An expert, trained from the weak model as it comes with the weights of the round before."""
    state = rounds.read_state(inputs["score"]) if number else rounds.FRESH
    if state["stopped"]:
        rounds.write_state(folder, state)
        return {"stopped": state["stopped"], "said": f"not trained: {state['stopped']}"}
    rows, weights = list(read_json(inputs["train"])), None
    if number:
        weights = list(rounds.of_rows(inputs["before"] / rounds.WEIGHTS, rows))
        if run.boost.weighting == "resample":
            rows, weights = _drawn(run, rows, weights, number), None
        elif run.kind == "classification":
            weights = [one and one[0] for one in weights]
    return form_of(run).train(run, run.expert, inputs["model"], rows, folder, weights=weights, again=state["restarts"])


def _drawn(run: BoostRun, rows: list, weights: list, number: int) -> list:
    """As many rows, drawn with replacement by the mean of each one's weights (of tokens: ours)."""
    pairs = [(row, float(np.mean(own))) for row, own in zip(rows, weights, strict=True) if own]
    drawn = boosting.resampled(np.array([weight for _, weight in pairs]), run.seed + number)
    return [pairs[at][0] for at in drawn]


def weigh_stage(run: BoostRun, number: int, folder: Path, inputs: Inputs) -> Facts:
    """The expert's error on what it was trained on, its alpha, and the weights of the next round."""
    before = rounds.read_state(inputs["before"]) if number else rounds.FRESH
    if not rounds.was_made(inputs["expert"]):
        state = rounds.read_state(inputs["expert"])
        rounds.write_state(folder, {**before, "stopped": state["stopped"]})
        return {"stopped": state["stopped"]}
    rows = list(read_json(inputs["train"]))
    found = form_of(run).sampled(run, rounds.checkpoint(inputs["expert"]), rows)
    weights = boosting.start(len(found.wrong))
    if number:
        weights = boosting.checked(rounds.read_weights(inputs["before"] / rounds.WEIGHTS, rows, found))
    rule = _rule(run, found, inputs.get("prior"))
    judged = boosting.judge(boosting.error_of(found.wrong, weights), rule, len(found.wrong))
    state = {"rounds": [*before["rounds"], {"round": number, **judged._asdict()}], "restarts": before["restarts"]}
    state["stopped"] = _ending(run, judged)
    if judged.alpha:
        weights = boosting.reweighted(weights, found.wrong, judged.alpha, rule)
    else:  # Breiman's way out: equal weights again, and another order of the rows
        weights, state["restarts"] = boosting.start(len(weights)), before["restarts"] + 1
    rounds.write_weights(folder / rounds.WEIGHTS, rows, found, weights)
    rounds.write_state(folder, state)
    plain = float(np.mean(found.wrong))
    told = {"weighted error": judged.error, "error": plain, "alpha": judged.alpha, "prior": rule.reference}
    said = f"weighted error {judged.error:.4f} (unweighted {plain:.4f}), alpha {judged.alpha:.3f}"
    return {**told, "samples": len(found.wrong), "said": f"{said}; {judged.said}" if judged.said else said}


def _rule(run: BoostRun, found: Sampled, prior: Path | None) -> boosting.Rule:
    measured = rounds.read_state(prior)["error"] if prior else None
    return boosting.rule_of(run.prior, classes=found.classes, measured=measured, n=len(found.wrong))


def _ending(run: BoostRun, judged: boosting.Judged) -> str:
    """Why no further round is worth making, if so."""
    if judged.verdict == "perfect":
        return "an expert makes no mistake on its training set"
    if not judged.alpha and run.boost.not_better == "stop":
        return "an expert is not better than the prior"
    return ""


def tests_stage(run: BoostRun, number: int, parts: tuple[str, ...], folder: Path, inputs: Inputs) -> Facts:
    """The expert's own accuracy, and that of the ensemble so far, on every part."""
    state = rounds.read_state(inputs["weigh"])
    known = rounds.read_state(inputs[f"tests {number - 1}"]) if number else rounds.FRESH
    if len(state["rounds"]) <= number:
        rounds.write_state(folder, {**known, "stopped": state["stopped"]})
        return {"stopped": state["stopped"]}
    for before in range(number + 1):
        rounds.checkpoint(inputs[f"expert {before}"])
    this = {**state["rounds"][number], "own": {}, "ensemble": {}}
    experts = rounds.kept(state)
    if experts:
        rounds.write_experts(folder / rounds.EXPERTS, experts, "../../", run.kind)
    for part in parts:
        rows, own = inputs[f"test {part}"], folder / "own" / part
        this["own"][part] = form_of(run).test(run, inputs[f"expert {number}"] / rounds.MODEL, rows, own)["accuracy"]
        if experts:
            this["ensemble"][part] = _together(run, folder, inputs, experts, number, part)
    state["rounds"] = [*known["rounds"], this]
    state["stopped"] = state["stopped"] or _no_gain(run, state)
    rounds.write_state(folder, state)
    return {"own": this["own"], "ensemble": this["ensemble"], "experts": len(experts), "said": _said(this, state)}


def _together(run: BoostRun, folder: Path, inputs: Inputs, experts: list, number: int, part: str) -> Any:
    """The ensemble's accuracy on one part; what one expert or an earlier round has answered is not asked again."""
    place = folder / "ensemble" / part
    places = [folder if one["round"] == number else inputs[f"tests {one['round']}"] for one in experts]
    own = [at / "own" / part for at in places]
    same = own[0] if len(experts) == 1 else None
    if same is None and experts[-1]["round"] != number:
        same = inputs[f"tests {experts[-1]['round']}"] / "ensemble" / part
    if same is None:
        found = form_of(run).test_ensemble(run, folder / rounds.EXPERTS, own, inputs[f"test {part}"], place)
        return found["accuracy"]
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(same / RESULTS, place / RESULTS)
    right = [row["result"] for row in read_json(place / RESULTS)]
    return {"correct": sum(right), "n": len(right), "accuracy": sum(right) / len(right)}


def _no_gain(run: BoostRun, state: Mapping[str, Any]) -> str:
    found = [one["ensemble"][VALIDATION]["accuracy"] for one in state["rounds"] if one["ensemble"]]
    if run.boost.patience and found and boosting.exhausted(found, run.boost.patience):
        return f"{run.boost.patience} rounds brought no better ensemble on validation"
    return ""


def _said(this: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    def shares(found: Mapping[str, Any]) -> str:
        return ", ".join(f"{part} {100 * one['accuracy']:.1f} %" for part, one in found.items())

    together = f"; the ensemble so far: {shares(this['ensemble'])}" if this["ensemble"] else ""
    ended = f"; boosting ends: {state['stopped']}" if state["stopped"] else ""
    return f"on its own: {shares(this['own'])}{together}{ended}"


def chosen_stage(run: BoostRun, folder: Path, inputs: Inputs) -> Facts:
    """experts.json of the round whose ensemble answers most of the validation questions; never chosen on a test."""
    state = rounds.read_state(inputs[f"round {run.boost.rounds - 1}"])
    able = [one for one in state["rounds"] if one["ensemble"]]
    if not able:
        errors = ", ".join(f"{one['error']:.4f}" for one in state["rounds"])
        raise BoostingError(
            f"no expert is better than the prior (weighted errors: {errors}), so there is no ensemble.\n"
            "Train the experts longer (expert: max_steps, learning_rate), or choose another prior (boost: prior)."
        )
    accuracies = [one["ensemble"][VALIDATION]["accuracy"] for one in able]
    best = able[boosting.best_round(accuracies)]["round"]
    more = {"prior": run.prior, "combine": run.boost.combine, "chosen round": best, "rounds": state["rounds"]}
    more |= {"labels": list(run.labels)} if run.kind == "classification" else {"space": run.space}
    rounds.write_experts(folder / rounds.EXPERTS, rounds.kept(state, best), "../", run.kind, **more)
    rounds.write_state(folder, {**state, "chosen": best})
    said = f"round {best} of {len(state['rounds'])}, {_counted(len(rounds.kept(state, best)))}, chosen on validation"
    return {"chosen round": best, "rounds": state["rounds"], "stopped": state["stopped"], "said": said}


def _counted(experts: int) -> str:
    return "one expert" if experts == 1 else f"{experts} experts"


# --- Labels, students, merged experts --------------------------------------------------------------------------------


def label_stage(run: EnsembleRun, folder: Path, inputs: Inputs) -> Facts:
    """The ensemble's labels for the hard questions."""
    return _labelled(run, folder, inputs, rounds.kept(_chosen(inputs), _chosen(inputs)["chosen"]))


def single_label_stage(run: EnsembleRun, folder: Path, inputs: Inputs) -> Facts:
    """The first expert's labels alone, as soft as the ensemble's."""
    return _labelled(run, folder, inputs, [{**_chosen(inputs)["rounds"][0], "alpha": 1.0}])


def _chosen(inputs: Inputs) -> dict[str, Any]:
    return rounds.read_state(inputs["chosen"])


def _labelled(run: EnsembleRun, folder: Path, inputs: Inputs, experts: list) -> Facts:
    for one in experts:
        rounds.checkpoint(inputs[f"expert {one['round']}"])
    rounds.write_experts(folder / rounds.EXPERTS, experts, "../../", run.kind)
    return form_of(run).label(run, folder / rounds.EXPERTS, inputs["questions"], folder / "labels.jsonl")


def student_stage(run: EnsembleRun, folder: Path, inputs: Inputs) -> Facts:
    """The strong model, trained on labels of the hard questions."""
    rows = list(read_json(inputs["rows"]))
    return form_of(run).train(run, run.student, inputs["model"], rows, folder)


def merged_stage(run: EnsembleRun, method: str, folder: Path, inputs: Inputs) -> Facts:
    """The experts of all rounds merged into one checkpoint by `expo merge`, with their alphas as weights."""
    from expo.weak_to_strong.merging import merge_experts

    kept = rounds.kept(_chosen(inputs))
    experts = [(rounds.checkpoint(inputs[f"expert {one['round']}"]), one["alpha"]) for one in kept]
    return merge_experts(run, method, inputs["base"], experts, folder)


def test_stage(run: EnsembleRun, parts: tuple[str, ...], folder: Path, inputs: Inputs) -> Facts:
    """A checkpoint's accuracy on every part."""
    if not inputs["model"].is_dir():
        raise StageError(f"{inputs['model']} is missing, although its stage was finished. Make it again with --from.")
    form = form_of(run)
    return {part: form.test(run, inputs["model"], inputs[f"test {part}"], folder / part)["accuracy"] for part in parts}


def report_stage(run: EnsembleRun, tested: Mapping, parts: tuple[str, ...], folder: Path, inputs: Inputs) -> Facts:
    """Accuracies by round, the students with PGR, and figures."""
    from expo.weak_to_strong.ensemble_report import write_report

    return write_report(run, tested, parts, inputs, folder)
