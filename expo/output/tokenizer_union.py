"""One tokenizer.json from several: the first one's, with the tokens that only others have. Pure; knows no model.

What stays the first one's: normaliser, pre-tokeniser, post-processor, decoder. So a text is cut as the first
tokenizer cuts it; a new token is found where its pieces meet in such a cut.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expo.errors import UnionRefused

_WAY_OUT = "Take one tokenizer for the output: `tokenizer: {source: base}`, or a model's name as source."
_HOW = ("normalizer", "pre_tokenizer", "decoder")
_MARGIN = 0.1  # of log-likelihood: more than sums of scores round by
_KINDS = {"BPE", "Unigram", "WordPiece", "WordLevel"}


def outline(table: dict) -> dict:
    """A tokenizer.json without its tokens."""
    return {**table, "model": {k: v for k, v in table["model"].items() if k not in ("vocab", "merges")}}


def check_alike(first: tuple[str, dict], other: tuple[str, dict]) -> None:
    """UnionRefused unless two tokenizers, each (name, tokenizer.json), spell their tokens in the same way."""
    (name, table), (other_name, other_table) = first, other
    kinds = _kind(table), _kind(other_table)
    if kinds[0] != kinds[1]:
        raise UnionRefused(
            f"tokenizer: union of {name} ({kinds[0]}) and {other_name} ({kinds[1]}): "
            "the same text is other tokens there.",
            _WAY_OUT,
        )
    if table["model"].get("type", "BPE") not in _KINDS:
        raise UnionRefused(f"tokenizer: union: {name} is of the unknown kind {kinds[0]}.", _WAY_OUT)


def cuts_differ(table: dict, other: dict) -> list[str]:
    """Which parts, beside the vocabulary, two tokenizers differ in."""
    return [part for part in _HOW if table.get(part) != other.get(part)]


@dataclass(frozen=True)
class Lent:
    """What one tokenizer.json says of new tokens; the rest of it need not be held."""

    merges: list[tuple[str, str]]  # those that make a new token, in their order
    scores: dict[str, float]  # of a Unigram's new pieces


def lend(table: dict, new: Collection[str]) -> Lent:
    """The part of a tokenizer.json that a union with the tokens `new` is made of."""
    model = table["model"]
    prefix = model.get("continuing_subword_prefix") or ""
    pairs = _pairs(model.get("merges") or ())
    pieces = model["vocab"] if isinstance(model["vocab"], list) else ()
    return Lent(
        [(left, right) for left, right in pairs if left + right.removeprefix(prefix) in new],
        {piece: score for piece, score in pieces if piece in new},
    )


def union(table: dict, lent: Sequence[Lent], rows: Mapping[str, int], added: Mapping[str, dict]) -> dict:
    """tokenizer.json of the first table with every token of `rows`.

    rows: token -> id, the first table's own unchanged. added: how tokens beside the model's own are matched, for all
    tokens of `rows` that are such. Raises UnionRefused where the kind of model cannot hold the ids.
    """
    table = {**table, "model": dict(table["model"])}
    model = table["model"]
    own = set(_pieces(model))
    new = [token for token in rows if token not in own and token not in added]
    listed = {entry["content"] for entry in table.get("added_tokens") or ()}
    entries = [*(table.get("added_tokens") or ()), *(
        _entry(token, rows[token], added[token]) for token in rows if token in added and token not in listed
    )]  # fmt: skip
    table["added_tokens"] = sorted(entries, key=lambda entry: entry["id"])
    outside = [token for token in rows if token in added and token not in own]
    if not new and _in_sequence([rows[token] for token in outside], len(own)):
        return table
    # The library numbers added tokens on from the model's vocabulary, so with a longer one they must be part of it.
    if isinstance(model["vocab"], dict):
        held = model["vocab"] | {token: rows[token] for token in [*new, *outside]}
        model["vocab"] = dict(sorted(held.items(), key=lambda item: item[1]))
    else:
        model["vocab"] = _scored(model, lent, new, outside, rows)
    if "merges" in model:
        model["merges"] = _merges(model["merges"], lent)
    return table


def merge_lines(table: dict) -> list[str]:
    """The merges of a tokenizer.json as the lines of merges.txt."""
    return [" ".join(pair) for pair in _pairs(table["model"].get("merges") or ())]


def _merges(merges: list, lent: Sequence[Lent]) -> list:
    """The first one's merges, then those of the others, written as the first one writes them where that can be."""
    kept = dict.fromkeys(_pairs(merges))
    for other in lent:
        kept |= dict.fromkeys(pair for pair in other.merges if pair not in kept)
    spaced = any(" " in piece for pair in kept for piece in pair)
    as_text = not spaced and all(isinstance(merge, str) for merge in merges)
    return [" ".join(pair) if as_text else list(pair) for pair in kept]


