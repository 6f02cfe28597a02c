"""What a study found: every cell's accuracy, curves over both error rates, gains, and the paper's three claims.

Means over seeds bear a 95 % t interval, which speaks of the training too; one seed's accuracy bears Wilson's, which
speaks of the test questions alone. Differences between cells are taken seed by seed.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expo.weak_to_strong.keyed import write_text
from expo.weak_to_strong.labels import RESULTS
from expo.weak_to_strong.report import interval, read_marks
from expo.weak_to_strong.stages import RECORD
from expo.weak_to_strong.supervision.cells import Cell
from expo.weak_to_strong.supervision.claims import claims
from expo.weak_to_strong.supervision.mix import BOTH, HARD, PARAPHRASE
from expo.weak_to_strong.supervision.rates import NOTE
from expo.weak_to_strong.supervision.runfile import SupervisionFile
from expo.weak_to_strong.supervision.seeds import Scores, accuracies, difference, over_seeds

Tested = Mapping[str, Mapping[str, Mapping[str, str]]]  # seed -> cell -> test -> stage


def report_stage(
    run: SupervisionFile, cells: Sequence[Cell], tested: Tested, folder: Path, inputs: Mapping[str, Path]
) -> dict[str, Any]:
    """Write report.json, report.md and, with matplotlib, figures; the facts that a run prints."""
    marks = {stage: read_marks(inputs[stage] / RESULTS) for seed in tested.values() for t in seed.values()
             for stage in t.values()}  # fmt: skip
    facts = {name: json.loads((path / RECORD).read_text())["facts"] for name, path in inputs.items()}
    report = compose(run, cells, tested, marks, facts)
    write_text(folder / "report.json", json.dumps(report, indent=1) + "\n")
    from expo.weak_to_strong.supervision.figures import draw
    from expo.weak_to_strong.supervision.text import markdown

    figures = draw(report, folder)
    write_text(folder / "report.md", markdown(report, figures))
    return {"figures": figures, "tests": report["tests"], "sets": report["sets"]}


def compose(
    run: SupervisionFile, cells: Sequence[Cell], tested: Tested, marks: Mapping[str, Any], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole report as JSON values."""
    names = list(dict.fromkeys(test for seed in tested.values() for found in seed.values() for test in found))
    rows = {cell.name: _reached(cell, tested, facts) for cell in cells}
    tests = {}
    for test in names:
        values = {cell.name: [marks[tested[seed][cell.name][test]] for seed in tested] for cell in cells}
        told = [_row(cell, values[cell.name], tested) for cell in cells]
        tests[test] = {"cells": told, "gains": gains(cells, values), "claims": claims(cells, values, rows)}
    sources = {name: found for name, found in facts.items() if name.rsplit("/", 1)[-1] in SOURCES}
    return {
        "run": run.name,
        "seeds": list(run.seeds),
        "scoring": {"extraction": run.extraction, "equivalence": run.equivalence},
        "grid": run.grid.model_dump(mode="json"),
        "sets": rows,
        "tests": tests,
        "sources": sources,
        "note": NOTE,
    }


SOURCES = ("prepare", "decompose", "judge", "source", "judge_hard", "judge_subtask", "sample_hard", "sample_subtask")


def _reached(cell: Cell, tested: Tested, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rates that a cell's training set really has, for each seed."""
    found = []
    for seed in tested:
        told = facts[f"seed-{seed}/{cell.name}/rows"]
        made = {"seed": int(seed), "rows": told["rows"], "different rows": told["different rows"]}
        made |= {"tokens": told["tokens"]} if "tokens" in told else {}
        for part in ("rates", "hard", "subtask"):
            if part in told:
                steps = told[part]["steps"]
                made[part] = {"outcome": told[part]["outcome"]["value"], "steps": steps and steps["value"]}
        found.append(made)
    return found


def _row(cell: Cell, values: Scores, tested: Tested) -> dict[str, Any]:
    by_seed = {seed: interval(marks) for seed, marks in zip(tested, values, strict=True)}
    return {"cell": cell.name, **cell._asdict(), "accuracy": over_seeds(accuracies(values)), "seeds": by_seed}


def gains(cells: Sequence[Cell], values: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """At each rate of the hard tasks: what adding subtasks, or paraphrases, changes against the hard tasks alone."""
    found = []
    for base in (cell for cell in cells if cell.kind == HARD and cell.steps is None):
        for cell in cells:
            if cell.kind not in (BOTH, PARAPHRASE) or cell.hard != base.hard:
                continue
            added = "paraphrases" if cell.kind == PARAPHRASE else f"subtasks, {cell.subtask:.0%} wrong"
            told = {"hard": base.hard, "added": added, "kind": cell.kind, "subtask": cell.subtask}
            found.append(told | {"gain": difference(values[base.name], values[cell.name])})
    return found
