"""A study's report for people."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def markdown(report: Mapping[str, Any], figures: Sequence[str]) -> str:
    """The whole report."""
    seeds, scoring = report["seeds"], report["scoring"]
    over = "over seeds (Student's t)" if len(seeds) > 1 else "over the test questions of the one seed"
    lines = [f"# {report['run']}", "", f"{'Seeds' if len(seeds) > 1 else 'Seed'} {', '.join(map(str, seeds))}. "]
    lines[-1] += f"Answers by {scoring['extraction']}, compared by {scoring['equivalence']}. Intervals: 95 %, {over}."
    for test, found in report["tests"].items():
        lines += ["", f"## {test}", "", *table(found["cells"], report["sets"])]
        lines += ["", *gain_lines(found["gains"]), "", "### The paper's claims, as far as this study goes", ""]
        lines += claim_lines(found["claims"])
    lines += [""] + [f"![{name}]({name})" for name in figures]
    lines += ["", "## Sources", "", *_source_lines(report["sources"]), "", f"Note: {report['note']}."]
    return "\n".join(lines) + "\n"


HEADINGS = ("training set", "rows", "wrong outcomes", "wrong steps", "accuracy", "95 % interval", "n")


def table(cells: Sequence[Mapping[str, Any]], sets: Mapping[str, Sequence[Mapping]]) -> list[str]:
    """A row for each cell, in Markdown."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---|---:|---:|---:|---:|---:|---:|"]
    return lines + [f"| {' | '.join(row)} |" for row in rows(cells, sets)]


def rows(cells: Sequence[Mapping[str, Any]], sets: Mapping[str, Sequence[Mapping]]) -> Iterator[list[str]]:
    """The table's cells as texts."""
    for cell in cells:
        held, found = sets[cell["cell"]], cell["accuracy"]
        outcome = _mean([one["rates"]["outcome"] for one in held])
        steps = _mean([one["rates"]["steps"] for one in held])
        told = [cell["cell"], f"{held[0]['rows']:,}", percent(outcome), percent(steps)]
        if found is None:
            yield [*told, "no golds", "", ""]
            continue
        first = next(iter(cell["seeds"].values()))
        yield [*told, percent(found["value"]), between(found["interval"] or first["interval"]), f"{first['n']:,}"]


def percent(value: float | None) -> str:
    """A share in per cent, with one digit."""
    return "" if value is None else f"{100 * value:.1f} %"


def between(bounds: Sequence[float] | None, sign: str = "") -> str:
    """An interval in per cent or points."""
    return "one seed" if bounds is None else " to ".join(f"{100 * bound:{sign}.1f}" for bound in bounds)


def points(found: Mapping[str, Any] | None) -> str:
    """A difference in points with its interval."""
    if found is None:
        return "no golds"
    return f"{100 * found['value']:+.1f} points ({between(found['interval'], '+')})"


def _mean(values: Sequence[float | None]) -> float | None:
    return None if any(value is None for value in values) else sum(values) / len(values)  # type: ignore


def gain_lines(gains: Sequence[Mapping[str, Any]]) -> list[str]:
    if not gains:
        return []
    lines = ["Against the hard tasks alone, at the same outcome error rate:", ""]
    return lines + [f"- hard {one['hard']:.0%} wrong, + {one['added']}: {points(one['gain'])}" for one in gains]


def claim_lines(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for number, one in enumerate(claims, start=1):
        lines.append(f"{number}. Claim: {one['claim']}.")
        lines += [f"   - {found['what']}: {points(found['difference'])}: {found['says']}" for found in one["evidence"]]
        if not one["evidence"]:
            lines.append("   - the grid has no cells that speak of it")
    return lines


def _source_lines(sources: Mapping[str, Mapping]) -> list[str]:
    lines = []
    for name, facts in sources.items():
        told = []
        for word, value in facts.items():
            if isinstance(value, int | float | str) and not isinstance(value, bool):
                told.append(f"{word} {value:g}" if isinstance(value, float) else f"{word} {value}")
            elif isinstance(value, Mapping) and isinstance(value.get("rates"), Mapping):
                told.append(f"{word}: {_rates(value['rates'])}")
            elif word == "rates" and isinstance(value, Mapping):
                told.append(_rates(value))
        lines.append(f"- {name}: {'; '.join(told)}")
    return lines


def _rates(rates: Mapping[str, Any]) -> str:
    told = f"{rates['samples']:,} samples, outcome error rate {percent(rates['outcome']['value'])}"
    return told + (f", step-wise {percent(rates['steps']['value'])}" if rates.get("steps") else "")