def _scored(model: dict, lent: Sequence[Lent], new: list[str], outside: list[str], rows: Mapping[str, int]) -> list:
    """A Unigram's pieces by id: the new ones score below the pieces that spell them, so that no known text changes.

    A new piece with a character that the first tokenizer lacks keeps its own score.
    """
    vocab = model["vocab"]
    scores: dict[str, float] = {}
    for other in lent:
        scores = other.scores | scores
    behind = {rows[token]: [token, min((score for _, score in vocab), default=0.0)] for token in outside}
    for token, spelled in _spelled(model, new):
        below = sum(vocab[row][1] for row in spelled) - _MARGIN if spelled else scores[token]
        behind[rows[token]] = [token, min(below, scores[token])]
    if not _in_sequence(list(behind), len(vocab)):
        raise UnionRefused("tokenizer: union: a Unigram vocabulary cannot leave out ids, and base's does.", _WAY_OUT)
    return [*vocab, *(behind[row] for row in sorted(behind))]


def _spelled(model: dict, tokens: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """Each token and the pieces that a Unigram spells it with; none where it lacks a character."""
    from tokenizers.models import Unigram

    unknown = model.get("unk_id")
    if unknown is None:  # without one the library refuses what it cannot spell
        yield from ((token, []) for token in tokens)
        return
    own = Unigram([tuple(piece) for piece in model["vocab"]], unknown, bool(model.get("byte_fallback")))
    for token in tokens:
        ids = [piece.id for piece in own.tokenize(token)]
        yield token, [] if unknown in ids else ids


def _in_sequence(ids: Sequence[int], first: int) -> bool:
    return sorted(ids) == list(range(first, first + len(ids)))


def _entry(token: str, row: int, how: Mapping[str, Any]) -> dict:
    """An added token as tokenizer.json lists it."""
    flags = {flag: bool(how.get(flag, False)) for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")}
    return {"id": row, "content": token, **flags}


def _pieces(model: dict) -> Iterator[str]:
    vocab = model["vocab"]
    return iter(vocab) if isinstance(vocab, dict) else (piece for piece, _ in vocab)


def _pairs(merges: Sequence) -> Iterator[tuple[str, str]]:
    for merge in merges:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield left, right


def _kind(table: dict) -> str:
    """What decides how a token's text is spelled, in words."""
    model = table["model"]
    said = [str(model.get("type", "BPE"))]
    if any("ByteLevel" in _types(table.get(part)) for part in _HOW):
        said.append("byte-level")
    if model.get("byte_fallback"):
        said.append("with byte fallback")
    said += [f"{key} {model[key]!r}" for key in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(key)]
    return ", ".join(said)


def _types(part: object) -> set[str]:
    """The types of a step and of the steps inside it."""
    if isinstance(part, dict):
        inner = [step for value in part.values() if isinstance(value, list) for step in value]
        return {str(part.get("type"))}.union(*map(_types, inner))
    return set()


def misplaced(text: bytes, rows: Mapping[str, int]) -> list[str]:
    """The tokens to which the `tokenizers` library gives another id than planned, once it has loaded a tokenizer.json.

    Raises UnionRefused where it does not load it.
    """
    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_buffer(text)
    except Exception as error:  # the library raises nothing narrower
        raise UnionRefused(f"tokenizer: union: the vocabularies do not fit together: {error}.", _WAY_OUT) from error
    return [token for token, row in rows.items() if loaded.token_to_id(token) != row]
