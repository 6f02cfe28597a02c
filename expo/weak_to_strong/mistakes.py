"""What is wrong with a run file, in our words: where it stands, which setting it is, and what is wanted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from expo.errors import nearest

_KINDS = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "string": "text", "dict": "a mapping",
    "mapping": "a mapping", "model": "a mapping", "tuple": "a list", "list": "a list",
}  # fmt: skip
_BOUNDS = {
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "more than {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "less than {lt:g}",
}


class Misplaced(ValueError):
    """A mistake whose place is deeper in the file than the part that found it."""

    def __init__(self, at: Sequence[str], message: str):
        super().__init__(message)
        self.at = tuple(at)


def told(
    problem: Mapping[str, Any], path: Path, lines: Mapping[tuple, int], changes: Mapping[str, str], whole: type
) -> str:
    """One of pydantic's problems as file:line: section.key: what is wrong. changes: what came by --set.

    whole: the model of the whole file.
    """
    error = (problem.get("ctx") or {}).get("error")
    at = error.at if isinstance(error, Misplaced) else problem["loc"]
    at = tuple(part for part in at if part != "[key]" and not (isinstance(part, str) and part.startswith("function")))
    name = ".".join(map(str, at))
    changed = next((key for key in changes if name == key or name.startswith(f"{key}.")), None)
    if changed is None and not at and len(changes):  # a rule about the whole run, which the changes may have broken
        changed = " --set ".join(f"{key}={value}" for key, value in changes.items())
        where = f"{path}, --set {changed}"
    elif changed is not None:
        where = f"--set {changed}={changes[changed]}"
    else:
        line = next((lines[at[:n]] for n in range(len(at), 0, -1) if at[:n] in lines), None)
        where = f"{path}:{line}" if line else str(path)
    if problem["type"] == "extra_forbidden":
        known = _known(at[:-1], whole)
        return f"{where}: {name!r} is no setting.{nearest(str(at[-1]), known)} Known here: {', '.join(known)}."
    return f"{where}: {f'{name}: ' if name else ''}{_wanted(problem)}"


def _wanted(problem: Mapping[str, Any]) -> str:
    """What a problem's value should be."""
    kind, context = problem["type"], problem.get("ctx") or {}
    value = f"{problem['input']!r:.80}"
    if kind == "value_error":
        text = str(context["error"])
        return text if text.endswith("?") else f"{text}."
    if kind == "missing":
        return "is missing."
    if kind in ("literal_error", "enum"):
        known = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        return f"{value} is none of {', '.join(known)}.{nearest(str(problem['input']), known)}"
    if kind in _BOUNDS:
        return f"{value} is out of range; it must be {_BOUNDS[kind].format(**context)}."
    if kind == "string_pattern_mismatch":
        return f"{value} is no name; it must begin with a letter or digit, and hold only these, '.', '_' and '-'."
    if kind == "too_short":
        return f"at least {context['min_length']} entry is needed."
    wanted = next((words for start, words in _KINDS.items() if kind.startswith(start)), "something else")
    return f"{value} is not {wanted}."


def _known(at: Sequence, whole: type) -> list[str]:
    """The settings that exist at a place of the file."""
    model: Any = whole
    for part in at:
        if isinstance(part, int):
            continue
        kinds = [model.model_fields[part].annotation]
        while kinds and not (isinstance(kinds[0], type) and issubclass(kinds[0], BaseModel)):
            kinds = [*getattr(kinds[0], "__args__", ()), *kinds[1:]]
        model = kinds[0]
    return list(model.model_fields)
