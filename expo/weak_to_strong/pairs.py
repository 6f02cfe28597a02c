"""Stage II, second half: pairs of a better and a worse response, the weak model's being one of the two.

A majority that agrees with the weak model makes the weak response the chosen one; a stronger majority that disagrees
makes it the rejected one. Source: arXiv:2407.13647, section 3.2, and its published code, which has two thresholds
(0.6 and 0.8) where the paper's figure shows one.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from expo.weak_to_strong.answers import (
    Answer,
    Extract,
    Id,
    Same,
    accuracy,
    field,
    identity,
    open_answers,
    parse_answer,
    same_text,
    share,
)
from expo.weak_to_strong.compare import prepare
from expo.weak_to_strong.errors import RowError
from expo.weak_to_strong.keyed import Keyed, RowWriter, same_ids
from expo.weak_to_strong.modes import Mode
from expo.weak_to_strong.provenance import hash_of, pick

AGREE = 0.6  # least confidence of a majority that agrees with the weak model
DISAGREE = 0.8  # and of one that disagrees
SEED = 42
MOST = 3  # pairs a question for MATH and OlympicArena; 1 for GSM8K
MENDED = (
    "each question has a random draw of its own, so that no other question moves it (the published draws share one)",
    "texts are drawn once each, so that no pair repeats another (the published MATH pairs do)",
    "no side is empty, and chosen and rejected are never the same text",
)


class Vote(NamedTuple):
    """One question's samples, told apart by the majority's answer."""

    id: Id
    prompt: str
    positive: list[Answer]
    negative: list[Answer]
    confidence: float


class Pair(NamedTuple):
    """A better and a worse response to one question."""

    chosen: Answer
    rejected: Answer
    weak_is_chosen: bool

    def row(self, weak: Answer) -> dict[str, Any]:
        """In the published files' spelling."""
        output = [self.chosen.response, self.rejected.response]
        return {"id": weak.id, "instruction": weak.prompt, "input": "", "output": output}


class Rule(NamedTuple):
    """The settings of pair building."""

    agree: float = AGREE
    disagree: float = DISAGREE
    most: int = 1
    seed: int = SEED
    mode: Mode = Mode.MENDED


def fate(weak: Answer, vote: Vote, rule: Rule, same: Same = same_text) -> str:
    """What a question is good for: "weak chosen", "weak rejected", or why it is dropped."""
    if vote.confidence < rule.agree:
        return "unsure"
    majority = vote.positive[0].pred if vote.positive else ""
    if majority == "":
        return "empty"
    if weak.pred != "" and same(weak, vote.positive[0]):
        return "weak chosen" if vote.negative else "too easy"
    return "weak rejected" if vote.confidence >= rule.disagree else "disputed"


def build(
    weak: Iterable[Answer], votes: Iterable[Vote], rule: Rule, same: Same = same_text
) -> Iterator[tuple[str, Answer, list[Pair]]]:
    """(fate, weak answer, its pairs) for every question, in the given order."""
    draws = random.Random(rule.seed)  # the same stream as the published random.seed(42)
    for answer, vote in zip(weak, votes, strict=True):
        verdict = fate(answer, vote, rule, same)
        pairs: list[Pair] = []
        if verdict.startswith("weak"):
            make = _published if rule.mode is Mode.PUBLISHED else _mended
            pairs = make(answer, vote, rule, verdict == "weak chosen", draws)
            if not pairs:
                verdict = "no other text"
        yield verdict, answer, pairs


def _published(weak: Answer, vote: Vote, rule: Rule, agreed: bool, draws: random.Random) -> list[Pair]:
    if agreed:
        few = rule.most > 1 and len(vote.negative) <= rule.most
        others = vote.negative if few else draws.sample(vote.negative, rule.most)
        return [Pair(weak, other, True) for other in others]
    first = draws.sample(vote.positive, 1)[0]
    # Compared with the first alone: two of the others can have the same text, as in the published MATH files.
    others = [first, *(other for other in vote.positive if other.response != first.response)]
    return [Pair(other, weak, False) for other in others[: rule.most]]


def _mended(weak: Answer, vote: Vote, rule: Rule, agreed: bool, draws: random.Random) -> list[Pair]:
    if not weak.response.strip():
        return []
    texts: dict[str, Answer] = {}
    for sample in vote.negative if agreed else vote.positive:
        if sample.response.strip() and sample.response != weak.response:
            texts.setdefault(sample.response, sample)
    drawn = pick(list(texts.values()), rule.most, rule.seed, weak.id, "pairs")
    return [Pair(weak, other, True) if agreed else Pair(other, weak, False) for other in drawn]


def pair_files(
    weak: str | Path,
    votes: str | Path,
    output: str | Path,
    rule: Rule,
    *,
    same: Same = same_text,
    extract: Extract | None = None,
) -> dict[str, Any]:
    """Write the pairs of all questions to `output`; the report.

    weak: the weak model's answers to the questions of `votes`, which is `expo w2s vote`'s output.
    Rows follow the weak file's order. Raises RowError, DuplicateId or IdMismatch before anything is written, and
    RowError where a question differs between the files: pairs must not mix up models or data sets.
    """
    answers, counted = open_answers(weak, extract), open_votes(votes, extract)
    same_ids(answers, counted)
    for answer in answers:
        if counted[answer.id].prompt != answer.prompt:
            raise RowError(counted.where(answer.id), f"another prompt than in {answers.where(answer.id)}.")
    prepare(same, ((answer, vote.positive[0]) for answer in answers if (vote := counted[answer.id]).positive))
    fates: Counter[str] = Counter({"weak chosen": 0, "weak rejected": 0})
    sides: tuple[list, list] = ([], [])
    with RowWriter(output) as writer:
        matched = (counted[answer.id] for answer in answers)
        for verdict, answer, pairs in build(answers, matched, rule, same):
            fates[verdict] += 1
            for pair in pairs:
                writer.write(pair.row(answer))
                sides[0].append(pair.chosen.result)
                sides[1].append(pair.rejected.result)
    return {
        "rule": rule._asdict() | {"mode": str(rule.mode)},
        "mended": list(MENDED) if rule.mode is not Mode.PUBLISHED else [],
        "inputs": {"weak": hash_of(weak), "votes": hash_of(votes)},
        "questions": len(answers),
        "fates": dict(fates),
        "pairs": writer.count,
        "accuracy of chosen": accuracy(sides[0]),
        "accuracy of rejected": accuracy(sides[1]),
    }


def open_votes(path: str | Path, extract: Extract | None = None) -> Keyed[Vote]:
    """The file that `expo w2s vote` writes, or the published majority_voting_results.jsonl."""

    def parse(row: dict) -> Vote:
        key, prompt = identity(row), field(row, ("prompt",), str)
        confidence = share(row, "confidence")
        sides = []
        for name in ("pos_responses", "neg_responses"):
            found = field(row, (name,), list)
            if not all(isinstance(one, dict) for one in found):
                raise ValueError(f"{name!r} must hold objects")
            sides.append([parse_answer({**one, "id": key, "prompt": prompt}, extract) for one in found])
        if not sides[0] and confidence > 0:
            raise ValueError("'pos_responses' is empty although 'confidence' is above 0")
        return Vote(key, prompt, *sides, confidence)

    return Keyed(path, parse)
