"""Pictures of a study: accuracy over both error rates, gains of subtasks and paraphrases, and the grid of their mix."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from expo.weak_to_strong.figures import BLUE, GREY, ORANGE
from expo.weak_to_strong.supervision.mix import BOTH, HARD, PARAPHRASE, SUBTASK

GREEN, PINK = "#009e73", "#cc79a7"
_APART = 1.2  # per cent by which lines stand aside, so that their intervals can be told apart
Cells = Sequence[Mapping[str, Any]]


def draw(report: Mapping[str, Any], folder: Path) -> list[str]:
    """Write the figures as PNG files, for each test; their names. None without matplotlib."""
    if find_spec("matplotlib") is None:
        return []
    made = []
    for test, found in report["tests"].items():
        cells = [cell for cell in found["cells"] if cell["accuracy"]]
        if not cells:
            continue
        curves(report, test, folder / f"supervision-{test}.png")
        made.append(f"supervision-{test}.png")
        if sum(cell["kind"] == BOTH for cell in cells) > 1:
            heat(cells, test, folder / f"mix-{test}.png")
            made.append(f"mix-{test}.png")
    return made


def curves(report: Mapping[str, Any], test: str, path: Path) -> None:
    """Three panels, those that the grid has cells for: over outcomes, over steps, and gains."""
    from matplotlib.figure import Figure

    found = report["tests"][test]
    cells = [cell for cell in found["cells"] if cell["accuracy"]]
    panels = [(_outcomes, cells)]
    panels += [(_steps, cells)] if any(cell["steps"] is not None for cell in cells) else []
    panels += [(_gains, found["gains"])] if any(one["gain"] for one in found["gains"]) else []
    figure = Figure(figsize=(0.6 + 3.5 * len(panels), 3.9), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (panel, what) in zip(axes, panels, strict=True):
        panel(axis, what)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="0.92")
        axis.set_axisbelow(True)
    n = len(report["seeds"])
    shown = f"mean of {n} seeds and 95 % interval over seeds" if n > 1 else "one seed"
    figure.suptitle(f"{report['run']}, {test}: {shown}", fontsize=9)
    figure.savefig(path, dpi=150)


def _outcomes(axis: Any, cells: Cells) -> None:
    kinds = (
        (HARD, "hard", "hard tasks", BLUE),
        (SUBTASK, "subtask", "subtasks", ORANGE),
        (PARAPHRASE, "hard", "hard + paraphrase", PINK),
    )
    for number, (kind, rate, label, colour) in enumerate(kinds):
        some = [(c[rate], c) for c in cells if c["kind"] == kind and c["steps"] is None]
        _line(axis, some, label, colour, _APART * number)
    mixed = [cell for cell in cells if cell["kind"] == BOTH]
    for subtask in sorted({cell["subtask"] for cell in mixed})[:1]:
        some = [(cell["hard"], cell) for cell in mixed if cell["subtask"] == subtask]
        _line(axis, some, f"hard + subtask ({subtask:.0%} wrong)", GREEN, -_APART)
    axis.set_xlabel("outcome error rate, %", fontsize=8)
    _finish(axis)


def _steps(axis: Any, cells: Cells) -> None:
    some = [cell for cell in cells if cell["steps"] is not None]
    rate = some[0]["hard"]
    _line(axis, [(cell["steps"], cell) for cell in some], f"hard tasks, {rate:.0%} wrong outcomes", BLUE)
    axis.set_xlabel("step-wise error rate, %", fontsize=8)
    _finish(axis)


def _finish(axis: Any) -> None:
    axis.set_ylabel("test accuracy, %", fontsize=8)
    axis.set_ylim(0, 103)  # intervals of few seeds reach beyond what an accuracy can be
    _legend(axis)


def _legend(axis: Any) -> None:
    axis.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def _line(axis: Any, points: Sequence[tuple[float, Mapping]], label: str, colour: str, aside: float = 0.0) -> None:
    if not points:
        return
    points = sorted(points, key=lambda point: point[0])
    at = [100 * rate + aside for rate, _ in points]
    heights, below, above = _heights([cell["accuracy"] for _, cell in points])
    axis.errorbar(
        at, heights, yerr=[below, above], marker="o", markersize=4, capsize=3, color=colour, label=label, linewidth=1.4
    )


def _heights(found: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float], list[float]]:
    """Values and their distances to the bounds, in per cent."""
    values = [100 * one["value"] for one in found]
    bounds = [
        [100 * b for b in one["interval"]] if one["interval"] else [v, v] for one, v in zip(found, values, strict=True)
    ]
    return (
        values,
        [value - low for value, (low, _) in zip(values, bounds, strict=True)],
        [high - value for value, (_, high) in zip(values, bounds, strict=True)],
    )


def _gains(axis: Any, gains: Sequence[Mapping[str, Any]]) -> None:
    known = [one for one in gains if one["gain"]]
    rates = sorted(
        {one["hard"] for one in known if any(o["kind"] == PARAPHRASE and o["hard"] == one["hard"] for o in known)}
    )
    rates = rates or sorted({one["hard"] for one in known})
    lowest = min((one["subtask"] for one in known if one["subtask"] is not None), default=None)
    kinds = [(PARAPHRASE, None, "+ paraphrases", PINK), (BOTH, lowest, "+ subtasks", GREEN)]
    for number, (kind, subtask, label, colour) in enumerate(kinds):
        some = [one for one in known if one["kind"] == kind and one["subtask"] == subtask and one["hard"] in rates]
        if not some:
            continue
        at = [rates.index(one["hard"]) + (number - 0.5) * 0.36 for one in some]
        heights, below, above = _heights([one["gain"] for one in some])
        shown = label if subtask is None else f"{label} ({subtask:.0%} wrong)"
        axis.bar(at, heights, 0.34, yerr=[below, above], color=colour, capsize=3, label=shown, ecolor="0.3")
    axis.axhline(0, color=GREY, linewidth=0.8)
    axis.set_xticks(range(len(rates)), [f"{rate:.0%}" for rate in rates])
    axis.set_xlabel("outcome error rate of the hard tasks", fontsize=8)
    axis.set_ylabel("gain over hard tasks alone, points", fontsize=8)
    _legend(axis)


def heat(cells: Cells, test: str, path: Path) -> None:
    """Accuracy of hard + subtask over the outcome error rates of both."""
    from matplotlib.figure import Figure

    mixed = {(cell["hard"], cell["subtask"]): cell["accuracy"]["value"] for cell in cells if cell["kind"] == BOTH}
    hard, subtask = sorted({h for h, _ in mixed}), sorted({s for _, s in mixed})
    grid = [[100 * mixed.get((h, s), float("nan")) for h in hard] for s in subtask]
    figure = Figure(figsize=(1.8 + 0.8 * len(hard), 1.4 + 0.6 * len(subtask)), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(grid, origin="lower", aspect="auto", cmap="Blues")
    middle = (max(map(max, grid)) + min(map(min, grid))) / 2
    for y, row in enumerate(grid):
        for x, value in enumerate(row):
            axis.text(
                x, y, f"{value:.1f}", ha="center", va="center", fontsize=8, color="white" if value > middle else "black"
            )
    axis.set_xticks(range(len(hard)), [f"{rate:.0%}" for rate in hard])
    axis.set_yticks(range(len(subtask)), [f"{rate:.0%}" for rate in subtask])
    axis.set_xlabel("outcome error rate of hard tasks", fontsize=8)
    axis.set_ylabel("of subtasks", fontsize=8)
    axis.set_title(f"{test}: hard + subtask, accuracy in %", fontsize=9)
    axis.tick_params(labelsize=8)
    figure.colorbar(image)
    figure.savefig(path, dpi=150)
