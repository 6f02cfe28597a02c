"""experts.json: which models answer together, and the weight of each. Opens no checkpoint and imports no torch.

    {"kind": "generation", "experts": [{"model": "round-0", "weight": 1.3}, {"model": "org/name", "weight": 0.4}]}

model: a folder, absolute or beside the file, or a Hub id; +ADAPTER behind either. weight: at least 0, their sum above.
kind: generation (what a file without it is) or classification. Other entries are their writer's own.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from expo.checkpoint.adapters import split_adapters
from expo.checkpoint.files import read_small
from expo.checkpoint.source import HUB_ID
from expo.checkpoint.strict_json import parse_object
from expo.errors import ExpoError, nearest

KINDS = ("generation", "classification")
_MOST_BYTES = 1 << 24


class BadExperts(ExpoError):
    """A list of experts that cannot be used."""


class Expert(NamedTuple):
    """One member: how the file names it, where it is, and its weight."""

    name: str
    model: str  # what expo.checkpoint.resolve understands from any working folder
    weight: float


def names_experts(model: Any) -> bool:
    """Whether what stands in a model's place is a list of experts: a .json file that is no checkpoint's index."""
    text = str(model) if isinstance(model, str | Path) else ""
    return text.endswith(".json") and not text.endswith(".index.json")


def read_experts(path: str | Path, *, kind: str = "generation") -> list[Expert]:
    """The experts of a file, in its order. Raises BadExperts, which tells all their faults, or a HeaderError."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise BadExperts(f"{path} is a folder. Experts are listed in a file: {path / 'experts.json'}")
    if not path.exists():
        near = [str(found) for found in path.parent.glob("*.json")] if path.parent.is_dir() else []
        raise BadExperts(f"{path}: no such file.{nearest(str(path), near)}")
    table = parse_object(read_small(path, _MOST_BYTES), path, what="list of experts")
    _check_kind(path, table.get("kind", "generation"), kind)
    listed = table.get("experts")
    if not isinstance(listed, list) or not listed:
        what = "its list of experts is empty" if listed == [] else f"no list of experts; it has {_named(table)}"
        raise BadExperts(f'{path}: {what}.\nAn expert is {{"model": FOLDER, "weight": NUMBER}}.')
    home = path.parent
    problems = [f"{path}: expert {n}: {what}" for n, one in enumerate(listed, 1) for what in _problems(one, home)]
    if not problems and not any(one["weight"] for one in listed):
        problems = [f"{path}: all weights are 0, so that no expert has a say."]
    elif not problems and not math.isfinite(sum(float(one["weight"]) for one in listed)):
        problems = [f"{path}: the sum of the weights is not finite."]
    if problems:
        raise BadExperts("\n".join([*problems, "A weight is a finite number of at least 0; some weight is above 0."]))
    return [Expert(one["model"], _located(one["model"], home), float(one["weight"])) for one in listed]


def _check_kind(path: Path, found: Any, kind: str) -> None:
    if found not in KINDS:
        offer = nearest(str(found), KINDS)
        raise BadExperts(f"{path}: the kind is {found!r}, and must be one of {', '.join(KINDS)}.{offer}")
    if found != kind:
        told = {
            "generation": "Classifiers write no text: generate needs experts of kind generation.",
            "classification": "They write text and know no classes: classifying needs experts of kind classification.",
        }
        raise BadExperts(f"{path}: its experts are of kind {found}. {told[kind]}")


def _problems(one: Any, home: Path) -> Iterator[str]:
    """What is wrong with one entry."""
    if not isinstance(one, dict):
        yield f'{one!r:.60} is no object with "model" and "weight".'
        return
    for name in ("model", "weight"):
        if name not in one:
            yield f"no {name}; it has {_named(one)}."
    weight, model = one.get("weight", 1), one.get("model", "x/y")
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        yield f"the weight is {weight!r:.60}, not a number."
    elif not _is_finite(weight) or weight < 0:
        yield f"the weight is {weight!r:.60}; it must be finite and at least 0."
    if not isinstance(model, str) or not model.strip():
        yield f"the model is {model!r:.60}, not the name of one."
    else:
        yield from _missing(model, home)


def _is_finite(weight: float) -> bool:
    try:
        return math.isfinite(weight)
    except OverflowError:  # an integer beyond any float
        return False


def _missing(model: str, home: Path) -> Iterator[str]:
    """The parts of a model's name that are neither there nor could be on the Hub."""
    for part in _parts(model, home):
        place = home / Path(part).expanduser()  # absolute paths stay as they are
        if place.exists():
            continue
        hub = HUB_ID.fullmatch(part)
        if hub is None or (hub[2] is None and place.parent.is_dir()):
            near = [str(found.name) for found in place.parent.iterdir()] if place.parent.is_dir() else []
            yield f"{part}: no such folder ({place}).{nearest(place.name, near)}"
        elif Path(part).exists():
            yield f"{part} is in the working folder, and not beside the file, where its paths begin ({place})."


def _parts(model: str, home: Path) -> list[str]:
    """BASE+ADAPTER as its parts, as they are spelled; a + in a name that exists stays."""
    return [model] if (home / model).exists() else split_adapters(model)


def _located(model: str, home: Path) -> str:
    """The model's name with its paths made absolute."""
    places = ((part, home / Path(part).expanduser()) for part in _parts(model, home))
    return "+".join(str(place.absolute()) if place.exists() else part for part, place in places)


def _named(table: dict) -> str:
    return ", ".join(map(str, table)) or "nothing"
