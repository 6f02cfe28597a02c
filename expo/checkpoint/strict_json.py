"""Parse JSON that a stranger wrote. What other readers guess at (duplicate keys, half characters) is an error here."""

import json
from functools import partial
from pathlib import Path
from typing import NoReturn

from expo.errors import BadInteger, BadName, DuplicateKey, MalformedJson

MAX_DIGITS = 19  # a file offset has at most 63 bits


def parse_object(raw: bytes, path: Path, *, what: str, integers_only: bool = False) -> dict:
    """The one JSON object that `raw` holds, with only spaces after it.

    integers_only: every number is a plain non-negative integer of 63 bits, as in a safetensors header.
    Raises MalformedJson, DuplicateKey, BadName or BadInteger.
    """
    value = parse_value(raw, path, what=what, integers_only=integers_only)
    if not isinstance(value, dict):
        raise MalformedJson(path, f"its {what} is not a JSON object.")
    return value


def parse_value(raw: bytes, path: Path, *, what: str, integers_only: bool = False) -> object:
    """The one JSON value that `raw` holds; as parse_object."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedJson(path, f"byte {error.start} of its {what} is not UTF-8.") from None
    hooks = {"object_pairs_hook": partial(_unique, path)}
    if integers_only:
        hooks |= {"parse_int": partial(_natural, path)}
        hooks |= dict.fromkeys(["parse_float", "parse_constant"], partial(_not_an_integer, path))
    text = text if integers_only else text.strip()
    try:
        value, end = json.JSONDecoder(**hooks).raw_decode(text)
    except RecursionError:
        raise MalformedJson(path, f"its {what} is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise MalformedJson(path, f"its {what} is not JSON: {error.msg} at character {error.pos}.") from None
    except ValueError:  # an integer of more digits than Python converts
        raise BadInteger(path, f"its {what} holds a number of thousands of digits.") from None
    if text[end:].strip(" "):
        raise MalformedJson(path, f"something follows the {what}'s closing brace, at character {end}.")
    return value


def shown(text: object, width: int = 100) -> str:
    """A stranger's text, quoted and cut to a line."""
    quoted = ascii(text[: 2 * width] if isinstance(text, str | list) else text)
    return quoted if len(quoted) <= width else quoted[:width] + "..."


def _unique(path: Path, pairs: list[tuple[str, object]]) -> dict:
    held = dict(pairs)
    if len(held) < len(pairs):
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKey(path, f"the key {shown(key)} appears twice in one object.")
            seen.add(key)
    for key, value in pairs:
        for word in (key, value):
            if isinstance(word, str) and not word.isascii():
                check_text(path, word)
    return held


def check_text(path: Path, word: str) -> None:
    """BadName for text that UTF-8 cannot hold."""
    try:
        word.encode("utf-8")
    except UnicodeEncodeError:
        raise BadName(path, f"{shown(word)} holds half of a surrogate pair, which no UTF-8 text can.") from None


def _natural(path: Path, digits: str) -> int:
    value = int(digits) if len(digits) <= MAX_DIGITS and not digits.startswith("-") else -1
    if not 0 <= value < 2**63:
        raise BadInteger(path, f"{shown(digits, 40)} is no size or offset: integers from 0 to 2**63 - 1 are.")
    return value


def _not_an_integer(path: Path, number: str) -> NoReturn:
    raise BadInteger(path, f"{shown(number, 40)} stands where only integers may.")
