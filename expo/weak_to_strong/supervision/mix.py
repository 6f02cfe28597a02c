"""Training sets out of corrupted ones: hard only, subtasks only, hard + subtask, hard + paraphrase; of equal size.

Sizes are rows or tokens. Mixed sets of a wanted size are half and half. `least` cuts all sets down to the smallest,
`most` repeats rows up to the largest, so that the hard tasks alone are the paper's baseline of doubled epochs.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from expo.weak_to_strong.keyed import write_rows, write_text
from expo.weak_to_strong.provenance import text_hash
from expo.weak_to_strong.supervision.corrupt import wrong_count
from expo.weak_to_strong.supervision.errors import Stranger
from expo.weak_to_strong.supervision.rates import NOTE, rates
from expo.weak_to_strong.supervision.records import Judged, belong

HARD, SUBTASK, BOTH, PARAPHRASE = "hard", "subtask", "hard+subtask", "hard+paraphrase"
KINDS = (HARD, SUBTASK, BOTH, PARAPHRASE)
Measure = Callable[[Judged], int]
Equal = Literal["none", "counts", "tokens"]
To = Literal["least", "most"]
Parts = Mapping[str, Sequence[Judged]]  # hard, subtask, paraphrase -> rows
_TRIED = 16  # numbers of rows around the expected one, of which the one nearest to a wanted sum is taken


class Asked(NamedTuple):
    """The error rates that a part was made for; None where none was asked."""

    outcome: float | None = None
    steps: float | None = None


OWN = Asked()


def parts_of(kind: str) -> tuple[str, ...]:
    """What a kind of supervision is mixed from."""
    return tuple(kind.split("+"))


def possible(parts: Parts) -> list[str]:
    """The kinds that these parts allow."""
    return [kind for kind in KINDS if all(parts.get(name) for name in parts_of(kind))]


def check_parts(parts: Parts) -> None:
    """Raise Stranger where a subtask is of no hard task, or a hard sample has no paraphrase."""
    hard = {one.id for one in parts.get("hard", ())}
    if hard and parts.get("subtask"):
        belong(parts["subtask"], hard, "subtask set", "the hard set")
    if parts.get("paraphrase"):
        paraphrases(parts["hard"], parts["paraphrase"])


def paraphrases(hard: Sequence[Judged], paraphrased: Sequence[Judged]) -> list[Judged]:
    """Each hard sample's own paraphrase: that of the same id, teacher and sample."""
    known = {one.key: one for one in paraphrased}
    missing = [one.key for one in hard if one.key not in known]
    if missing:
        key, teacher, sample = missing[0]
        raise Stranger(
            f"{len(missing):,} of {len(hard):,} hard samples have no paraphrase; the first is sample {sample} of "
            f"{key!r}{f' by {teacher}' if teacher else ''}.\n"
            "A paraphrase bears the id, teacher and sample of what it paraphrases."
        )
    return [known[one.key] for one in hard]


def size_of(kind: str, parts: Parts, measure: Measure, to: To) -> int:
    """How large a set of that kind is by nature: the most without repeating, or the least that holds all hard rows."""
    sizes = [sum(map(measure, parts[name])) for name in parts_of(kind)]
    if len(sizes) == 1:
        return sizes[0]
    return 2 * (min(sizes) if to == "least" else sizes[0])


