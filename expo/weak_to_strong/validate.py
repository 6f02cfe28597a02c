"""Look for the defects that training files of weak-to-strong runs are known to have, whoever wrote them.

Four kinds of files: training rows (content, output), pairs (instruction, output of two; or prompt, chosen, rejected),
answers (prompt, response, pred), votes (pos_responses, neg_responses). Finds and counts; changes nothing.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from expo.weak_to_strong.answers import (
    PROMPT,
    RESPONSE,
    Answer,
    Extract,
    Id,
    Same,
    field,
    identity,
    open_answers,
    parse_answer,
    same_text,
)
from expo.weak_to_strong.keyed import Keyed, read_json
from expo.weak_to_strong.pairs import MOST
from expo.weak_to_strong.provenance import text_hash

RULES = {
    "another model": "neither side of the pair is the weak model's response",
    "unknown id": "the weak model has not answered this id",
    "another prompt": "the weak model's answer of this id belongs to another prompt",
    "duplicate": "prompt and responses repeat an earlier row",
    "duplicate id": "an earlier row answers the same id",
    "empty response": "a response holds nothing",
    "empty prediction": "no final answer is found in the response, in the chosen side, or in the majority's",
    "same text": "chosen and rejected are the same text",
    "same answer": "chosen and rejected have the same final answer",
    "disagreement": "two responses kept for one id have different final answers",
    "too many pairs": f"an id has more than {MOST} pairs",
    "no common side": "pairs of one id share neither the chosen nor the rejected side",
    "order": "ids do not ascend",
    "stored prediction": "the stored final answer is not the one that the response holds",
    "stored result": "the stored result is not what comparing prediction and gold gives",
}


ADD_EXTRACTION = "add --extraction"


class Row(NamedTuple):
    """A row of any kind: one text, or a better and a worse one."""

    kind: str  # training, pair, answer, vote
    id: Id
    prompt: str
    texts: tuple[str, ...]
    stored: Mapping[str, Any]
    sample: int = 0


class Finding(NamedTuple):
    """A rule that some rows of a file break."""

    rule: str
    count: int
    first: str  # file and line
    meaning: str
    detail: str = ""


class Validation(NamedTuple):
    """What there is to say about one file."""

    kind: str
    rows: int
    ids: int
    sides: Mapping[str, int]  # pairs: how often the weak model's response is chosen, rejected, neither
    findings: list[Finding]
    unchecked: Mapping[str, str]  # rule -> why the given material does not tell


class Tally:
    """Counts broken rules, and remembers where each was broken first."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.first: dict[str, str] = {}
        self.details: dict[str, str] = {}
        self.unchecked: dict[str, str] = {}

    def add(self, rule: str, where: str) -> None:
        self.counts[rule] = self.counts.get(rule, 0) + 1
        self.first.setdefault(rule, where)

    def findings(self) -> list[Finding]:
        """In the order of RULES."""
        return [
            Finding(rule, self.counts[rule], self.first[rule], meaning, self.details.get(rule, ""))
            for rule, meaning in RULES.items()
            if rule in self.counts
        ]


def validate(
    path: str | Path,
    *,
    weak: str | Path | None = None,
    others: Mapping[str, str | Path] | None = None,
    extract: Extract | None = None,
    same: Same = same_text,
) -> Validation:
    """Everything that is wrong with one file, as far as the given material can tell.

    weak: the answers of the weak model that the file is said to come from; without it, its origin is not checked.
    others: name -> answers of other weak models, to say whose responses a pair file really holds.
    extract: takes the final answer out of a response; without it, final answers are known from `pred` alone, the
    row's own or for its responses the weak model's. `unchecked` names the rules that this leaves open.
    Raises RowError where the file cannot be read as one of the four kinds.
    """
    rows = read_json(path, parse)
    kinds = {row.kind for row in rows}
    tally = Tally()
    own = Keyed(weak, _as_told) if weak else None
    prediction = _remembering(extract) if extract else None
    seen: dict[bytes, int] = {}
    groups: dict[Id, list] = {}
    answered: set[tuple[Id, int]] = set()
    last: Id | None = None
    for number, row in enumerate(rows):
        where = rows.at(number)
        fingerprint = text_hash(row.prompt, *row.texts)
        if fingerprint in seen:
            tally.add("duplicate", where)
        seen[fingerprint] = number
        if row.kind in ("answer", "vote") and (row.id, row.sample) in answered:
            tally.add("duplicate id", where)
        answered.add((row.id, row.sample))
        if last is not None and type(last) is type(row.id) is int and row.id < last:
            tally.add("order", where)
        last = row.id
        _check_texts(row, where, tally, prediction, same, own)
        _check_group(groups.setdefault(row.id, []), row, where, tally, prediction, same)
    sides = _check_origin(rows, own, others or {}, tally) if own else {}
    if not extract:
        _tell_unchecked(kinds, tally)
    return Validation("/".join(sorted(kinds)), len(rows), len(groups), sides, tally.findings(), tally.unchecked)


