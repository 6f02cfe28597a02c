"""EnsemW2S on the embedded task, over several seeds and in both forms: every accuracy with its interval.

Each seed is one `expo w2s ensemble RUN` in WORK/RUN-seed-N; a seed that is done costs nothing. Tables go to stderr, one
JSON line to stdout, and with --save into results/ensemble-YYYY-MM-DD.json. The rows of merged experts ask whether one
checkpoint, merged by `expo merge`, does as well as the ensemble of the same experts.
The settings were chosen on seeds from 100 on; seed 0 was looked at on the way, and is not among the reported ones.
"""

import argparse
import datetime
import json
import statistics
import sys
from pathlib import Path

from measure import ChildFailed, keep, machine, run_child, versions

PACKAGES = ("expo", "torch", "transformers")
RUNS = ("running-sum", "running-sum-classes")


def main() -> None:
    arguments = parsed()
    before, found = machine(), {name: [] for name in arguments.runs}
    for seed in arguments.seeds:
        for name in arguments.runs:
            print(f"{name}, seed {seed} ...", file=sys.stderr, flush=True)
            found[name].append(run(name, seed, arguments.work.resolve()))
    result = {
        "benchmark": "ensemble",
        "date": datetime.date.today().isoformat(),
        "machine": before,
        "versions": versions(PACKAGES),
        "runs": {name: {"models": summary(runs), "seeds": runs} for name, runs in found.items()},
    }
    for name in arguments.runs:
        show(name, result["runs"][name])
    print(json.dumps(result))
    if arguments.save:
        keep("ensemble", result)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="Folder of the runs; 30 MB a run.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", nargs="+", default=list(RUNS), help="Names of shipped runs, or run files.")
    parser.add_argument("--save", action="store_true", help="Write the results into results/.")
    return parser.parse_args()


def run(name: str, seed: int, work: Path) -> dict:
    """One seed's report: rounds, tables, and what it cost."""
    output = work / f"{Path(name).stem}-seed-{seed}"
    words = [sys.executable, "-m", "expo", "w2s", "ensemble", name, "-o", str(output)]
    try:
        child = run_child([*words, "--set", f"seed={seed}", "--json"], threads=1)
    except ChildFailed as error:
        raise SystemExit(f"{name}, seed {seed}: {error}") from error
    report = child.report()
    cost = {"wall_s": round(child.wall_s, 1), "cpu_s": round(child.cpu_s, 1), "peak_rss_mib": round(child.peak_rss_mib)}
    kept = ("kind", "prior", "weighting", "chosen round", "stopped", "rounds", "tables")
    return {"seed": seed, **cost, **{key: report[key] for key in kept}}


def summary(runs: list[dict]) -> dict[str, list[dict]]:
    """For each part and model: accuracies and PGR of all seeds, how often it gained or lost beyond noise."""
    found = {}
    for part, table in runs[0]["tables"].items():
        rows = []
        for number, first in enumerate(table):
            same = [one["tables"][part][number] for one in runs]
            accuracies = [row["accuracy"]["value"] for row in same]
            made = {"model": first["model"], "accuracies": accuracies, "mean": statistics.fmean(accuracies)}
            gains = [row["against"]["interval"] for row in same if "against" in row]
            made |= {"above": sum(low > 0 for low, _ in gains), "below": sum(high < 0 for _, high in gains)}
            rows.append(made | {"pgr": [row.get("pgr", {}).get("value") for row in same]})
        found[part] = rows
    return found


def show(name: str, result: dict) -> None:
    """The tables of all seeds on stderr."""
    seeds = result["seeds"]
    for part, rows in result["models"].items():
        n = seeds[0]["tables"][part][0]["accuracy"]["n"]
        print(f"\n{name}, {part} (n = {n} a seed; in brackets 95 % intervals)", file=sys.stderr)
        print(f"{'accuracy, %':<40}" + "".join(f"{'seed ' + str(one['seed']):>18}" for one in seeds), file=sys.stderr)
        for number, row in enumerate(rows):
            cells = []
            for one in seeds:
                found = one["tables"][part][number]["accuracy"]
                low, high = found["interval"]
                cells.append(f"{100 * found['value']:.1f} ({100 * low:.1f}-{100 * high:.1f})")
            print(f"{row['model']:<40}" + "".join(f"{cell:>18}" for cell in cells), file=sys.stderr)


if __name__ == "__main__":
    main()
