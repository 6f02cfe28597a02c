"""What a checkpoint's tokenizer files say: which row of the embedding is which token. Reads no tensor data."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from expo.checkpoint.files import read_small
from expo.checkpoint.sentencepiece import pieces
from expo.checkpoint.spec import Checkpoint
from expo.checkpoint.strict_json import parse_object, shown
from expo.errors import MissingTokenizer, UnreadableTokenizer

MAX_BYTES = 256 * 2**20  # Gemma's tokenizer.json has 33 MB
MAX_ID = 1 << 24
# Of these the ids are the pieces' own numbers; sentencepiece.bpe.model's are shifted by the classes that read it.
SENTENCEPIECE = ("tokenizer.model", "spiece.model")
REMEDY = (
    "To make a tokenizer.json: "
    "`python -c \"from transformers import AutoTokenizer as T; T.from_pretrained('X').save_pretrained('X')\"`."
)


@dataclass(frozen=True)
class Tokens:
    """A checkpoint's tokens and their rows."""

    rows: dict[str, int]  # token -> row
    file: str  # where the model's own vocabulary was read
    digest: str  # of the bytes that were read: equal for equal tokenizers
    added: dict[str, dict] = field(default_factory=dict)  # tokens beside the model's own, with how they are matched


def read_tokens(checkpoint: Checkpoint, known: Iterable[Tokens] = ()) -> Tokens:
    """Every token that a checkpoint's tokenizer knows.

    Read from tokenizer.json, else vocab.json or vocab.txt, else a sentencepiece model; tokens that only
    tokenizer_config.json or added_tokens.json list are counted in.
    known: tokenizers read before: one of the same bytes is not read again.
    Raises MissingTokenizer, UnreadableTokenizer, or a HeaderError for text that is no JSON.
    """
    source = checkpoint.source
    here = [name for name in ("tokenizer.json", "vocab.json", "vocab.txt", *SENTENCEPIECE) if name in source.side_files]
    if not here:
        raise MissingTokenizer(f"{source.text}: no tokenizer that expo reads (tokenizer.json).", REMEDY)
    beside = [name for name in ("added_tokens.json", "tokenizer_config.json") if name in source.side_files]
    raw = {name: read_small(source.folder / name, MAX_BYTES) for name in (here[0], *beside)}
    digest = xxhash.xxh3_128_hexdigest(repr([(name, xxhash.xxh3_128_hexdigest(raw[name])) for name in raw]).encode())
    for twin in known:
        if twin.digest == digest:
            return twin
    path = source.folder / here[0]
    rows, added = _READERS.get(here[0], _sentencepiece)(raw[here[0]], path)
    for name in beside:
        for token, row, how in _listed(raw[name], source.folder / name):
            if token not in rows:
                rows[token] = row
                added[token] = how
    for token, row in rows.items():
        if not 0 <= row < MAX_ID:
            raise UnreadableTokenizer(path, f"the token {shown(token, 40)} has the id {row}, which is no row.")
    return Tokens(rows, here[0], digest, added)


def read_table(checkpoint: Checkpoint) -> dict:
    """tokenizer.json as an object; its vocabulary is as `read_tokens` found it."""
    path = checkpoint.source.folder / "tokenizer.json"
    return parse_object(read_small(path, MAX_BYTES), path, what="tokenizer")


def _tokenizer_json(raw: bytes, path: Path) -> tuple[dict[str, int], dict[str, dict]]:
    table = parse_object(raw, path, what="tokenizer")
    model = table.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, dict):
        rows = vocab
    elif isinstance(vocab, list) and all(_is_piece(piece) for piece in vocab):
        rows = {piece[0]: row for row, piece in enumerate(vocab)}
    else:
        raise UnreadableTokenizer(path, "its model has no vocabulary: an object of ids, or a list of pieces.")
    added = {}
    for entry in table.get("added_tokens") or ():
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise UnreadableTokenizer(path, f"an added token is {shown(repr(entry), 60)}, not one with a content.")
        rows[entry["content"]] = entry.get("id")
        added[entry["content"]] = entry
    _check_ids(rows, path)
    return rows, added


def _vocab_json(raw: bytes, path: Path) -> tuple[dict[str, int], dict[str, dict]]:
    rows = parse_object(raw, path, what="vocabulary")
    _check_ids(rows, path)
    return rows, {}


def _vocab_txt(raw: bytes, path: Path) -> tuple[dict[str, int], dict[str, dict]]:
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UnreadableTokenizer(path, f"byte {error.start} is not UTF-8.") from None
    return {line.rstrip("\r"): row for row, line in enumerate(lines) if line}, {}


def _sentencepiece(raw: bytes, path: Path) -> tuple[dict[str, int], dict[str, dict]]:
    return {piece: row for row, piece in enumerate(pieces(raw, path))}, {}


_READERS = {"tokenizer.json": _tokenizer_json, "vocab.json": _vocab_json, "vocab.txt": _vocab_txt}


def _listed(raw: bytes, path: Path) -> Iterator[tuple[str, int, dict]]:
    """(token, row, how it is matched) from added_tokens.json or tokenizer_config.json."""
    table = parse_object(raw, path, what="table")
    if path.name == "added_tokens.json":
        _check_ids(table, path)
        yield from ((token, row, {}) for token, row in table.items())
        return
    listed = table.get("added_tokens_decoder")
    for row, how in listed.items() if isinstance(listed, dict) else ():
        content = how.get("content") if isinstance(how, dict) else None
        if not isinstance(content, str) or not (row.isascii() and row.isdigit() and len(row) < 10):
            raise UnreadableTokenizer(path, f"added_tokens_decoder: {shown(row, 20)} is no id with a content.")
        yield content, int(row), how


def _is_piece(piece: object) -> bool:
    return isinstance(piece, list) and len(piece) == 2 and isinstance(piece[0], str)


def _check_ids(rows: dict, path: Path) -> None:
    for token, row in rows.items():
        if type(row) is not int:
            raise UnreadableTokenizer(path, f"the id of {shown(token, 40)} is {shown(repr(row), 40)}, not an integer.")
