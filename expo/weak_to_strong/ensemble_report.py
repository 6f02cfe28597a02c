"""What an ensemble run found: each expert and the ensemble by round, then the students, on each part of the questions.

PGR = (accuracy - floor) / (ceiling - floor); the floor is the first expert alone. Every figure has n and an interval;
PGR is undefined without a ceiling, and flagged where ceiling and floor cannot be told apart.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expo.weak_to_strong import rounds as records
from expo.weak_to_strong.ensemble_run import EnsembleRun
from expo.weak_to_strong.keyed import write_text
from expo.weak_to_strong.labels import RESULTS
from expo.weak_to_strong.report import Marks, against, cells, interval, pgr, read_marks
from expo.weak_to_strong.stages import RECORD

FLOOR, TOGETHER = "weak floor: the first expert", "ensemble of the chosen round"
ALL, MERGED = "ensemble of all experts", "all experts merged"
NAIVE, STUDENT, CEILING = "naive student", "student", "ceiling"
NAMES = {
    "easy": "easy", "hard": "hard", "hardest": "hardest (out of distribution)", "validation": "validation (easy)",
}  # fmt: skip
FORM = (
    "the generative form as a whole, but for its two published traits: tokens are AdaBoost's samples, and experts are "
    "joined by a weighted sum of token probabilities (arXiv:2410.04571, abstract and reviews; no code was published)"
)
ALPHA = "alpha = ln((1 - eps) / eps) + ln(prior / (1 - prior)), the prior being the untrained model's error, or given"
OURS = (
    FORM,
    ALPHA,
    "an eps of 0 counts as half a sample and ends boosting; an expert with an eps at or above the prior is left out",
    "boosting ends, and the round is chosen, on a validation part of the easy set; the paper picks it on the test set",
    "the single expert's labels are as soft as the ensemble's; the published code rounds them to 0 and 1",
    "difficulty by experts is out of fold; the hardest questions are kept apart as out of distribution",
    "experts merged in weight space",
)


def write_report(
    run: EnsembleRun, tested: Mapping[str, Mapping[str, str]], parts: Sequence[str], inputs: Mapping, folder: Path
) -> dict[str, Any]:
    """Write report.json, report.md and, with matplotlib, figures into `folder`; the facts that a run prints."""
    report = compose(run, tested, parts, inputs)
    write_text(folder / "report.json", json.dumps(report, indent=1) + "\n")
    from expo.weak_to_strong.ensemble_figures import draw

    figures = draw(report, folder)
    write_text(folder / "report.md", markdown(report, figures))
    return {"figures": figures, "tables": report["tables"], "rounds": report["rounds"]}


def compose(run: EnsembleRun, tested: Mapping, parts: Sequence[str], inputs: Mapping[str, Path]) -> dict[str, Any]:
    """The whole report as JSON values."""
    facts = {name: json.loads((path / RECORD).read_text())["facts"] for name, path in inputs.items()}
    state = records.read_state(inputs["ensemble"])
    made = [round_of(inputs, one, ("validation", *parts)) for one in state["rounds"]]
    models = {"weak": run.weak or "embedded", "strong": run.strong or "embedded"}
    return {
        "run": run.name,
        "kind": run.kind,
        "models": models,
        "prior": run.prior,
        "weighting": run.boost.weighting,
        "combine": run.boost.combine,
        "chosen round": state["chosen"],
        "stopped": state["stopped"],
        "rounds": made,
        "tables": {part: table(inputs, state, tested.get(part, {}), part) for part in parts},
        "split": facts["split"],
        "difficulty": facts["difficulty"],
        "stages": {name: found for name, found in facts.items() if name.startswith(("labels", "merged", "prior"))},
        "ours": ours(run),
    }


def ours(run: EnsembleRun) -> list[str]:
    """What of this run is our reading or addition; for classes and a prior of the literature alpha is not."""
    known = {FORM} | ({ALPHA} if isinstance(run.prior, str) else set())
    return [text for text in OURS if run.kind == "generation" or text not in known]


def round_of(inputs: Mapping[str, Path], one: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    """A round with the accuracies, intervals and all, of its expert and of the ensemble so far."""
    place = inputs[f"round_{one['round']}/tests"]
    told = {name: one[name] for name in ("round", "error", "alpha", "verdict", "said")}
    for who in ("own", "ensemble"):
        told[who] = {part: interval(read_marks(place / who / part / RESULTS)) for part in parts if one[who]}
    return told


def table(inputs: Mapping[str, Path], state: Mapping, titles: Mapping[str, str], part: str) -> list[dict[str, Any]]:
    """A row for each model on one part: experts, the same merged, students. Only students have a PGR.

    Merged experts are held against the ensemble of the same experts, the student against the naive one.
    """
    first = inputs["round_0/tests"] / "own" / part
    chosen = inputs[f"round_{state['chosen']}/tests"] / "ensemble" / part
    last = inputs[f"round_{records.kept(state)[-1]['round']}/tests"] / "ensemble" / part
    marks: dict[str, Marks] = {FLOOR: read_marks(first / RESULTS), TOGETHER: read_marks(chosen / RESULTS)}
    marks |= {ALL: read_marks(last / RESULTS)}
    marks |= {title: read_marks(inputs[stage] / part / RESULTS) for title, stage in titles.items()}
    floor, ceiling = marks[FLOOR], _starting(marks, CEILING)
    rows = []
    for title, found in marks.items():
        row: dict[str, Any] = {"model": title, "accuracy": interval(found)}
        before = marks[ALL] if title.startswith(MERGED) else floor
        before = _starting(marks, NAIVE) if title.startswith(STUDENT) else before
        if title != FLOOR and not title.startswith(CEILING):
            row["against"] = against(before, found)
        if title.startswith((NAIVE, STUDENT)):
            row["pgr"] = pgr(floor, found, ceiling)
        rows.append(row)
    return rows


def _starting(marks: Mapping[str, Marks], start: str) -> Marks | None:
    return next((found for title, found in marks.items() if title.startswith(start)), None)


# --- As text ---------------------------------------------------------------------------------------------------------


def markdown(report: Mapping[str, Any], figures: Sequence[str]) -> str:
    """The report for people."""
    models, spans = report["models"], report["split"]["rows"]
    lines = [f"# {report['run']}", ""]
    lines += [f"EnsemW2S, {report['kind']}. Weak model: {models['weak']}; strong model: {models['strong']}. "]
    lines[-1] += f"Prior: {report['prior']}; weighting of the {report['weighting']}; joined by {report['combine']}."
    sizes = ", ".join(f"{name} {n:,}" for name, n in spans.items())
    lines += ["", f"Questions, rated by {report['difficulty']['by']}: {sizes}."]
    said = report["split"].get("said")
    lines[-1] += f" Questions {said}." if said else ""
    lines += ["", "## Rounds", "", *_rounds_lines(report)]
    for part, rows in report["tables"].items():
        lines += ["", f"## {NAMES.get(part, part)}", ""]
        lines += ["| model | accuracy | 95 % interval | n | against | PGR |", "|---|---:|---:|---:|---:|---:|"]
        lines += [f"| {' | '.join(row_cells(row))} |" for row in rows]
    lines += [
        "",
        "Against, on the same questions: merged experts against the ensemble of all experts, the student against the "
        "naive student, others against the weak floor.",
    ]
    lines += ["PGR = (accuracy - floor) / (ceiling - floor), on the table's own floor and ceiling.", ""]
    lines += [f"![{name}]({name})" for name in figures]
    lines += ["", "## What is ours, not the paper's", "", *(f"- {text}." for text in report["ours"])]
    return "\n".join(lines) + "\n"


def _rounds_lines(report: Mapping[str, Any]) -> list[str]:
    parts = list(report["rounds"][0]["own"])
    names = [f"{who}: {part}" for part in parts for who in ("own", "ensemble")]
    lines = [f"| round | weighted error | alpha | {' | '.join(names)} |", f"|---:|---:|---:|{'---:|' * len(names)}"]
    lines += [f"| {' | '.join(round_cells(one, parts))} |" for one in report["rounds"]]
    n = {part: report["rounds"][0]["own"][part]["n"] for part in parts}
    lines += ["", "n: " + ", ".join(f"{part} {count:,}" for part, count in n.items()) + "; in brackets 95 % intervals."]
    ended = f" Boosting ended: {report['stopped']}." if report["stopped"] else ""
    lines += [f"Round {report['chosen round']} was chosen on validation.{ended}"]
    lines += [f"- round {one['round']}: {one['said']}." for one in report["rounds"] if one["said"]]
    return lines


def round_cells(one: Mapping[str, Any], parts: Sequence[str]) -> list[str]:
    """One round as text."""
    shares = [_share(one[who].get(part)) for part in parts for who in ("own", "ensemble")]
    return [str(one["round"]), f"{one['error']:.4f}", f"{one['alpha']:.3f}" if one["alpha"] else "left out", *shares]


def row_cells(row: Mapping[str, Any]) -> list[str]:
    """One model as text."""
    return cells({**row, "against naive": row.get("against")})


def _share(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    low, high = found["interval"]
    return f"{100 * found['value']:.1f} ({100 * low:.1f}-{100 * high:.1f})"
