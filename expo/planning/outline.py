"""A plan in words for people: which tensors get which parameters, layers drawn together. No tensor data."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

from expo.checkpoint.names import layer_of, module_group
from expo.methods import find_method
from expo.planning.jobs import Job, Plan

_NEAR = 1e-9  # how far from a straight line a value may lie to count as on it


@dataclass(frozen=True)
class Run:
    """Consecutive layers of some module groups whose parameters are equal, or change evenly."""

    groups: tuple[str, ...]
    n_tensors: int
    layers: tuple[int, int] | None  # first and last; None outside of layers
    first: dict[str, Any]  # parameters in the first layer
    last: dict[str, Any]  # and in the last

    @property
    def label(self) -> str:
        """The module groups in one text."""
        return joined(self.groups)

    def text(self, name: str) -> str:
        """One parameter's value, or its first and last."""
        one, other = shown(self.first[name]), shown(self.last[name])
        return one if one == other else f"{one} to {other}"


@dataclass(frozen=True)
class Outline:
    """The parameters of a plan's computed tensors."""

    shared: dict[str, Any]  # parameters that are the same for all of them
    runs: tuple[Run, ...]  # where the others take which values, in the order of the output
    copied: tuple[str, ...]  # module groups that are copied, with the layers where it is not all of them


def outline(plan: Plan) -> Outline:
    """Which tensors of a plan get which parameters."""
    jobs = sorted((job for job in plan.jobs if job.method), key=_order)
    names = _parameter_names(plan)
    rows = [{names[key]: value for key, value in job.parameters.items()} for job in jobs]
    shared = {name: value for name, value in (rows[0] if rows else {}).items() if all(r[name] == value for r in rows)}
    varying = [name for name in (rows[0] if rows else {}) if name not in shared]
    groups: dict[str, list[tuple[int | None, dict[str, Any]]]] = {}
    for job, row in zip(jobs, rows, strict=True):
        place = layer_of(job.name)
        groups.setdefault(module_group(job.name), []).append(
            (place and place[1], {name: row[name] for name in varying})
        )
    return Outline(shared, tuple(_drawn_together(groups)) if varying else (), _copied(plan))


def _copied(plan: Plan) -> tuple[str, ...]:
    """What is copied: because of its type or a policy, or because its parameters leave it as it is."""
    places: dict[str, list[int]] = {}
    computed = {module_group(job.name) for job in plan.jobs if job.method}
    for job in sorted((job for job in plan.jobs if not job.method), key=_order):
        place = layer_of(job.name)
        places.setdefault(module_group(job.name), []).extend([place[1]] if place else [])
    alike: dict[str, list[str]] = {}
    for name, layers in places.items():
        some = f" of layers {', '.join(map(str, layers))}" if layers and name in computed else ""
        alike.setdefault(some, []).append(name)
    return tuple(joined(tuple(names)) + some for some, names in alike.items())


def _order(job: Job) -> tuple:
    place = layer_of(job.name)
    return (place[1] if place else -1, job.name)


def _parameter_names(plan: Plan) -> dict[str, str]:
    """A function's keyword -> the recipe's name."""
    return {p.argument: p.name for p in find_method(plan.recipe.method).parameters.values()}


def _drawn_together(groups: Mapping[str, list[tuple[int | None, dict[str, Any]]]]) -> Iterable[Run]:
    """Runs of layers, of all module groups that have the same ones."""
    alike: dict[str, list[str]] = {}
    cut = {}
    for name, rows in groups.items():
        cut[name] = _cut(rows)
        alike.setdefault(repr(cut[name]), []).append(name)
    for names in alike.values():
        for first, last in cut[names[0]]:
            layers = None if first[0] is None else (first[0], last[0])
            n_layers = 1 if layers is None else layers[1] - layers[0] + 1
            yield Run(tuple(names), n_layers * len(names), layers, first[1], last[1])


def _cut(rows: list[tuple[int | None, dict[str, Any]]]) -> list[tuple]:
    """(first row, last row) of each longest stretch in which every parameter keeps still, or changes evenly."""
    stretches: list[list] = []
    for row in rows:
        if stretches and _follows(stretches[-1][-1], row) and stretches[-1][-1][1] == row[1]:
            stretches[-1].append(row)
        else:
            stretches.append([row])
    sloped: list[list] = []
    for stretch in stretches:
        if sloped and len(stretch) == 1 and _climbs(sloped[-1], stretch[0]):
            sloped[-1].append(stretch[0])
        else:
            sloped.append(stretch)
    return [(stretch[0], stretch[-1]) for stretch in sloped]


def _follows(one: tuple[int | None, dict[str, Any]], other: tuple[int | None, dict[str, Any]]) -> bool:
    return None not in (one[0], other[0]) and other[0] == one[0] + 1


def _climbs(stretch: list[tuple[int | None, dict[str, Any]]], row: tuple[int | None, dict[str, Any]]) -> bool:
    """Whether a row goes on with a slope, or begins one with a single row."""
    if not _follows(stretch[-1], row) or (len(stretch) > 1 and stretch[0][1] == stretch[1][1]):
        return False
    if len(stretch) == 1:
        return all(_numbers(v) is not None or v == stretch[0][1][name] for name, v in row[1].items())
    return all(_even(stretch[-2][1][name], stretch[-1][1][name], value) for name, value in row[1].items())


def _even(one: Any, other: Any, third: Any) -> bool:
    """Whether three values, numbers or one number a model, lie on a line."""
    if one == other == third:
        return True
    columns = [_numbers(value) for value in (one, other, third)]
    if None in columns:
        return False
    return all(abs((c - b) - (b - a)) <= _NEAR for a, b, c in zip(*columns, strict=True))


def _numbers(value: Any) -> tuple[float, ...] | None:
    values = value if isinstance(value, tuple) else (value,)
    return values if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values) else None


def shown(value: Any) -> str:
    """A parameter's value for a person."""
    if isinstance(value, tuple):
        return ", ".join(map(shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def joined(names: tuple[str, ...]) -> str:
    """Names in one text, what they begin and end with written once."""
    if len(names) == 1:
        return names[0]
    # Letter by letter on purpose: the part after the last dot is cut off again.
    start = commonprefix(names).rpartition(".")[0]  # noqa: RUF071
    start = start + "." if start else ""
    ends = [name[len(start) :] for name in names]
    tail = ".weight" if all(end.endswith(".weight") for end in ends) else ""
    inner = [end[: len(end) - len(tail)] for end in ends]
    shown_ones = inner if len(inner) <= 8 else [*inner[:7], f"{len(inner) - 7} more"]
    return f"{start}{{{', '.join(shown_ones)}}}{tail}"
