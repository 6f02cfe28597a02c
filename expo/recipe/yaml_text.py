"""YAML text -> nodes that know their place. Refuses what a recipe never needs, before anything is built of it.

Knows nothing of recipes. What a plain scalar means (a number, a truth value, nothing) is settled where it is used:
a name may be `no` or `007`, a number may not. Tags, anchors, aliases and duplicate keys are errors.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from expo.errors import RecipeError, WrongRecipe

MAX_BYTES = 2**20
MAX_DEPTH = 32
MAX_NODES = 50_000
LONGEST = 1000  # characters of one problem: a name may be a megabyte
SHOWN = 20  # problems listed before the rest is counted

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BAD_CHARACTER = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|\ufeff")
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_STARTS = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_ENDS = (yaml.MappingEndEvent, yaml.SequenceEndEvent)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something is written; lines and columns count from 1, line 0 stands for the command line."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(slots=True)
class Node:
    """A scalar's text, a list of nodes, or a mapping of text to nodes."""

    place: Place
    content: Any  # str | list[Node] | dict[str, Node]
    plain: bool = False  # a scalar without quotes
    keys: dict[str, Place] = field(default_factory=dict)  # of a mapping: where each key is


class Problems:
    """Complaints with their places, raised all at once in the order of the file."""

    def __init__(self) -> None:
        self.found: list[tuple[Place, str]] = []

    def add(self, place: Place, text: str) -> None:
        self.found.append((place, text if len(text) <= LONGEST else text[:LONGEST] + " ..."))

    def raise_any(self) -> None:
        """Raise RecipeError if there is any complaint."""
        rows = [f"{place}: {text}" for place, text in sorted(dict.fromkeys(self.found))]
        if len(rows) > SHOWN + 1:
            rows[SHOWN:] = [f"... and {len(rows) - SHOWN} more"]
        if rows:
            errors = [RecipeError(row) for row in rows]
            raise errors[0] if len(errors) == 1 else WrongRecipe(errors)


def read_documents(content: bytes | str, file: str, *, inline: bool = False) -> list[Node]:
    """The documents of a YAML text, empty ones left out; raises RecipeError with every problem and its place.

    inline: the text comes from the command line, so `file` alone says where it is.
    """
    text = _decoded(content, file)
    reader = _Reader(file, text, inline)
    try:
        reader.read()
    except yaml.YAMLError as error:
        reader.problems.add(*reader.explained(error))
    reader.problems.raise_any()
    return [node for node in reader.documents if not is_nothing(node)]


def is_nothing(node: Node | None) -> bool:
    """Whether a node is absent, empty or null."""
    return node is None or (node.plain and node.content in ("", "~", "null", "Null", "NULL"))


def _decoded(content: bytes | str, file: str) -> str:
    """Text without a byte order mark; raises RecipeError for what is too large or not UTF-8."""
    try:
        raw = content.encode() if isinstance(content, str) else content
    except UnicodeEncodeError as error:
        line, column = _line_of(content[: error.start])
        raise RecipeError(f"{Place(file, line, column)}: a lone surrogate is no text.") from None
    if len(raw) > MAX_BYTES:
        raise RecipeError(f"{file}: {len(raw)} bytes. A recipe has at most {MAX_BYTES}; is this the right file?")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _line_of(raw[: error.start].decode("utf-8", "replace"))
        raise RecipeError(f"{Place(file, line, column)}: not UTF-8 text. Save the recipe as UTF-8.") from None
    if bad := _BAD_CHARACTER.search(text):
        line, column = _line_of(text[: bad.start()])
        text = f"a character U+{ord(bad[0]):04X}, which YAML does not allow. Remove it."
        raise RecipeError(f"{Place(file, line, column)}: {text}")
    return text


def _line_of(before: str) -> tuple[int, int]:
    """Line and column of what follows `before`."""
    lines = _BREAK.split(before)
    return len(lines), len(lines[-1]) + 1


