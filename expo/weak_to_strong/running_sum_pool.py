"""The embedded task as a pool for boosting: running sums of several lengths, and two base models.

To answer: `31475=` is asked, `34850` is learnt. To classify: `31475=34850` is right (1), or has one wrong digit (0).
Length is what makes a question hard; the column `terms` holds it. Everything comes from seeds; nothing is downloaded.
"""

from pathlib import Path
from typing import Any

from expo.weak_to_strong.ensemble_run import EnsembleRun
from expo.weak_to_strong.keyed import write_rows
from expo.weak_to_strong.provenance import text_hash

SHORTEST = 3
WEAK_BASE, STRONG_BASE = "weak_base", "strong_base"


def prepare_embedded(run: EnsembleRun, folder: Path) -> dict[str, Any]:
    """Write the pool and both base models; facts.

    The bases see other questions than the pool's: those of the task's validation split, a tenth of all.
    """
    from expo import toy
    from expo.weak_to_strong.pool import POOL

    task = run.embedded
    examples = [(terms, one) for terms, n in lengths(run).items() for one in toy.draw(terms, n, "train", run.seed)]
    rows = [_row(run, number, terms, one) for number, (terms, one) in enumerate(examples)]
    facts: dict[str, Any] = {"rows": {"pool": write_rows(folder / POOL, rows)}}
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


def lengths(run: EnsembleRun) -> dict[int, int]:
    """Numbers in a question -> how many such questions: half of the pool has the most numbers, if they exist."""
    from expo import toy

    task = run.embedded
    shorter, left = {}, task.pool // 2
    for terms in range(SHORTEST, task.terms):
        shorter[terms] = min(left // (task.terms - terms), toy.available(terms, "train"))
        left -= shorter[terms]
    longest = min(task.pool - sum(shorter.values()), toy.available(task.terms, "train"))
    return shorter | {task.terms: longest} | ({task.terms + 1: task.hardest} if task.hardest else {})


def _row(run: EnsembleRun, number: int, terms: int, example: Any) -> dict[str, Any]:
    from expo import toy

    if run.kind == "generation":
        gold = toy.answer(example.completion)
        told = {"prompt": example.prompt, "completion": example.completion, "gold": gold}
    else:
        told = _judged(example, text_hash(str(run.seed), "judged", example.prompt))
    return {"id": number, **told, "terms": terms}


def _judged(example: Any, coins: bytes) -> dict[str, Any]:
    """A solution to be judged: as it is, or with one digit changed."""
    text, right = example.completion, coins[0] % 2 == 1
    if not right:
        at = coins[1] % len(text)
        wrong = str((int(text[at]) + 1 + coins[2] % 9) % 10)
        text = text[:at] + wrong + text[at + 1 :]
    return {"text": example.prompt + text, "label": int(right)}
