"""The pieces of a sentencepiece model, in order. Reads two fields of its protocol buffer and skips the rest."""

from collections.abc import Iterator
from pathlib import Path

from expo.errors import UnreadableTokenizer

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # wire types


def pieces(raw: bytes, path: Path) -> list[str]:
    """ModelProto.pieces[].piece; raises UnreadableTokenizer for anything else."""
    try:
        found = [_piece(value) for number, value in _fields(raw) if number == 1 and isinstance(value, bytes)]
    except (IndexError, UnicodeDecodeError, ValueError):
        found = []
    if not found or None in found:
        raise UnreadableTokenizer(path, "not a sentencepiece model.")
    return found


def _piece(message: bytes) -> str | None:
    text = [value for number, value in _fields(message) if number == 1 and isinstance(value, bytes)]
    return text[0].decode("utf-8") if len(text) == 1 else None


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(number, value) of each field; ValueError where the message breaks off or has a wire type of no use here."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        else:
            length = {_EIGHT: 8, _FOUR: 4}.get(kind, len(message) + 1)
        if at + length > len(message):
            raise ValueError("cut off")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("no varint")
