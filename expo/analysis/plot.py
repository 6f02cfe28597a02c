"""heat_map(diff, path): the relative size of the delta, module by layer."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expo.errors import OutputError, PlotUnavailable

if TYPE_CHECKING:
    from expo.analysis.diff import Diff

_MAP = "viridis"  # even steps that the common forms of colour blindness, and print in grey, keep apart
_LOG_BEYOND = 12  # ratio of largest to smallest from which colours follow the logarithm
_MISSING = "#e4e4e4"
_LABEL = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "boxstyle": "round,pad=0.25"}
_UNCHANGED = "#1a1a1a"


def check_plot() -> None:
    """Raise PlotUnavailable where matplotlib is not installed; looks without loading it."""
    if find_spec("matplotlib") is None:
        raise PlotUnavailable


def heat_map(found: Diff, path: str | Path) -> None:
    """Draw ||B - A|| / ||B|| by module (rows) and layer (columns) into a file; the suffix names the format.

    Tensors outside of layers are bands above, with their figure written out. Pale grey: no such tensor;
    black: the two are equal.
    Raises PlotUnavailable without matplotlib, OutputError where the file cannot be written.
    """
    check_plot()
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    cells = {place: sums.relative for place, sums in found.by_layer().items()}
    if not cells:
        raise OutputError("there is nothing to plot: A and B have no float tensor in common.")
    figure = _draw(pyplot, cells, found)
    try:
        figure.savefig(path, dpi=160, bbox_inches="tight", facecolor="white")
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: the plot cannot be written: {error}.") from error
    finally:
        pyplot.close(figure)


def _draw(pyplot: Any, cells: Mapping[tuple[str, int | None], float | None], found: Diff) -> Any:
    """Two panels with one scale: what lies in no layer, and modules by layers."""
    outside = [group for group, layer in cells if layer is None]
    inside = list(dict.fromkeys(group for group, layer in cells if layer is not None))
    layers = sorted({layer for _, layer in cells if layer is not None})
    scale = _scale(pyplot, [value for value in cells.values() if value])
    height = min(60, 1.5 + 0.3 * max(len(inside) + 1.4 * len(outside), 4))
    figure = pyplot.figure(figsize=(min(40, 5.4 + 0.24 * max(len(layers), 8)), height), layout="constrained")
    rows = [(names, columns) for names, columns in ((outside, [None]), (inside, layers)) if names]
    panels = figure.subplots(len(rows), 1, squeeze=False, height_ratios=[len(names) for names, _ in rows])[:, 0]
    image = None
    for panel, (names, columns) in zip(panels, rows, strict=True):
        image = _panel(pyplot, panel, names, columns, cells, scale)
    equal = "; black: equal" if any(value == 0 for value in cells.values()) else ""
    figure.suptitle(f"A = {_short(found.a.source.label)}, B = {_short(found.b.source.label)}{equal}", fontsize=10)
    bar = figure.colorbar(image, ax=list(panels), pad=0.02, aspect=25, fraction=0.05)
    bar.set_label("relative size of the delta, ||B - A|| / ||B||", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.formatter = _percent
    bar.update_ticks()
    return figure


def _panel(pyplot: Any, panel: Any, names: list[str], columns: list, cells: Mapping, scale: Any) -> Any:
    """One grid of cells with its labels."""
    import numpy

    grid = numpy.full((len(names), len(columns)), numpy.nan)
    for row, name in enumerate(names):
        for column, layer in enumerate(columns):
            value = cells.get((name, layer))
            # A logarithm has no place for 0: anything below the scale shows as unchanged.
            grid[row, column] = numpy.nan if value is None else value or scale.vmin / 2
    colours = pyplot.get_cmap(_MAP).with_extremes(bad=_MISSING, under=_UNCHANGED)
    image = panel.pcolormesh(numpy.ma.masked_invalid(grid), cmap=colours, norm=scale, edgecolors="white", linewidth=0.6)
    panel.invert_yaxis()
    panel.set_yticks(numpy.arange(len(names)) + 0.5, [_short(name) for name in names], fontsize=8)
    panel.tick_params(length=0)
    panel.set_frame_on(False)
    if columns == [None]:
        panel.set_xticks([])
        for row, name in enumerate(names):
            text = _percent(cells[name, None] or 0.0) if cells[name, None] is not None else ""
            panel.text(0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color="black", bbox=_LABEL)
        return image
    step = max(1, -(-len(columns) // 24))
    panel.set_xticks(numpy.arange(0, len(columns), step) + 0.5, columns[::step], fontsize=8)
    panel.set_xlabel("layer", fontsize=9)
    return image


def _scale(pyplot: Any, values: list[float]) -> Any:
    """Linear from 0 where all are alike; by the logarithm where they span more."""
    from matplotlib.colors import LogNorm, Normalize

    if not values:
        return Normalize(1e-9, 1)
    low, high = min(values), max(values)
    return LogNorm(low, high) if high > low * _LOG_BEYOND else Normalize(high * 1e-9, high)


def _percent(value: float, _: Any = None) -> str:
    return f"{100 * value:.3g} %"


def _short(name: str) -> str:
    """A module group without the words that every row repeats."""
    name = name.removeprefix("model.").removesuffix(".weight")
    name = name if len(name) <= 60 else "..." + name[-57:]
    return name.replace("$", r"\$")  # matplotlib would read a formula
