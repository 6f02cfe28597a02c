"""The promises about speed and memory, and how the rounds of one run are held against them.

Knows the names of contenders and metrics; measures nothing.
"""

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from measure import spread

METRICS = ("wall_s", "seconds", "gb_per_s", "cpu_s", "peak_rss_mib", "memory_mib", "above_torch_mib")
EVIDENCE = ("fsync_seconds", "effective_alpha", "cosine", "misrounded_percent")


@dataclass
class Results:
    """Every round of every contender, keyed by contender.metric and then by (part, round)."""

    rounds: dict[str, dict[tuple[str, int], float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, key: tuple[str, int], metrics: dict) -> None:
        for metric in (*METRICS, *EVIDENCE):
            if metrics.get(metric) is not None:
                self.rounds.setdefault(f"{name}.{metric}", {})[key] = metrics[metric]

    def compare(self, top: str, bottom: str | None) -> list[float]:
        """top / bottom of every round that has both; `top` alone where there is no bottom."""
        above, below = self.rounds.get(top, {}), self.rounds.get(bottom, {})
        return [above[key] / below[key] for key in above if key in below] if bottom else list(above.values())

    def by_contender(self) -> dict[str, dict[str, dict[str, float]]]:
        """Contender -> metric -> median, min and max."""
        table = {}
        for name, values in self.rounds.items():
            contender, metric = name.split(".")
            table.setdefault(contender, {})[metric] = spread(list(values.values()))
        return table


@dataclass(frozen=True)
class Bar:
    """One promise: `top / bottom`, or `top` alone, taken over the rounds, and the side of a limit where it must lie."""

    name: str
    top: str
    bottom: str | None = None
    at_most: float | None = None
    at_least: float | None = None
    over_rounds: Callable[[list[float]], float] = statistics.median

    def judge(self, results: Results) -> dict | None:
        """The figure and whether it holds; None where the run has no such figure. No limit, no verdict."""
        values = results.compare(self.top, self.bottom)
        if not values:
            return None
        value = self.over_rounds(values)
        verdict = {"name": self.name, **spread(values), "value": float(f"{value:.4g}")}
        if self.at_most is not None:
            verdict |= {"at_most": self.at_most, "holds": value <= self.at_most}
        if self.at_least is not None:
            verdict |= {"at_least": self.at_least, "holds": value >= self.at_least}
        return verdict


BARS = [
    Bar("arithmetic alone / floor", "expo_arithmetic.seconds", "floor.seconds", at_most=1.45),
    Bar("bare torch loop / floor", "bare_loop.seconds", "floor.seconds"),
    Bar("arithmetic alone / bare torch loop", "expo_arithmetic.seconds", "bare_loop.seconds"),
    Bar("default run / floor", "expo.seconds", "floor.seconds", at_most=1.8),
    Bar("stochastic / floor", "expo_stochastic.seconds", "floor.seconds", at_most=3.2),
    Bar("expo / twelve lines", "expo.wall_s", "twelve_lines.wall_s", at_most=0.55),
    Bar("expo / whole model", "expo.wall_s", "whole_model.wall_s", at_most=0.4),
    Bar("mergekit / expo", "mergekit.wall_s", "expo.wall_s", at_least=3.5),
    Bar("sd-mecha / expo", "sd_mecha.wall_s", "expo.wall_s"),
    Bar("cold: expo's rate / plain read's", "plain_read.seconds", "expo_cold.seconds", at_least=0.85),
    Bar("peak RSS, MiB", "expo.peak_rss_mib", at_most=320, over_rounds=max),
    Bar("peak RSS above `import torch`, MiB", "expo.above_torch_mib", at_most=96, over_rounds=max),
    Bar("larger set: peak RSS", "expo_larger.peak_rss_mib", "expo_smaller.peak_rss_mib", at_most=1.1),
    Bar("larger set: seconds a byte", "expo_smaller.gb_per_s", "expo_larger.gb_per_s", at_most=1.1),
    Bar("expo --help, s", "help.wall_s", at_most=0.3),
    Bar("disk: expo / twelve lines", "expo_disk.wall_s", "twelve_lines_disk.wall_s"),
]


def judge_all(results: Results, bars: Sequence[Bar] = tuple(BARS)) -> list[dict]:
    """A verdict for every bar that the run has figures for."""
    return [verdict for bar in bars if (verdict := bar.judge(results)) is not None]


def print_table(results: Results, verdicts: list[dict], file=sys.stderr) -> None:
    """Two tables for people: medians by contender, then the bars; then what failed."""
    print(f"\n{'medians':20}" + "".join(f"{metric:>17}" for metric in METRICS), file=file)
    for contender, metrics in results.by_contender().items():
        cells = (f"{metrics[m]['median']:>17.4g}" if m in metrics else f"{'':17}" for m in METRICS)
        print(f"{contender:20}" + "".join(cells), file=file)
    print(f"\n{'bars':36}{'value':>9}{'min':>9}{'max':>9}  limit", file=file)
    for verdict in verdicts:
        numbers = "".join(f"{verdict[name]:>9.3g}" for name in ("value", "min", "max"))
        side = next((name for name in ("at_most", "at_least") if name in verdict), None)
        limit = f"{side.replace('_', ' ')} {verdict[side]}: {'holds' if verdict['holds'] else 'FAILS'}" if side else ""
        print(f"{verdict['name']:36}{numbers}  {limit}", file=file)
    for contender, error in results.failed.items():
        print(f"{contender} failed: {error}", file=file)