def parse(found: dict) -> Row:
    """A row of whichever kind an object is."""
    key = identity(found)
    if "pos_responses" in found:
        sides = [field(found, (name,), list) for name in ("pos_responses", "neg_responses")]
        texts = tuple(field(one, RESPONSE, str) for one in sides[0] + sides[1])
        stored = {"pred": sides[0][0].get("pred") if sides[0] else ""}
        return Row("vote", key, field(found, PROMPT, str), texts, stored)
    if "chosen" in found or isinstance(found.get("output"), list):
        texts = found["output"] if "output" in found else [found.get("chosen"), found.get("rejected")]
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise ValueError("a pair needs two texts, chosen and rejected")
        return Row("pair", key, field(found, PROMPT, str), tuple(texts), {})
    kind = "answer" if "response" in found else "training"
    stored = {name: found[name] for name in ("pred", "gold", "result") if name in found}
    sample = found.get("sample", 0)
    return Row(kind, key, field(found, PROMPT, str), (field(found, RESPONSE, str),), stored, sample)


def _check_texts(
    row: Row, where: str, tally: Tally, prediction: Extract | None, same: Same, own: Keyed[Answer] | None
) -> None:
    if not all(text.strip() for text in row.texts):
        tally.add("empty response", where)
    if row.kind == "vote":
        if row.stored["pred"] == "":
            tally.add("empty prediction", where)
        return
    preds = [prediction(text) for text in row.texts] if prediction else []
    pred = preds[0] if preds else row.stored.get("pred", _pred_of(row, own))
    if pred is None:
        tally.unchecked["empty prediction"] = f"no pred; {ADD_EXTRACTION}"
    elif pred == "":
        tally.add("empty prediction", where)
    if row.kind == "pair":
        if row.texts[0] == row.texts[1]:
            tally.add("same text", where)
        elif preds and preds[0] == preds[1]:
            tally.add("same answer", where)
    stored = row.stored
    if preds and isinstance(stored.get("pred"), str) and stored["pred"] != preds[0]:
        tally.add("stored prediction", where)
    if all(name in stored for name in ("pred", "gold", "result")) and stored["gold"] is not None:
        right = stored["pred"] == stored["gold"] or same(*_as_answers(row, stored["pred"], stored["gold"]))
        if stored["result"] is not None and stored["result"] != right:
            tally.add("stored result", where)


def _check_group(group: list, row: Row, where: str, tally: Tally, prediction: Extract | None, same: Same) -> None:
    """What must hold among the rows of one id. `group` remembers hashes of pairs, or the first final answer."""
    if row.kind == "pair":
        texts = {text_hash(text) for text in row.texts}
        if len(group) == MOST:
            tally.add("too many pairs", where)
        if group and not any(texts & other for other in group):
            tally.add("no common side", where)
        if len(group) <= MOST:
            group.append(texts)
    elif row.kind == "training" and prediction:
        pred = prediction(row.texts[0])
        if not group:
            group.append(pred)
        elif pred != group[0] and not same(*_as_answers(row, group[0], pred)):
            tally.add("disagreement", where)


def _pred_of(row: Row, own: Keyed[Answer] | None) -> str | None:
    """The final answer that the weak model's file tells of a row's first response, None where it tells none."""
    if own is None or row.id not in own or own[row.id].response != row.texts[0]:
        return None
    return own[row.id].pred


def _tell_unchecked(kinds: set[str], tally: Tally) -> None:
    """The rules, besides the empty prediction, that compare final answers as responses hold them."""
    for kind, rule in (("pair", "same answer"), ("training", "disagreement"), ("answer", "stored prediction")):
        if kind in kinds:
            tally.unchecked[rule] = ADD_EXTRACTION


def _check_origin(
    rows: Keyed[Row], own: Keyed[Answer], others: Mapping[str, str | Path], tally: Tally
) -> dict[str, int]:
    """Whether the weak model wrote what it is said to have written; how often it stands on which side of a pair."""
    models = {name: open_answers(path, _no_prediction) for name, path in others.items()}
    sides = {"weak chosen": 0, "weak rejected": 0, "neither": 0}
    held = dict.fromkeys(models, 0)
    for number, row in enumerate(rows):
        where = rows.at(number)
        if row.id not in own:
            tally.add("unknown id", where)
            continue
        answer = own[row.id]
        if answer.prompt != row.prompt:
            tally.add("another prompt", where)
        if row.kind != "pair":
            continue
        side = row.texts.index(answer.response) if answer.response in row.texts else 2
        sides[list(sides)[side]] += 1
        if side == 2:
            tally.add("another model", where)
            for name, model in models.items():
                held[name] += row.id in model and model[row.id].response in row.texts
    told = [f"{count} of them hold {name}'s response" for name, count in held.items() if count]
    if told:
        tally.details["another model"] = ", ".join(told)
    return sides if any(sides.values()) else {}


def _as_answers(row: Row, *preds: str) -> list[Answer]:
    return [Answer(row.id, row.prompt, row.texts[0], pred) for pred in preds]


def _as_told(row: dict) -> Answer:
    """An answer of the weak model; its `pred` is None where the row tells none."""
    answer = parse_answer(row, _no_prediction)
    return answer if row.get("pred") is not None else answer._replace(pred=None)


def _no_prediction(response: str) -> str:
    return ""


def _remembering(extract: Extract) -> Callable[[str], str]:
    """`extract` with its answers to the latest texts kept: the same response is looked at in several rules."""
    from functools import lru_cache

    return lru_cache(maxsize=4096)(extract)
