"""Measures `expo search` over 8 alphas on SmolLM2-135M beside what it cannot do without: loading once, scoring 8 times.

A pair in bfloat16 (the second model is the first with a small step in every weight), scored by `loss`, in float32 on
the CPU. Contenders alternate, each a process of its own with its wall and CPU time and its peak RSS: the scoring
alone, the search, and the search with both inputs held in memory. Ratios are taken round by round, then the median;
on a busy machine the ratio of CPU times is the sounder one. A table goes to stderr, one JSON line to stdout, and with
--save into results/search-YYYY-MM-DD.json.
"""

import argparse
import datetime
import json
import statistics
import sys
import tempfile
from pathlib import Path

from measure import ChildFailed, keep, machine, run_child, spread, versions
from train import write_rows

HERE = Path(__file__).resolve().parent
PACKAGES = ("expo", "torch", "transformers")
ALPHAS = "0:0.7:0.1"  # 8 alphas; 0 is the baseline
N_ALPHAS = 8
MOST_TIME, MOST_MEMORY = 1.1, 1.15  # what was aimed for
SEARCHES = ("search", "resident")  # with the inputs on the disk, or held in memory


def main() -> None:
    args = parsed()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    described = {"date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions(PACKAGES)}
    try:
        pair = models(args)
        data = write_rows(args.work, args.examples)["sft"]
        found = rounds(args, pair, data)
    except ChildFailed as error:
        sys.exit(f"a contender failed: {error}")
    how = {name: getattr(args, name) for name in ("examples", "rounds", "threads")}
    line = {"benchmark": "search", "model": "SmolLM2-135M, bfloat16", "alphas": ALPHAS, **how, **described}
    line |= judged(found)
    if args.save:
        keep("search", line)
    print(json.dumps(line))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the pair (made there once) and the rows")
    parser.add_argument("--examples", type=int, default=32, help="of 60 to 200 tokens, scored for each alpha")
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="keep the result in results/search-YYYY-MM-DD.json")
    return parser.parse_args()


def models(args: argparse.Namespace) -> list[str]:
    """The folders of the pair."""
    pair = [args.work / "smollm2-bfloat16", args.work / "smollm2-step"]
    scripts = {pair[0]: ("make_smollm.py", pair[0], "bfloat16"), pair[1]: ("make_pair.py", *pair)}
    for folder, (script, *told) in scripts.items():
        if not (folder / "config.json").exists():
            run_child([sys.executable, str(HERE / script), *map(str, told)], args.threads)
    return list(map(str, pair))


def rounds(args: argparse.Namespace, pair: list[str], data: Path) -> dict[str, list[dict]]:
    """contender -> one record a round."""
    names = ["alone", *args.searches]
    found: dict[str, list[dict]] = {name: [] for name in names}
    for turn in range(args.rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            record = once(name, args, pair, data)
            found[name].append(record)
            told = f"{record['wall_s']:.1f} s, CPU {record['cpu_s']:.1f} s, {record['peak_rss_mib']:,.0f} MiB"
            print(f"round {turn + 1} {name}: {told}", file=sys.stderr, flush=True)
    return found


def once(name: str, args: argparse.Namespace, pair: list[str], data: Path) -> dict:
    """One contender in a process of its own."""
    with tempfile.TemporaryDirectory() as report:
        if name == "alone":
            script, told = "score_alone.py", [pair[1], str(data), str(N_ALPHAS)]
        else:
            script, told = "search_expo.py", [*pair, str(data), ALPHAS, report, *(["resident"] * (name == "resident"))]
        child = run_child([sys.executable, str(HERE / "contenders" / script), *told], args.threads)
    own = child.report()
    return own | {"wall_s": child.wall_s, "cpu_s": child.cpu_s, "peak_rss_mib": child.peak_rss_mib}


def judged(found: dict[str, list[dict]]) -> dict:
    """Times, memory and ratios of the searches, and what was written for tries."""
    alone = found["alone"]
    out: dict = {"alone": summed(alone) | {"load_seconds": spread([one["load_seconds"] for one in alone])}}
    for name, records in list(found.items())[1:]:
        times = {
            key: float(f"{statistics.median(a[key] / b[key] for a, b in zip(records, alone, strict=True)):.4g}")
            for key in ("wall_s", "cpu_s", "peak_rss_mib")
        }
        for one, other in zip(records, alone, strict=True):
            assert abs(one["scores"][0] - other["scores"][0]) < 1e-6, "alpha 0 is not the model that was scored alone"
        out[name] = summed(records) | {
            "times_the_wall_of_alone": times["wall_s"],
            "times_the_cpu_of_alone": times["cpu_s"],
            "times_the_memory_of_alone": times["peak_rss_mib"],
            "fill_seconds_of_8": spread([one["fill_seconds"] for one in records]),
            "n_bytes_read": records[0]["n_bytes_read"],
            "n_bytes_written": records[0]["bytes_written"],
            "n_bytes_of_report": records[0]["bytes_of_report"],
            # Of every write call, pipes and thread names included; a tensor would be thousands.
            "n_bytes_written_beside_the_report": records[0]["bytes_written"] - records[0]["bytes_of_report"],
        }
    if search := out.get("search"):
        out["aimed_for"] = {
            f"wall time at most {MOST_TIME} times": search["times_the_wall_of_alone"] <= MOST_TIME,
            f"CPU time at most {MOST_TIME} times": search["times_the_cpu_of_alone"] <= MOST_TIME,
            f"memory at most {MOST_MEMORY} times": search["times_the_memory_of_alone"] <= MOST_MEMORY,
            "nothing written for tries": search["n_bytes_written_beside_the_report"] < 100,
        }
    return out


def summed(records: list[dict]) -> dict:
    return {key: spread([one[key] for one in records]) for key in ("wall_s", "cpu_s", "peak_rss_mib")}


if __name__ == "__main__":
    main()
