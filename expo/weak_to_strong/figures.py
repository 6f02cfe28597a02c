"""Pictures of a report: accuracies with their intervals, and accuracy over alpha. None without matplotlib."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "0.45"  # told apart by the colour-blind too


def draw(report: Mapping[str, Any], folder: Path) -> list[str]:
    """Write the figures as PNG files; their names."""
    if find_spec("matplotlib") is None:
        return []
    made = []
    tables = {at: [row for row in rows if row["accuracy"]] for at, rows in report["tables"].items()}
    if any(tables.values()):
        accuracies({at: rows for at, rows in tables.items() if rows}, report["run"], folder / "accuracy.png")
        made.append("accuracy.png")
    curves = {name: found["curve"] for name, found in report["stages"].items() if found.get("curve")}
    if curves:
        over_alpha(curves, {name: report["stages"][name]["alpha"] for name in curves}, folder / "extrapolation.png")
        made.append("extrapolation.png")
    return made


def accuracies(
    tables: Mapping[str, list], title: str, path: Path, lines: Mapping[str, Sequence[str]] | None = None
) -> None:
    """A panel for each table: each tested model's point and 95 % interval, floor and ceiling as lines.

    lines: for each table the models that are floor and ceiling.
    """
    from matplotlib.figure import Figure

    most = max(map(len, tables.values()))
    figure = Figure(figsize=(3 + 4 * len(tables), 1.6 + 0.34 * most), layout="constrained")
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for panel, (at, rows) in zip(panels, tables.items(), strict=True):
        values = [100 * row["accuracy"]["value"] for row in rows]
        bounds = [[100 * bound for bound in row["accuracy"]["interval"]] for row in rows]
        below = [value - low for value, (low, _) in zip(values, bounds, strict=True)]
        above = [high - value for value, (_, high) in zip(values, bounds, strict=True)]
        places = range(len(rows))
        panel.errorbar(values, places, xerr=[below, above], fmt="o", color=BLUE, ecolor=BLUE, capsize=3, markersize=5)
        for row, value in zip(rows, values, strict=True):
            if row["model"] in (lines[at] if lines else ("weak floor", "ceiling")):
                panel.axvline(value, color=GREY, linewidth=1, linestyle="--", zorder=0)
        panel.set_yticks(list(places), [row["model"] for row in rows], fontsize=8)
        panel.invert_yaxis()
        panel.set_title(at, fontsize=9)
        panel.set_xlabel(f"test accuracy, % (n = {rows[0]['accuracy']['n']:,})", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="x", color="0.92")
        panel.set_axisbelow(True)
    figure.suptitle(f"{title}: accuracy and 95 % interval", fontsize=10)
    figure.savefig(path, dpi=150)


def over_alpha(curves: Mapping[str, list], chosen: Mapping[str, float], path: Path) -> None:
    """Validation accuracy over alpha, with the chosen alpha marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        alphas = [point["alpha"] for point in curve]
        heights = [100 * point["accuracy"] for point in curve]
        colour = (BLUE, "#009e73", "#cc79a7", "#56b4e9", "#e69f00")[number % 5]
        axes.plot(alphas, heights, marker="o", markersize=4, color=colour, label=name)
        at = alphas.index(chosen[name])
        axes.plot(alphas[at], heights[at], "D", color=ORANGE, markersize=8)
    axes.set_xlabel("alpha (diamond: chosen)", fontsize=9)
    axes.set_ylabel("validation accuracy, %", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
