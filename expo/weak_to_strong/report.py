"""What a run found: accuracies with n and intervals, what stages gained, and PGR with the three accuracies behind it.

PGR = (accuracy - weak floor) / (ceiling - weak floor). It is undefined without a ceiling, and flagged where ceiling and
floor cannot be told apart. All models answer the same test questions, so differences are taken question by question.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expo.weak_to_strong import pairs as pairing
from expo.weak_to_strong import select, vote
from expo.weak_to_strong.answers import Id
from expo.weak_to_strong.keyed import read_json, write_text
from expo.weak_to_strong.labels import RESULTS
from expo.weak_to_strong.modes import Mode
from expo.weak_to_strong.runfile import RunFile
from expo.weak_to_strong.stages import RECORD

FLOOR, NAIVE, CEILING = "weak floor", "naive: all weak labels", "ceiling"
SHARED = "shared"
RESAMPLES = 10_000
Marks = dict[Id, bool]  # whether each test question was answered right


def write_report(
    run: RunFile, tested: Mapping[str, Mapping[str, str]], folders: Mapping[str, Path], folder: Path
) -> dict[str, Any]:
    """Write report.json, report.md and, with matplotlib, figures into `folder`; the facts that a run prints."""
    facts = {name: json.loads((path / RECORD).read_text())["facts"] for name, path in folders.items()}
    marks = {name: read_marks(folders[name] / RESULTS) for group in tested.values() for name in group.values()}
    report = compose(run, tested, facts, marks)
    write_text(folder / "report.json", json.dumps(report, indent=1) + "\n")
    from expo.weak_to_strong.figures import draw

    figures = draw(report, folder)
    write_text(folder / "report.md", markdown(report, figures))
    return {"figures": figures, "tables": report["tables"]}


def compose(run: RunFile, tested: Mapping, facts: Mapping[str, Mapping], marks: Mapping[str, Marks | None]) -> dict:
    """The whole report as JSON values."""
    shared = {title: marks[stage] for title, stage in tested.get(SHARED, {}).items()}
    groups = {at: {t: marks[stage] for t, stage in group.items()} for at, group in tested.items() if at != SHARED}
    tables = {at: table(shared, group) for at, group in groups.items()} or {SHARED: table(shared, {})}
    stages = {name: _told(found) for name, found in facts.items() if not name.rsplit("/", 1)[-1].startswith("test_")}
    return {
        "run": run.name,
        "pipeline": run.pipeline,
        "mode": str(run.mode),
        "mended": [] if run.mode is Mode.PUBLISHED else [*select.MENDED, *vote.MENDED, *pairing.MENDED],
        "models": {"strong": run.strong or "embedded", "weak": {one.name: one.model or "embedded" for one in run.weak}},
        "scoring": {"extraction": run.extraction, "equivalence": run.equivalence},
        "tables": tables,
        "stages": stages,
    }


def table(shared: Mapping[str, Marks | None], group: Mapping[str, Marks | None]) -> list[dict[str, Any]]:
    """A row for each tested model: accuracy, difference to the naive model, PGR; the floor first, the ceiling last."""
    ceiling = shared.get(CEILING)
    floor, naive = group.get(FLOOR), group.get(NAIVE)
    first = {title: found for title, found in shared.items() if title != CEILING}
    order = {**({FLOOR: floor} if FLOOR in group else {}), **first, **group}
    order |= {CEILING: ceiling} if CEILING in shared else {}
    rows = []
    for title, found in order.items():
        made: dict[str, Any] = {"model": title, "accuracy": interval(found)}
        if title not in (FLOOR, NAIVE, CEILING) and naive and found:
            made["against naive"] = against(naive, found)
        if title not in (FLOOR, CEILING) and FLOOR in group:
            made["pgr"] = pgr(floor, found, ceiling)
        rows.append(made)
    return rows


def read_marks(path: Path) -> Marks | None:
    """Question -> right or not; None where the questions have no golds."""
    rows = [(row["id"], row.get("result")) for row in read_json(path)]
    return None if any(right is None for _, right in rows) else dict(rows)


def interval(marks: Marks | None) -> dict[str, Any] | None:
    """An accuracy with n and its 95 % interval."""
    from expo.evaluate import wilson

    return wilson(sum(marks.values()), len(marks)).record() | {"correct": sum(marks.values())} if marks else None


def against(before: Marks, after: Marks) -> dict[str, Any]:
    """after - before on the same questions."""
    from expo.evaluate import paired

    found = paired([float(before[key]) for key in before], [float(after[key]) for key in before])
    return found.record() | {"distinguishable": found.distinguishable}


def pgr(floor: Marks | None, found: Marks | None, ceiling: Marks | None, *, seed: int = 0) -> dict[str, Any]:
    """Performance gap recovered, with the accuracies that make it; `value` is None where it is undefined.

    Its interval holds 95 % of 10,000 resamples of the questions, the three models' answers kept together.
    `note` says why there is no value, or that ceiling and floor are within noise: the value then means little.
    """
    if ceiling is None or floor is None or found is None:
        missing = "ceiling" if ceiling is None else "golds"
        return {"value": None, "note": f"undefined: no {missing}"}
    told = {name: sum(m.values()) / len(m) for name, m in (("floor", floor), ("model", found), ("ceiling", ceiling))}
    gap = told["ceiling"] - told["floor"]
    told |= {"n": len(floor)}
    if gap == 0:
        return {"value": None, "note": "undefined: ceiling and floor are equal", **told}
    value = (told["model"] - told["floor"]) / gap
    distinct = against(floor, ceiling)
    if not distinct["distinguishable"] or gap < 0:
        note = (
            "ceiling and floor are within noise"
            if not distinct["distinguishable"]
            else "the ceiling is below the floor"
        )
        return {"value": value, "note": note, **told}
    return {"value": value, "interval": _resampled([floor, found, ceiling], seed), "note": "", **told}


def _resampled(models: Sequence[Marks], seed: int) -> list[float]:
    import numpy as np

    keys = list(models[0])
    columns = np.array([[model[key] for key in keys] for model in models], dtype=np.int64)  # (3, n)
    # Only eight patterns of right and wrong exist: a resample is a draw of how often each occurs.
    patterns, counts = np.unique(columns, axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(keys), counts / len(keys), size=RESAMPLES)
    floor, found, ceiling = patterns @ drawn.T
    kept = ceiling != floor
    low, high = np.quantile((found[kept] - floor[kept]) / (ceiling[kept] - floor[kept]), [0.025, 0.975])
    return [float(low), float(high)]


def _told(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in ("inputs", "mended", "warnings")}


# --- As text ---------------------------------------------------------------------------------------------------------


def markdown(report: Mapping[str, Any], figures: Sequence[str]) -> str:
    """The report for people."""
    lines = [f"# {report['run']}", ""]
    lines += [f"Strong model: {report['models']['strong']}. Rules: {report['mode']}. "]
    lines[-1] += "Answers by {extraction}, compared by {equivalence}.".format(**report["scoring"])
    for at, rows in report["tables"].items():
        lines += ["", f"## {at}", ""]
        lines += ["| model | accuracy | 95 % interval | n | against naive | PGR |", "|---|---:|---:|---:|---:|---:|"]
        lines += [f"| {' | '.join(cells(row))} |" for row in rows]
    lines += [""] + [f"![{name}]({name})" for name in figures]
    lines += ["", "PGR = (accuracy - floor) / (ceiling - floor), on the table's own floor and ceiling.", ""]
    lines += ["## Stages", "", *_stage_lines(report["stages"])]
    if report["mended"]:
        lines += ["", "## What the default rules do otherwise than the published code", ""]
        lines += [f"- {text}" for text in report["mended"]]
    return "\n".join(lines) + "\n"


def cells(row: Mapping[str, Any]) -> list[str]:
    """One row of a table as text."""
    found = row["accuracy"]
    if found is None:
        return [row["model"], "no golds", "", "", "", _pgr_text(row.get("pgr"))]
    low, high = found["interval"]
    gain = row.get("against naive")
    told = ""
    if gain:
        bounds = " to ".join(f"{100 * bound:+z.1f}" for bound in gain["interval"])
        told = f"{100 * gain['value']:+z.1f} ({bounds})"
    interval_text = f"{100 * low:.1f} to {100 * high:.1f}"
    return [
        row["model"],
        f"{100 * found['value']:.1f} %",
        interval_text,
        str(found["n"]),
        told,
        _pgr_text(row.get("pgr")),
    ]


def _pgr_text(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    if found["value"] is None:
        return found["note"]
    bounds = found.get("interval")
    more = f" ({bounds[0]:z.2f} to {bounds[1]:z.2f})" if bounds else ""
    return f"{found['value']:z.2f}{more}{f' [{note}]' if (note := found['note']) else ''}"


def _stage_lines(stages: Mapping[str, Mapping]) -> list[str]:
    lines = []
    for name, facts in stages.items():
        told = []
        for word, value in facts.items():
            if isinstance(value, dict) and "accuracy" in value:
                told.append(f"{word} {100 * value['accuracy']:.1f} % of {value['n']}")
            elif isinstance(value, dict) and value and all(isinstance(v, int | float) for v in value.values()):
                told.append(f"{word}: " + ", ".join(f"{key} {number:g}" for key, number in value.items()))
            elif isinstance(value, int | float) and not isinstance(value, bool):
                told.append(f"{word} {value:g}" if isinstance(value, float) else f"{word} {value}")
        lines.append(f"- {name}: {'; '.join(told)}")
    return lines
