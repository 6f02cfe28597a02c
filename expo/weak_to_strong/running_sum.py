"""The embedded task as a weak-to-strong run: its questions, and two base models that know part of it.

The strong base was pretrained on shorter and on equally long questions, alone and after demonstrations, and stopped
early: it gets part of the hard questions right. Everything comes from seeds; nothing is downloaded.
"""

from pathlib import Path
from typing import Any

from expo.weak_to_strong.keyed import write_rows
from expo.weak_to_strong.runfile import RunFile

FILES = ("train_1", "train_2", "validation", "test")
WEAK_BASE, STRONG_BASE = "weak_base", "strong_base"


def prepare(run: RunFile, folder: Path) -> dict[str, Any]:
    """Write train_1, train_2, validation and test, and both base models, into `folder`."""
    from expo import toy

    task = run.embedded
    both = toy.draw(task.terms, 2 * task.train, "train", run.seed)
    each = task.train // 2
    # Shorter questions too: a model that learns from the longest alone leaps from chance to perfect within 50 steps.
    shorter = toy.mixture(range(2, task.terms), each, "train", run.seed) if task.terms > 2 else []
    parts = {
        "train_1": [*shorter, *both[:each]],
        "train_2": both[task.train :],
        "validation": toy.draw(task.terms, task.validation, "validation", run.seed),
        "test": toy.draw(task.terms, task.test, "test", run.seed),
    }
    for name, examples in parts.items():
        write_rows(folder / f"{name}.jsonl", (row(number, one) for number, one in enumerate(examples)))
    tokenizer = toy.build_tokenizer()
    toy.save(toy.build_model(toy.WEAK, run.seed), tokenizer, folder / WEAK_BASE)
    strong = toy.build_model(toy.STRONG, run.seed + 1)
    losses = toy.train(strong, tokenizer, lessons(run), steps=task.pretraining, lr=2e-3, batch_size=128, seed=run.seed)
    toy.save(strong, tokenizer, folder / STRONG_BASE)
    return {"rows": {name: len(examples) for name, examples in parts.items()}, "pretraining loss": losses[-1]}


def shortages(run: RunFile) -> list[str]:
    """What the run asks of the embedded task beyond the questions that exist."""
    from expo import toy

    task = run.embedded
    told = []
    for name, share in (("train", 2), ("test", 1), ("validation", 1)):  # train_1 and train_2 have no question in common
        wanted, most = getattr(task, name), toy.available(task.terms, name) // share
        if wanted > most:
            told.append(f"embedded.{name}: {wanted:,} questions of {task.terms} numbers; there are {most:,}.")
    return told


def row(number: int, example: Any) -> dict[str, Any]:
    """A solved question as a row of the pipeline."""
    from expo import toy

    return {
        "id": number,
        "prompt": example.prompt,
        "completion": example.completion,
        "gold": toy.answer(example.completion),
    }


def lessons(run: RunFile) -> list[Any]:
    """What the strong base was pretrained on: questions of 2 to `terms` numbers, half of them after demonstrations."""
    from expo import toy
    from expo.generate.prompts import Demo, Question, plain_text

    task = run.embedded
    # Another seed than the task's: what it has seen of train_2's questions is a matter of chance, as for real models.
    each = min(4000, 16 * task.pretraining)
    alone = toy.mixture(range(2, task.terms + 1), each, "train", run.seed + 1)
    if not task.shots:
        return alone
    demos = [Demo(Question(None, "", prompt=one.prompt), one.completion) for one in alone]
    shown, step = [], 7919  # a prime: demonstrations of other questions, all lengths mixed
    for number, one in enumerate(alone):
        before = [demos[(number + step * k) % len(demos)] for k in range(1, task.shots + 1)]
        shown.append(toy.Example(plain_text(Question(None, "", prompt=one.prompt), before), one.completion))
    return [lesson for pair in zip(alone, shown, strict=True) for lesson in pair]
