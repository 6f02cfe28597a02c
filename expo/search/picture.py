"""search.png: score and difference with their bands, answer length, effective alpha and cosine over what varied."""

from pathlib import Path
from typing import Any

from expo.errors import OutputError
from expo.search.result import Result

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "0.45"  # told apart by the colour-blind too


def draw(result: Result, path: str | Path) -> bool:
    """Draw a search into a file; False where matplotlib is not installed. Raises OutputError."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    places, label = _places(result)
    panels = [panel for panel in (_score, _difference, _length, _effective, _cosine) if _has(panel, result)]
    heights = [{_score: 2.2, _difference: 1.4}.get(panel, 1) for panel in panels]
    figure = Figure(figsize=(7.2, 1.2 + 1.35 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for panel, axis in zip(panels, axes, strict=True):
        panel(axis, result, places)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="0.9")
        axis.set_axisbelow(True)
    axes[-1].set_xlabel(label)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    try:
        figure.savefig(path, dpi=160)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: the picture cannot be written: {error}.") from error
    return True


def _places(result: Result) -> tuple[list[float], str]:
    """Where each try stands: at its value where one number varies, else one beside the other."""
    dimensions = result.space.dimensions
    if len(dimensions) == 1 and dimensions[0].numeric:
        return [float(next(iter(one.point.values()), 0)) for one in result.figures], dimensions[0].path
    return [float(i) for i in range(len(result.figures))], "try, in the order of the table (0: the baseline)"


def _has(panel: Any, result: Result) -> bool:
    if panel is _length:
        return any(one.length is not None for one in result.figures)
    if panel is _effective:
        return any(one.effective.get("alpha") is not None for one in result.figures)
    return panel in (_score, _difference) or any(one.effective.get("cosine") is not None for one in result.figures)


def _line(axis: Any, places: list[float], values: list, **how: Any) -> None:
    known = sorted((x, y) for x, y in zip(places, values, strict=True) if y is not None)
    axis.plot(*zip(*known, strict=True), color=_BLUE, linewidth=1.6, marker="o", markersize=4, **how)


def _score(axis: Any, result: Result, places: list[float]) -> None:
    ordered = sorted(zip(places, result.figures, strict=True), key=lambda pair: pair[0])
    xs, lows, highs = zip(*((x, one.score.low, one.score.high) for x, one in ordered), strict=True)
    axis.fill_between(xs, lows, highs, color=_BLUE, alpha=0.15, linewidth=0, label="95 % band")
    _line(axis, places, [one.score.value for one in result.figures])
    base = result.baseline.score.value
    axis.axhline(base, color=_GREY, linewidth=1, linestyle="--", zorder=1)
    axis.plot(places[0], base, "s", color="0.25", markersize=8, label=f"baseline: {base:.4g}")
    at = places[result.figures.index(result.chosen)]
    label = f"chosen: {result.name(result.chosen)}, {result.chosen.score.value:.4g}"
    axis.plot(at, result.chosen.score.value, "D", color=_ORANGE, markersize=8, label=label)
    better = "" if result.higher_is_better else " (lower is better)"
    n = {one.n for one in result.figures}
    axis.set_ylabel(f"{result.metric['metric']}{better}", fontsize=9)
    counted = f"{min(n):,} examples" if len(n) == 1 else f"{min(n):,} to {max(n):,} examples"
    axis.set_title(f"{counted}, the same for all tries", fontsize=10)


def _difference(axis: Any, result: Result, places: list[float]) -> None:
    """To the baseline, example by example, with the interval that counts."""
    known = [(x, one.difference) for x, one in zip(places, result.figures, strict=True)]
    pairs = sorted((x, *(found.difference[:3] if found else (0.0, 0.0, 0.0))) for x, found in known)
    xs, values, lows, highs = zip(*pairs, strict=True)
    axis.fill_between(xs, lows, highs, color=_BLUE, alpha=0.15, linewidth=0)
    _line(axis, list(xs), list(values))
    axis.axhline(0, color=_GREY, linewidth=1, linestyle="--", zorder=1)
    axis.set_ylabel("difference to\nthe baseline", fontsize=9)


def _length(axis: Any, result: Result, places: list[float]) -> None:
    _line(axis, places, [one.length for one in result.figures])
    axis.set_ylabel("answer length,\ntokens", fontsize=9)


def _effective(axis: Any, result: Result, places: list[float]) -> None:
    """The alpha that the written weights hold, beside the one that was asked for."""
    values = [one.effective.get("alpha") if one.point else 0.0 for one in result.figures]
    _line(axis, places, values)
    axis.plot(sorted(places), sorted(places), color=_GREY, linewidth=1, linestyle="--", zorder=1)
    axis.set_ylabel("effective\nalpha", fontsize=9)


def _cosine(axis: Any, result: Result, places: list[float]) -> None:
    _line(axis, places, [one.effective.get("cosine") for one in result.figures])
    axis.set_ylabel("cosine with\nthe exact change", fontsize=9)
