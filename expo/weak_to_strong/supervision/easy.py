"""The first stage's easy questions: OrcaMath of NuminaMath-CoT, and MATH levels 1 to 3 without MATH-500.

The paper names both and counts 164 thousand; which of their rows it took is not published.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from expo.weak_to_strong.keyed import write_rows
from expo.weak_to_strong.questions import MATH_PARTS, ask, from_math, hub, numbered, with_answer

LEVELS = ("Level 1", "Level 2", "Level 3")


def easy_math(
    output: str | Path, *, raw: None = None, load: Callable[..., Iterable[Mapping[str, Any]]] | None = None
) -> dict[str, Any]:
    """Write train.jsonl into the folder `output`; the report."""
    load = load or hub
    held_out = {row["problem"] for row in load("HuggingFaceH4/MATH-500", None, "test")}
    orca = [
        {"prompt": ask(row["problem"]), "completion": row["solution"]}
        for row in load("AI-MO/NuminaMath-CoT", None, "train")
        if row["source"] == "orca_math"
    ]
    math = [
        from_math(with_answer(row))
        for part in MATH_PARTS
        for split in ("train", "test")
        for row in load("EleutherAI/hendrycks_math", part, split)
        if row["level"] in LEVELS and row["problem"] not in held_out
    ]
    count = write_rows(Path(output) / "train.jsonl", numbered([*orca, *math]))
    note = "AI-MO/NuminaMath-CoT (orca_math) and EleutherAI/hendrycks_math (levels 1 to 3, without MATH-500)"
    return {"source": note, "rows": {"train": count}, "parts": {"orca_math": len(orca), "math": len(math)}}
