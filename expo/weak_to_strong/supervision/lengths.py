"""Token counts, what they cost, and how many subtasks a solution of some length gives.

The published rule, in tokens of bert-base-uncased: up to 400 drop, 401 to 1,000 two, 1,001 to 1,600 three, longer drop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from expo.errors import ExpoError
from expo.weak_to_strong.supervision.errors import BadNumber

Count = Callable[[str], int]
WORDS, CHARACTERS = "words", "characters"
PUBLISHED = "bert-base-uncased"


@dataclass(frozen=True)
class LengthRule:
    """Longest solutions, in tokens, that are dropped as too short, cut in two, and cut in three."""

    short: int = 400
    two: int = 1000
    three: int = 1600

    def __post_init__(self) -> None:
        if not 0 <= self.short <= self.two <= self.three:
            rule = (self.short, self.two, self.three)
            raise BadNumber("length rule", rule, "three whole numbers that do not fall: SHORT, TWO, THREE")

    def parts(self, n_tokens: int) -> int:
        """2 or 3; 0 where the task is dropped."""
        if n_tokens <= self.short or n_tokens > self.three:
            return 0
        return 2 if n_tokens <= self.two else 3


PUBLISHED_RULE = LengthRule()


def counter(tokenizer: str) -> Count:
    """The function that counts a text's tokens. tokenizer: a folder, a Hub id, or `words` (at spaces), `characters`."""
    if tokenizer == CHARACTERS:
        return len
    if tokenizer == WORDS:
        return lambda text: len(text.split())
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(tokenizer)
    except Exception as error:  # transformers raises whatever the Hub's client raises
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExpoError(
            f"the tokenizer {tokenizer} cannot be loaded: {first}\n"
            "Name a folder with a tokenizer, a Hub id that can be reached, or count words: --tokenizer words."
        ) from error
    return lambda text: len(found(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class Prices:
    """What a teacher's tokens cost, for a million of them; None where the user has not said."""

    prompt: float | None = None
    answer: float | None = None

    def of(self, n_prompt: int, n_answer: int) -> float | None:
        """The cost of so many tokens."""
        if self.prompt is None and self.answer is None:
            return None
        return ((self.prompt or 0.0) * n_prompt + (self.answer or 0.0) * n_answer) / 1e6


UNPRICED = Prices()


def spent(prompts: list[str], rows: list[dict[str, Any]], count: Count | None, prices: Prices) -> dict[str, Any]:
    """What asking cost: answers, tokens of prompts and answers, money.

    Tokens are the teacher's own count where it gives one (a server's usage, which is what it bills); what it does not
    give is counted by `count`, and unknown without that. A prompt that was refused as too long costs nothing.
    """
    asked = [0 if row.get("finish") == "too long" else row.get("n_prompt_tokens") for row in rows]
    n_prompt = _sum(asked, prompts, count)
    n_answer = _sum([row.get("n_tokens") for row in rows], [row["response"] for row in rows], count)
    return {
        "answers": len(rows),
        "with the server's usage": sum("n_prompt_tokens" in row for row in rows),
        "prompt tokens": n_prompt,
        "answer tokens": n_answer,
        "cost": None if n_prompt is None or n_answer is None else prices.of(n_prompt, n_answer),
    }


def _sum(told: list[int | None], texts: list[str], count: Count | None) -> int | None:
    if count is None:
        return None if None in told else sum(told)  # type: ignore[arg-type]
    return sum(count(text) if n is None else n for n, text in zip(told, texts, strict=True))
