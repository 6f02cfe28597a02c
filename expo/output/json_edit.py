"""Change single values of a JSON text and leave every other byte as it is."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Path = tuple[str, ...]
_SPACE = " \t\r\n"
_DECODER = json.JSONDecoder(strict=False)


@dataclass(frozen=True, slots=True)
class Member:
    """Where one member of an object stands: its key's first character, and its value's first and end."""

    path: Path
    key: int
    value: int
    end: int


def members(text: str) -> Iterator[Member]:
    """Every member of the object that `text` holds, and of objects inside it; those inside lists are left out."""
    yield from _object(text, text.index("{"), ())[0]


def values(text: str) -> dict[Path, object]:
    """The value of every member, by its path."""
    return {member.path: json.loads(text[member.value : member.end]) for member in members(text)}


def with_values(text: str, changes: Mapping[Path, object]) -> str:
    """The text with the members at the given paths replaced; those that are not there are put first in their object.

    Raises KeyError where the object that should hold a new member is not there either.
    """
    found = {member.path: member for member in members(text)}
    edits = []
    for path, value in changes.items():
        new = json.dumps(value)
        if path in found:
            edits.append((found[path].value, found[path].end, new))
            continue
        at = 1 + (text.index("{") if len(path) == 1 else found[path[:-1]].value)
        comma = "" if text[_skip(text, at)] == "}" else ","
        edits.append((at, at, f"\n  {'  ' * (len(path) - 1)}{json.dumps(path[-1])}: {new}{comma}"))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def without(text: str, path: Path) -> str:
    """The text with the member at `path` taken out, with its comma; the same text where there is none."""
    member = next((member for member in members(text) if member.path == path), None)
    if member is None:
        return text
    start, end = member.key, _skip(text, member.end)
    if text[end] == ",":
        return text[:start] + text[_skip(text, end + 1) :]
    before = text[:start].rstrip(_SPACE)
    return before.removesuffix(",") + text[member.end :]


def _object(text: str, at: int, above: Path) -> tuple[list[Member], int]:
    """The members of the object that opens at `at`, and the place after its closing brace."""
    found: list[Member] = []
    at = _skip(text, at + 1)
    while text[at] != "}":
        key_at = at
        key, at = _DECODER.raw_decode(text, at)
        value_at = _skip(text, _skip(text, at) + 1)  # past the colon
        inner: list[Member] = []
        if text[value_at] == "{":
            inner, at = _object(text, value_at, (*above, key))
        else:
            _, at = _DECODER.raw_decode(text, value_at)
        found += [Member((*above, key), key_at, value_at, at), *inner]
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found, at + 1


def _skip(text: str, at: int) -> int:
    """The first place from `at` on that is no space."""
    while text[at] in _SPACE:
        at += 1
    return at
