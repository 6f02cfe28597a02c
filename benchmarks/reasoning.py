"""Weak-to-Strong Reasoning on the embedded task, over several seeds: every accuracy with its interval.

Each seed is one `expo w2s reasoning running-sum` in WORK/seed-N; a seed that is done costs nothing. A table goes
to stderr, one JSON line to stdout, and with --save into results/reasoning-YYYY-MM-DD.json.
The settings were chosen on seeds from 100 on, so seeds below that are untouched by the choice.
"""

import argparse
import datetime
import json
import statistics
import sys
from pathlib import Path

from measure import ChildFailed, machine, run_child, versions

HERE = Path(__file__).resolve().parent
PACKAGES = ("expo", "torch", "transformers")


def main() -> None:
    arguments = parsed()
    runs = []
    for seed in arguments.seeds:
        print(f"seed {seed} ...", file=sys.stderr, flush=True)
        runs.append(run(seed, arguments.work.resolve()))
    result = {
        "benchmark": "reasoning",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(PACKAGES),
        "run": "running-sum",
        "models": summary(runs),
        "seeds": runs,
    }
    show(result)
    text = json.dumps(result)
    print(text)
    if arguments.save:
        path = HERE / "results" / f"reasoning-{result['date']}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="Folder of the runs; 15 MB a seed.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--save", action="store_true", help="Write the results into results/.")
    return parser.parse_args()


def run(seed: int, work: Path) -> dict:
    """One seed's report: accuracies, stages, and what it cost."""
    words = [sys.executable, "-m", "expo", "w2s", "reasoning", "running-sum", "-o", str(work / f"seed-{seed}")]
    try:
        child = run_child([*words, "--set", f"seed={seed}", "--json"], threads=1)
    except ChildFailed as error:
        raise SystemExit(f"seed {seed}: {error}") from error
    report = child.report()
    cost = {"wall_s": round(child.wall_s, 1), "cpu_s": round(child.cpu_s, 1), "peak_rss_mib": round(child.peak_rss_mib)}
    return {"seed": seed, **cost, "table": report["tables"]["weak"], "stages": report["stages"]}


def summary(runs: list[dict]) -> list[dict]:
    """For each tested model: accuracies and PGR of all seeds, and how often it beat the naive model beyond noise."""
    rows = []
    for number, first in enumerate(runs[0]["table"]):
        found = [one["table"][number] for one in runs]
        accuracies = [row["accuracy"]["value"] for row in found]
        gains = [row["against naive"] for row in found if "against naive" in row]
        made = {"model": first["model"], "accuracies": accuracies, "mean": statistics.fmean(accuracies)}
        made["pgr"] = [row.get("pgr", {}).get("value") for row in found]
        made["above naive"] = sum(gain["interval"][0] > 0 for gain in gains)
        made["below naive"] = sum(gain["interval"][1] < 0 for gain in gains)
        rows.append(made)
    return rows


def show(result: dict) -> None:
    """The table of all seeds on stderr."""
    seeds = [one["seed"] for one in result["seeds"]]
    print(f"{'accuracy, %':<32}" + "".join(f"{f'seed {seed}':>18}" for seed in seeds), file=sys.stderr)
    for number, row in enumerate(result["models"]):
        cells = []
        for one in result["seeds"]:
            found = one["table"][number]["accuracy"]
            low, high = found["interval"]
            cells.append(f"{100 * found['value']:.1f} ({100 * low:.1f}-{100 * high:.1f})")
        print(f"{row['model']:<32}" + "".join(f"{cell:>18}" for cell in cells), file=sys.stderr)
    n = result["seeds"][0]["table"][0]["accuracy"]["n"]
    print(f"n = {n} questions a seed; in brackets the 95 % interval", file=sys.stderr)


if __name__ == "__main__":
    main()
