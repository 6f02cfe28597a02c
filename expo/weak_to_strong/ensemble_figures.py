"""Pictures of an ensemble run: accuracy over rounds, and all models of each part. None without matplotlib."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from expo.weak_to_strong.figures import BLUE, GREY, ORANGE, accuracies


def draw(report: Mapping[str, Any], folder: Path) -> list[str]:
    """Write the figures as PNG files; their names."""
    if find_spec("matplotlib") is None:
        return []
    over_rounds(report, folder / "rounds.png")
    lines = {part: _lines(rows) for part, rows in report["tables"].items()}
    accuracies(report["tables"], report["run"], folder / "accuracy.png", lines=lines)
    return ["rounds.png", "accuracy.png"]


def _lines(rows: list) -> tuple[str, ...]:
    return tuple(row["model"] for row in rows if row["model"].startswith(("weak floor", "ceiling")))


def over_rounds(report: Mapping[str, Any], path: Path) -> None:
    """A panel for each part: the expert of each round on its own, the ensemble until then, the chosen round."""
    from matplotlib.figure import Figure

    found, parts = report["rounds"], list(report["rounds"][0]["own"])
    figure = Figure(figsize=(1 + 3 * len(parts), 3.4), layout="constrained")
    panels = figure.subplots(1, len(parts), squeeze=False, sharey=True)[0]
    for panel, part in zip(panels, parts, strict=True):
        # Beside each other: in the first round both are the same, and one would hide the other.
        for who, colour, label, aside in (
            ("own", ORANGE, "expert on its own", -0.04), ("ensemble", BLUE, "ensemble so far", 0.04),
        ):  # fmt: skip
            shown = [one for one in found if one[who]]
            values = [100 * one[who][part]["value"] for one in shown]
            bounds = [[100 * bound for bound in one[who][part]["interval"]] for one in shown]
            below = [value - low for value, (low, _) in zip(values, bounds, strict=True)]
            above = [high - value for value, (_, high) in zip(values, bounds, strict=True)]
            where = [one["round"] + aside for one in shown]
            panel.errorbar(
                where, values, yerr=[below, above], marker="o", markersize=4, capsize=2, color=colour, label=label
            )
        panel.axvline(report["chosen round"], color=GREY, linewidth=1, linestyle="--", zorder=0)
        panel.set_title(f"{part} (n = {found[0]['own'][part]['n']:,})", fontsize=9)
        panel.set_xlabel("round (dashed: chosen on validation)", fontsize=8)
        panel.set_xticks([one["round"] for one in found])
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="0.92")
    panels[0].set_ylabel("accuracy, % (95 % interval)", fontsize=8)
    panels[0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
