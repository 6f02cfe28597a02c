"""Decoding speed of k experts against one of them on SmolLM2-135M: same prompts, same number of tokens, alternating.

k forward passes a token bound the rate at 1/k of one expert's; the bar is 0.8/k, so that mixing and bookkeeping may
take a fifth. Wall times decide; processor times are told too, as they suffer less from neighbours. Prints a table on
stderr and one JSON line on stdout; exit 1 where the bar is missed.
"""

import argparse
import datetime
import json
import random
import statistics
import sys
from pathlib import Path

from measure import ChildFailed, keep, machine, run_child, spread, versions
from train import story

HERE = Path(__file__).resolve().parent
PACKAGES = ("expo", "torch", "transformers")
BAR = 0.8


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for SmolLM2 (made there once) and the prompts")
    parser.add_argument("--experts", type=int, nargs="+", default=[2, 3], help="sizes of the ensembles")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="prompts that are decoded together")
    parser.add_argument("--tokens", type=int, default=48, help="of each answer, exactly")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="keep the result in results/ensemble-YYYY-MM-DD.json")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    described = {"machine": machine(), "versions": versions(PACKAGES)}
    try:
        if not (args.work / "smollm2" / "config.json").exists():
            run_child([sys.executable, str(HERE / "make_smollm.py"), str(args.work / "smollm2")], args.threads)
        found = [
            judged(batch, how, run(args, batch, temperature), args)
            for batch in args.batches
            for how, temperature in (("greedy", 0.0), ("drawn", 1.0))
        ]
    except ChildFailed as error:
        sys.exit(f"a contender failed: {error}")
    held = all(one["holds"] for part in found for one in part["ensembles"].values())
    how = {"model": "SmolLM2-135M", "dtype": "float32", "tokens": args.tokens, "threads": args.threads}
    line = {"benchmark": "decoding", "date": datetime.date.today().isoformat(), **described, **how, "bar": BAR}
    line |= {"holds": held, "settings": found}
    show(line)
    if args.save:
        keep("ensemble", line)
    print(json.dumps(line))
    sys.exit(0 if held else 1)


def run(args: argparse.Namespace, batch: int, temperature: float) -> dict:
    """Seconds of every round for one expert and each ensemble."""
    rng = random.Random(0)
    rows = args.work / f"prompts-{batch}.jsonl"
    rows.write_text("".join(json.dumps({"id": n, "prompt": story(rng)[0]}) + "\n" for n in range(batch)))
    told = [args.work / "smollm2", rows, [1, *args.experts], args.rounds, args.tokens, temperature]
    return run_child([sys.executable, str(HERE / "contenders/decode_expo.py"), *map(str, told)], args.threads).report()


def judged(batch: int, how: str, report: dict, args: argparse.Namespace) -> dict:
    """k times the rate of k experts over one's, in every round: at best 1."""
    one, one_cpu = report["seconds"]["1"], report["cpu_seconds"]["1"]
    made = {"prompts": batch, "sampling": how, "device": report["device"]}
    made |= {"one_expert_tokens_per_second": spread([report["tokens"] / seconds for seconds in one]), "ensembles": {}}
    for k in args.experts:
        several = report["seconds"][str(k)]
        shares = [k * alone / together for alone, together in zip(one, several, strict=True)]
        pairs = zip(one_cpu, report["cpu_seconds"][str(k)], strict=True)
        made["ensembles"][str(k)] = {
            "tokens_per_second": spread([report["tokens"] / seconds for seconds in several]),
            "k_times_its_rate_over_one_expert_s": spread(shares),
            "the_same_of_cpu_seconds": spread([k * alone / together for alone, together in pairs]),
            "holds": statistics.median(shares) >= BAR,
        }
    return made


def show(line: dict) -> None:
    """The table on stderr."""
    print(f"{'prompts':>8}{'sampling':>10}{'experts':>9}{'tokens/s':>10}{'k x rate / one':>24}", file=sys.stderr)
    for part in line["settings"]:
        first = f"{part['prompts']:>8}{part['sampling']:>10}"
        print(f"{first}{1:>9}{part['one_expert_tokens_per_second']['median']:>10.1f}", file=sys.stderr)
        for k, one in part["ensembles"].items():
            share = one["k_times_its_rate_over_one_expert_s"]
            told = f"{share['median']:.3f} ({share['min']:.3f}-{share['max']:.3f})"
            print(f"{first}{k:>9}{one['tokens_per_second']['median']:>10.1f}{told:>24}", file=sys.stderr)


if __name__ == "__main__":
    main()
