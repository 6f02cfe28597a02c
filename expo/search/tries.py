"""Tries and their scores, kept in a file that only grows: what was scored once is not scored again."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expo.evaluate.metrics import Scored
from expo.rows import Appender, Row, RowsError, read_rows
from expo.search.space import Point


@dataclass
class Try:
    """One point of the space: the weights that it gives, and what they scored on which examples."""

    point: Point  # {} for the baseline
    plan: str  # identity of the checkpoint that it stands for
    weights: str = ""  # hash of what that run would write, config and tokenizer too; "" until the model was filled
    effective: dict[str, Any] = field(default_factory=dict)  # alpha, multiple, cosine of what is written
    scored: dict[str, Scored] = field(default_factory=dict)  # by example
    asked: set[str] = field(default_factory=set)  # the examples that this search looks at; more may be known
    seconds: float = 0.0  # of scoring, at whichever time it was done
    n_resumed: int = 0  # examples whose scores an earlier run left


class Tries:
    """The file of tries. by: a hash of metric, data and whatever else decides a score but the checkpoint.

    writing: False only reads what is there.
    """

    def __init__(self, path: Path, *, writing: bool = True):
        self.path = path
        self.file = Appender(path, check=_check) if writing else None
        self.rows: dict[tuple[str, str], list[dict[str, Any]]] = {}  # (by, plan) -> rows
        found = self.file.found if self.file else read_rows(path) if path.exists() else []
        _check(found)
        for row in found:
            self._know(row.values)

    def __enter__(self) -> "Tries":
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.__exit__(*error)

    def _know(self, row: Mapping[str, Any]) -> None:
        self.rows.setdefault((row["by"], row["plan"]), []).append(dict(row))

    def known(self, by: str, plan: str, point: Point) -> Try:
        """A try with every score that the file has of it."""
        found = Try(point, plan)
        for row in self.rows.get((by, plan), ()):
            found.weights, found.effective = row["weights"], row["effective"]
            found.seconds += row["seconds"]
            found.scored.update(scores_of(row))
        found.n_resumed = len(found.scored)
        return found

    def twins(self, by: str, weights: str) -> dict[str, Scored]:
        """Scores that the very same result got under another recipe, by example."""
        found: dict[str, Scored] = {}
        for (other, _), rows in self.rows.items():
            for row in rows if other == by else ():
                if row["weights"] == weights:
                    found |= scores_of(row)
        return found

    def add(self, by: str, tried: Try, scored: Iterable[Scored], seconds: float) -> None:
        """Keep new scores of a try."""
        row = {
            "by": by,
            "plan": tried.plan,
            "point": tried.point,
            "weights": tried.weights,
            "effective": tried.effective,
            "seconds": round(seconds, 3),
            "scored": [list(one) for one in scored],
        }
        self.file.append(row)
        self._know(row)


def scores_of(row: Mapping[str, Any]) -> dict[str, Scored]:
    """A row's scores by example."""
    return {key: Scored(key, *rest) for key, *rest in row["scored"]}


def _check(rows: list[Row]) -> None:
    """Every row is one that `add` wrote."""
    texts, problems = ("by", "plan", "weights"), []
    for row in rows:
        values = row.values
        good = all(isinstance(values.get(name), str) for name in texts)
        good &= isinstance(values.get("point"), dict) and isinstance(values.get("effective"), dict)
        good &= isinstance(values.get("seconds"), int | float) and isinstance(values.get("scored"), list)
        if not good or not all(isinstance(one, list) and len(one) == 4 for one in values["scored"]):
            problems.append(f"{row.where}: is no try of a search.")
    if problems:
        raise RowsError(problems, "Remove the file, or choose another folder: --report FOLDER.")
