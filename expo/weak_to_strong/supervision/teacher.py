"""Asking a teacher or a judge until its answers have the right form: rounds of `generate`, each a file that resumes.

What is in the right form after a round is not asked again; after the last round what is left is counted by its fault.
WORK/HASH/round-N.jsonl keeps every answer, HASH of who is asked and what: a killed call, or one with more attempts,
asks for nothing that it has paid for, and other requests never meet these answers.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expo.weak_to_strong.provenance import text_hash
from expo.weak_to_strong.supervision.errors import BadNumber, TeacherFailed
from expo.weak_to_strong.supervision.lengths import UNPRICED, Count, Prices, spent
from expo.weak_to_strong.supervision.prompts import BadForm

Read = Callable[[Any, str], Any]  # (key of the request, answer) -> what it says; BadForm where it does not


@dataclass(frozen=True)
class Teacher:
    """Who is asked, and how. attempts: rounds, each with draws of its own. most_failed: share of requests that may
    stay without an answer of the right form."""

    model: str
    endpoint: str | None = None
    chat: bool | None = None  # None: as a chat where there is an endpoint or a chat template
    temperature: float = 1.0
    max_tokens: int = 4096
    seed: int = 0
    attempts: int = 3
    most_failed: float = 0.2
    concurrency: int = 8
    device: str = "auto"
    progress: Callable[[int, int, int], object] = lambda done, total, tokens: None

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise BadNumber("attempts", self.attempts, "1 or more")
        if not 0 <= self.most_failed <= 1:
            raise BadNumber("most_failed", self.most_failed, "a share from 0 to 1")

    def record(self) -> dict[str, Any]:
        """What changes answers, for a report."""
        kept = ("model", "temperature", "max_tokens", "seed", "attempts")
        return {name: getattr(self, name) for name in kept} | {"served": self.endpoint is not None}


@dataclass
class Asked:
    """What came of it: the readings in the right form by key, the faults of all other answers, and the cost."""

    found: dict[Any, Any] = field(default_factory=dict)
    faults: Counter = field(default_factory=Counter)  # of every answer that was refused
    failed: dict[Any, str] = field(default_factory=dict)  # key -> its last fault
    spent: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The facts as JSON values."""
        return {"refused answers": dict(self.faults), "without an answer": len(self.failed), "spent": self.spent}


def ask(
    teacher: Teacher,
    requests: Mapping[Any, str],
    read: Read,
    work: str | Path,
    *,
    count: Count | None = None,
    prices: Prices = UNPRICED,
    what: str = "requests",
) -> Asked:
    """Put each request to the teacher, at most `attempts` times, until `read` accepts an answer.

    requests: id -> text. Raises TeacherFailed where more than `most_failed` of them are left, and what `generate`
    raises; answers stay in `work`.
    """
    asked, left = Asked(), dict(requests)
    work = Path(work) / _identity(teacher, requests)
    prompts: list[str] = []
    rows: list[dict[str, Any]] = []
    who: Any = None
    for attempt in range(teacher.attempts):
        if not left:
            break
        who = who or opened(teacher)
        answers = _round(teacher, who, left, work / f"round-{attempt + 1}.jsonl", attempt)
        rows += answers
        prompts += [left[row["id"]] for row in answers]
        asked.failed = {}
        for row in answers:
            _take(asked, row, read)
        left = {key: left[key] for key in asked.failed}
    asked.spent = spent(prompts, rows, count, prices)
    if len(left) > teacher.most_failed * len(requests):
        raise TeacherFailed(_failure(teacher, asked, len(requests), what, work))
    return asked


def planned(requests: Mapping[Any, str], count: Count | None, prices: Prices) -> dict[str, Any]:
    """What one round would ask, without asking: requests, their tokens, and what these cost."""
    n_prompt = sum(map(count, requests.values())) if count else None
    cost = prices.of(n_prompt, 0) if n_prompt is not None else None
    return {"requests": len(requests), "prompt tokens": n_prompt, "cost of prompts": cost}


def _identity(teacher: Teacher, requests: Mapping[Any, str]) -> str:
    """A name for these requests to this teacher."""
    who = {name: value for name, value in teacher.record().items() if name != "attempts"}
    return text_hash(json.dumps([who, teacher.chat]), *(f"{key}\0{text}" for key, text in requests.items())).hex()[:12]


def opened(teacher: Teacher) -> tuple[Any, bool]:
    """What `generate` asks, and whether as a chat: on a server always, locally where there is a chat template."""
    if teacher.endpoint:
        return teacher.model, teacher.chat is not False
    from expo.generate import load

    model = load(teacher.model, device=teacher.device)
    return model, bool(model.tokenizer.chat_template) if teacher.chat is None else teacher.chat


def _round(teacher: Teacher, who: tuple, left: Mapping[Any, str], path: Path, attempt: int) -> list[dict[str, Any]]:
    """Every open request once, with the draws of this attempt; its answers."""
    from expo.generate import Sampling, generate, read_answers

    # Greedy once: the same words again would be the same answer.
    temperature = teacher.temperature or (1.0 if attempt else 0.0)
    generate(
        who[0],
        [{"id": key, "prompt": text} for key, text in left.items()],
        path,
        sampling=Sampling(temperature=temperature, max_tokens=teacher.max_tokens, seed=teacher.seed + attempt),
        endpoint=teacher.endpoint,
        chat=who[1],
        long_prompts="skip",
        concurrency=teacher.concurrency,
        progress=teacher.progress,
    )
    return read_answers(path)


def _take(asked: Asked, row: Mapping[str, Any], read: Read) -> None:
    try:
        if row.get("finish") == "too long":
            raise BadForm("request too long for the model")
        asked.found[row["id"]] = read(row["id"], row["response"])
    except BadForm as fault:
        told = "cut off at the longest answer" if row.get("finish") in ("length", "context") else str(fault)
        asked.faults[told] += 1
        asked.failed[row["id"]] = told


def _failure(teacher: Teacher, asked: Asked, n: int, what: str, work: object) -> str:
    faults = ", ".join(f"{name} {count:,}" for name, count in Counter(asked.failed.values()).most_common())
    return (
        f"{teacher.model}: {len(asked.failed):,} of {n:,} {what} have no answer of the right form after "
        f"{teacher.attempts} {'attempt' if teacher.attempts == 1 else 'attempts'} ({faults}); "
        f"at most {teacher.most_failed:.0%} may fail.\n"
        f"The answers are kept in {work}. Look at them; then raise --attempts or --max-tokens, take another model, or "
        "allow more: --most-failed."
    )