class _Reader:
    """Builds nodes from the parser's events: PyYAML's own composer recurses, and keeps the last of two equal keys."""

    def __init__(self, file: str, text: str, inline: bool):
        self.file, self.text, self.inline = file, text, inline
        self.documents: list[Node] = []
        self.problems = Problems()

    def read(self) -> None:
        """Fill `documents` and `problems`; stops where the text is too deep or too long."""
        open_nodes: list[_Open] = []
        for n_nodes, event in enumerate(yaml.parse(self.text, Loader=_LOADER)):
            if n_nodes > MAX_NODES:
                self.problems.add(self._place(event), f"more than {MAX_NODES} values. A recipe has fewer.")
                return
            if isinstance(event, _ENDS):
                self._give(open_nodes, open_nodes.pop().node)
            elif isinstance(event, _STARTS):
                open_nodes.append(_Open(self._started(event)))
                if len(open_nodes) > MAX_DEPTH:
                    self.problems.add(self._place(event), f"nested deeper than {MAX_DEPTH} levels.")
                    return
            elif isinstance(event, yaml.ScalarEvent | yaml.AliasEvent):
                self._give(open_nodes, self._scalar(event))

    def _started(self, event) -> Node:
        self._refuse_extras(event)
        return Node(self._place(event), {} if isinstance(event, yaml.MappingStartEvent) else [])

    def _scalar(self, event) -> Node:
        place = self._place(event)
        if isinstance(event, yaml.AliasEvent):
            self.problems.add(place, f"*{event.anchor} is an alias. Write the value out.")
            return Node(place, "", plain=True)
        self._refuse_extras(event)
        plain = not event.style and event.implicit[0]
        if plain and event.end_mark.line != event.start_mark.line:
            self.problems.add(place, "a text without quotes goes on over several lines. Quote it, or mend the indent.")
        return Node(place, event.value, plain)

    def _refuse_extras(self, event) -> None:
        if event.anchor is not None:
            self.problems.add(
                self._place(event), f"&{event.anchor} is an anchor. Write values out where they are used."
            )
        if event.tag is not None:
            self.problems.add(self._place(event), f"{event.tag!r} is a tag. Recipes hold plain values only.")

    def _give(self, open_nodes: "list[_Open]", node: Node) -> None:
        """Put a finished node into the one around it."""
        if not open_nodes:
            self.documents.append(node)
            return
        around = open_nodes[-1]
        if isinstance(around.node.content, list):
            around.node.content.append(node)
        elif around.key is None:
            around.key = node
        else:
            self._add_pair(around.node, around.key, node)
            around.key = None

    def _add_pair(self, mapping: Node, key: Node, value: Node) -> None:
        if not isinstance(key.content, str) or (key.plain and type(plain_value(key.content)) is not str):
            what = repr(key.content) if isinstance(key.content, str) else "a list or mapping"
            self.problems.add(key.place, f"{what} is no text, and keys are texts. Quote it.")
        elif key.plain and key.content == "<<":
            self.problems.add(key.place, "<< merges mappings, which recipes do not do. Write the keys out.")
        elif key.content in mapping.content:
            first = mapping.keys[key.content]
            self.problems.add(key.place, f"{key.content!r} is given twice, first at {first}. Keep one.")
        else:
            mapping.content[key.content] = value
            mapping.keys[key.content] = key.place

    def _place(self, event) -> Place:
        return self._at(event.start_mark)

    def _at(self, mark) -> Place:
        return Place(self.file) if self.inline else Place(self.file, mark.line + 1, mark.column + 1)

    def explained(self, error: yaml.YAMLError) -> tuple[Place, str]:
        """Where the parser gave up, and why."""
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        if mark is None:
            return Place(self.file), f"not YAML: {error}"
        lines = _BREAK.split(self.text)
        line = lines[mark.line] if mark.line < len(lines) else ""
        if "\t" in line[: mark.column + 1]:
            return self._at(mark), "a tab indents this line. YAML indents with spaces."
        context = f" ({error.context})" if getattr(error, "context", None) else ""
        return self._at(mark), f"not YAML: {error.problem}{context}."


@dataclass(slots=True)
class _Open:
    """A list or mapping that is not finished; of a mapping, the key that waits for its value."""

    node: Node
    key: Node | None = None


_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
# What versions of YAML read differently: truth words, octal, base 60, digits in groups.
_DISPUTED = re.compile(r"(?i:y|n|yes|no|on|off)|[-+]?0[0-9_]+|0o[0-7]+|0b[01_]+|[-+]?[0-9]+(_[0-9]+)+(\.[0-9_]*)?")
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


class Disputed(str):
    """A plain text that YAML 1.1 and 1.2 read differently."""


def plain_value(text: str) -> Any:
    """What an unquoted scalar means in YAML's core schema; Disputed where YAML 1.1 reads something else."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in _TRUTH:
        return _TRUTH[text]
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", "").lower())
    if _DISPUTED.fullmatch(text) or _BASE_60.fullmatch(text):
        return Disputed(text)
    if _INTEGER.fullmatch(text) and len(text) <= 400:  # int() refuses thousands of digits
        return int(text, 16 if "x" in text else 10)
    return float(text) if _FLOAT.fullmatch(text) else text
