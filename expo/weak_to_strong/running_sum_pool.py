"""The embedded task as a pool for boosting: running sums of several lengths, and two base models.

To answer: `31475=` is asked, `34850` is learnt; more numbers are harder (column `terms`). To classify: `31475=348` is
given, and whether the last sum is 5 or more; more missing sums are harder (column `missing`). Everything comes from
seeds; nothing is downloaded.
"""

from pathlib import Path
from typing import Any

from expo.weak_to_strong.ensemble_run import EnsembleRun
from expo.weak_to_strong.keyed import write_rows

SHORTEST = 3
WEAK_BASE, STRONG_BASE = "weak_base", "strong_base"


def prepare_embedded(run: EnsembleRun, folder: Path) -> dict[str, Any]:
    """Write the pool and both base models; facts.

    The bases see other questions than the pool's: those of the task's validation split, a tenth of all.
    """
    from expo import toy
    from expo.weak_to_strong.pool import POOL, numbered

    task = run.embedded
    facts: dict[str, Any] = {"rows": {"pool": write_rows(folder / POOL, numbered(_examples(run)))}}
    tokenizer = toy.build_tokenizer()
    for name, size, steps, more in (
        (WEAK_BASE, toy.WEAK, task.weak_pretraining, 0),
        (STRONG_BASE, toy.STRONG, task.strong_pretraining, 1),
    ):
        model = toy.build_model(size, run.seed + more)
        if steps:
            lessons = toy.mixture(range(2, task.terms + 1), 4000, "validation", run.seed)
            losses = toy.train(model, tokenizer, lessons, steps=steps, lr=2e-3, batch_size=128, seed=run.seed)
            facts[f"{name}: loss"] = losses[-1]
        toy.save(model, tokenizer, folder / name)
    return facts


def levels(run: EnsembleRun) -> dict[int, int]:
    """How hard -> how many such questions. Numbers in a question to answer, or missing sums in one to classify."""
    from expo import toy

    task = run.embedded
    if run.kind == "classification":
        return {1: task.pool // 4, 2: task.pool - task.pool // 4} | ({3: task.hardest} if task.hardest else {})
    shorter, left = {}, task.pool // 3
    for terms in range(SHORTEST, task.terms):
        shorter[terms] = min(left // (task.terms - terms), toy.available(terms, "train"))
        left -= shorter[terms]
    longest = min(task.pool - sum(shorter.values()), toy.available(task.terms, "train"))
    return shorter | {task.terms: longest} | ({task.terms + 1: task.hardest} if task.hardest else {})


def _examples(run: EnsembleRun) -> list[dict[str, Any]]:
    from expo import toy

    asked = levels(run)
    if run.kind == "generation":
        drawn = ((terms, one) for terms, n in asked.items() for one in toy.draw(terms, n, "train", run.seed))
        return [
            {"prompt": one.prompt, "completion": one.completion, "gold": toy.answer(one.completion), "terms": terms}
            for terms, one in drawn
        ]
    different = iter(toy.draw(run.embedded.terms, sum(asked.values()), "train", run.seed))
    return [_unfinished(next(different), missing) for missing, n in asked.items() for _ in range(n)]


def _unfinished(example: Any, missing: int) -> dict[str, Any]:
    """A solution without its last sums, and whether the very last one would be 5 or more."""
    from expo import toy

    text = example.prompt + example.completion[:-missing]
    return {"text": text, "label": int(int(toy.answer(example.completion)) >= 5), "missing": missing}
