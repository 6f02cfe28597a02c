"""What the stages of Weak-to-Strong Reasoning do: each fills a folder from its inputs and returns facts."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expo.weak_to_strong.compare import Comparison
from expo.weak_to_strong.errors import StageError
from expo.weak_to_strong.labels import ANSWERS, RESULTS, answer, choose_demos, finish
from expo.weak_to_strong.pairs import Rule, pair_files
from expo.weak_to_strong.report import write_report
from expo.weak_to_strong.runfile import RunFile
from expo.weak_to_strong.running_sum import prepare
from expo.weak_to_strong.select import full_weak, select
from expo.weak_to_strong.tuning import MODEL, adapted, extrapolate, fine_tune, prefer
from expo.weak_to_strong.vote import vote_files

Inputs = Mapping[str, Path]
Facts = Mapping[str, Any]


def prepare_stage(run: RunFile, folder: Path, inputs: Inputs) -> Facts:
    """The embedded task's questions and base models."""
    return prepare(run, folder)


def sft_stage(run: RunFile, settings: Mapping, folder: Path, inputs: Inputs) -> Facts:
    """A fine-tuned checkpoint."""
    return fine_tune(run, settings, inputs["model"], inputs["rows"], folder)


def label_stage(run: RunFile, folder: Path, inputs: Inputs, *, drawn: bool = False) -> Facts:
    """A model's answers: greedy, or samples where `drawn`; after demonstrations where the inputs have some."""
    demos = inputs.get("demos")
    if "demos_from" in inputs:
        demos = folder / "demos.jsonl"
        choose_demos(inputs["demos_from"], demos, run.demos.shots, run.seed)
    return answer(run, inputs["model"], inputs["questions"], folder, demos=demos, drawn=drawn)


def adapted_stage(run: RunFile, adapters: tuple[str, ...], folder: Path, inputs: Inputs) -> Facts:
    """The answers of the strong model with released adapters."""
    return answer(run, adapted(run.strong, adapters, run.device), inputs["questions"], folder)


def given_stage(run: RunFile, folder: Path, inputs: Inputs) -> Facts:
    """Answers or a checkpoint that were made elsewhere take a stage's place."""
    given = inputs["given"]
    if given.is_dir():
        (folder / MODEL).unlink(missing_ok=True)
        (folder / MODEL).symlink_to(given.resolve())
        return {"given": str(given)}
    if "questions" not in inputs:
        raise StageError(f"{given}: only answers can be given as a file; this stage makes a checkpoint or a selection.")
    shutil.copyfile(given, folder / ANSWERS)
    return {"given": str(given)} | finish(run, folder / ANSWERS, inputs["questions"], folder / RESULTS)


def full_stage(folder: Path, inputs: Inputs) -> Facts:
    """Every weak answer as a training row."""
    return full_weak(inputs["weak"], folder / "rows.jsonl")


def select_stage(run: RunFile, folder: Path, inputs: Inputs) -> Facts:
    """The three training sets of the questions on which both models agree."""
    same = Comparison(run.equivalence, run.judge_seconds)
    report = select(inputs["weak"], inputs["icl"], folder, mode=run.mode, same=same)
    if not report["rows"]["weak"]:
        raise StageError(
            f"no question was kept ({_counted(report['fates'])}), so there is nothing to learn from.\n"
            "Look at both models' answers: is the extraction right, and does the strong model follow its examples?"
        )
    return report


def vote_stage(run: RunFile, folder: Path, inputs: Inputs) -> Facts:
    """Each question's samples, told apart by the majority."""
    same = Comparison(run.equivalence, run.judge_seconds)
    return vote_files([inputs["samples"]], folder / "votes.jsonl", mode=run.mode, same=same)


def pairs_stage(run: RunFile, folder: Path, inputs: Inputs) -> Facts:
    """Preference pairs, the weak response on one side."""
    rule = Rule(mode=run.mode, **run.pairs.model_dump())
    same = Comparison(run.equivalence, run.judge_seconds)
    report = pair_files(inputs["weak"], inputs["votes"], folder / "pairs.jsonl", rule, same=same)
    if not report["pairs"]:
        raise StageError(
            f"no pair was made ({_counted(report['fates'])}).\nLower thresholds (pairs: agree, disagree) make more."
        )
    return report


def preference_stage(run: RunFile, loss: str, settings: Mapping, folder: Path, inputs: Inputs) -> Facts:
    """A preference-trained checkpoint."""
    return prefer(run, loss, settings, inputs["model"], inputs["pairs"], folder)


def extrapolate_stage(run: RunFile, folder: Path, inputs: Inputs) -> Facts:
    """A checkpoint past the preference-trained one."""
    return extrapolate(run, inputs["sft"], inputs["preferred"], inputs.get("validation"), folder)


def report_stage(run: RunFile, tested: Mapping[str, Mapping], folder: Path, inputs: Inputs) -> Facts:
    """Accuracies, PGR, figures."""
    return write_report(run, tested, inputs, folder)


def _counted(fates: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in fates.items() if count)