def assemble(
    kind: str, parts: Parts, *, size: int | None, measure: Measure, seed: int, asked: Mapping[str, Asked] | None = None
) -> list[Judged]:
    """The rows of one set. size: in what `measure` counts, shared equally by its parts; None takes every row once.

    asked: the rates that were asked of each part; without them a part keeps its own. A part and its paraphrases share
    the one sample by which they may miss their rate.
    """
    names = parts_of(kind)
    if size is None:
        return [one for name in names for one in parts[name]]
    shares = [size // len(names) + (number < size % len(names)) for number in range(len(names))]
    room = 1 / len(names) if kind == PARAPHRASE else 1
    return [
        one
        for name, share in zip(names, shares, strict=True)
        for one in filled(parts[name], share, measure, seed, (asked or {}).get(name, OWN), room)
    ]


def filled(
    rows: Sequence[Judged], size: int, measure: Measure, seed: int, asked: Asked = OWN, room: float = 1
) -> list[Judged]:
    """Rows that sum to about `size`, in their order: whole copies first, then an even share of every kind of row.

    The share is taken at equal distances from the rows sorted by outcome and by wrong steps, and by a hash where these
    are equal; where that misses a rate (the one asked, or the whole set's) by more than a sample (of wrong outcomes by
    more than `room`), the share is mended. So a part of a set has both rates within one sample; where rows stand there
    several times, one different sample counts as often.
    """
    whole = sum(map(measure, rows))
    if not whole:
        return []
    copies, rest = divmod(size, whole)
    order = sorted(range(len(rows)), key=lambda number: _place(rows[number], seed))
    guess = round(rest * len(rows) / whole)
    near = range(max(0, guess - _TRIED), min(len(rows), guess + _TRIED) + 1)
    shares = {count: _evenly(order, count) for count in near}
    best = min(near, key=lambda count: (abs(sum(measure(rows[n]) for n in shares[count]) - rest), count))
    share = shares[best]
    if asked.outcome is not None:
        share = _at_outcome(share, order, rows, copies, asked.outcome, room)
    return list(rows) * copies + [rows[number] for number in sorted(_mended(share, order, rows, asked.steps))]


def _place(one: Judged, seed: int) -> tuple:
    return (one.result, one.n_errors / max(1, one.n_steps), text_hash(str(seed), str(one.key), "mix"))


def _evenly(order: Sequence[int], count: int) -> list[int]:
    """`count` of them at equal distances."""
    return [order[(2 * number + 1) * len(order) // (2 * count)] for number in range(count)]


def _at_outcome(
    share: Sequence[int], order: Sequence[int], rows: Sequence[Judged], copies: int, outcome: float, room: float
) -> Sequence[int]:
    """The share; where with the copies before it the set misses its rate, one with as many wrong ones as it takes."""
    wrong, right = ([n for n in order if rows[n].result == result] for result in (False, True))
    size, before = copies * len(rows) + len(share), copies * len(wrong)
    if abs(before + sum(not rows[n].result for n in share) - outcome * size) <= room + 1e-9:
        return share
    count = max(0, len(share) - len(right), wrong_count(outcome, size) - before)
    count = min(count, len(wrong), len(share))
    return [*_evenly(wrong, count), *_evenly(right, len(share) - count)]


def _mended(share: Sequence[int], order: Sequence[int], rows: Sequence[Judged], steps: float | None) -> list[int]:
    """The share with its wrong steps within one sample of the rate.

    The two rows of one outcome, one of them taken, that lie furthest apart in the right direction are exchanged. No
    exchange moves more than the longest sample, so none makes it worse; with none left, what is over is the rounding
    of the outcomes: half a sample.
    """
    if steps is None:
        steps = sum(one.n_errors for one in rows) / max(1, sum(one.n_steps for one in rows))
    room = max(one.n_steps for one in rows) + 1e-9
    beyond = [one.n_errors - steps * one.n_steps for one in rows]
    taken = set(share)
    while abs(total := sum(beyond[n] for n in order if n in taken)) > room:
        signed = [value if total > 0 else -value for value in beyond]
        pairs = []
        for outcome in (False, True):
            inside = [n for n in order if rows[n].result == outcome and n in taken]
            outside = [n for n in order if rows[n].result == outcome and n not in taken]
            if inside and outside:
                pairs.append((max(inside, key=signed.__getitem__), min(outside, key=signed.__getitem__)))
        old, new = max(pairs, key=lambda pair: signed[pair[0]] - signed[pair[1]], default=(0, 0))
        if signed[old] <= signed[new]:  # a rate that is not this set's
            break
        taken = (taken - {old}) | {new}
    return list(taken)


def mix(
    parts: Parts,
    folder: str | Path,
    *,
    kinds: Sequence[str] = (),
    equal: Equal = "none",
    to: To = "least",
    tokens: Measure | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write KIND.jsonl for each kind that the parts allow (or those of `kinds`), and manifest.json; the manifest.

    tokens: of a row's prompt and response, needed for equal="tokens". Raises Stranger.
    """
    check_parts(parts)
    parts = dict(parts)
    if parts.get("paraphrase"):
        parts["paraphrase"] = paraphrases(parts["hard"], parts["paraphrase"])
    kinds = list(kinds) or possible(parts)
    if not kinds:
        raise Stranger("none of the parts has any rows, so there is nothing to mix.")
    measure = tokens if equal == "tokens" and tokens else lambda row: 1
    size = None
    if equal != "none":
        size = (min if to == "least" else max)(size_of(kind, parts, measure, to) for kind in kinds)
    told = {}
    for kind in kinds:
        rows = assemble(kind, parts, size=size, measure=measure, seed=seed)
        write_rows(Path(folder) / f"{kind}.jsonl", (one.row() for one in rows))
        told[kind] = manifest_of(rows, tokens)
    manifest = {"equal": equal, "to": to if size else None, "size": size, "seed": seed, "sets": told, "note": NOTE}
    write_text(Path(folder) / "manifest.json", _json(manifest))
    return manifest


def manifest_of(rows: Sequence[Judged], tokens: Measure | None = None) -> dict[str, Any]:
    """What a set holds: rows, tokens, and the rates really reached, of the whole and of hard rows and subtasks."""
    hard, subtasks = [one for one in rows if one.task is None], [one for one in rows if one.task is not None]
    told: dict[str, Any] = {"rows": len(rows), "different rows": len({(one.key, one.prompt) for one in rows})}
    if tokens:
        told["tokens"] = sum(map(tokens, rows))
    told["rates"] = _rates(rows)
    if hard and subtasks:
        told |= {"hard": _rates(hard), "subtask": _rates(subtasks)}
    return told


def _rates(rows: Sequence[Judged]) -> dict[str, Any]:
    """Rates of rows that may stand there several times."""
    found = rates(rows)
    for name in ("outcome", "steps"):
        if found[name]:
            found[name] = {key: value for key, value in found[name].items() if key not in ("method",)}
    return found


def _json(value: Any) -> str:
    import json

    return json.dumps(value, indent=1) + "\n"
