"""Times expo's SFT and DPO beside TRL's on SmolLM2-135M: same rows, batch, optimizer and precision, alternating.

Every step takes the same rows, so that the losses can be compared too. Each contender is a process of its own; the
first step is left out of the rate. Prints a table on stderr and one JSON line on stdout.
"""

import argparse
import datetime
import json
import random
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from measure import ChildFailed, machine, run_child, spread, versions

HERE = Path(__file__).resolve().parent
CONTENDERS = HERE / "contenders"
PACKAGES = ("expo", "torch", "transformers", "accelerate", "trl")
THEIRS = {"sft": ("sft",), "dpo": ("dpo", "dpo-precomputed")}  # TRL with a second model, and with cached references
NAMES = ("Ann", "Bob", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hana")


def story(rng: random.Random) -> tuple[str, str]:
    """A question with its worked answer, of 60 to 200 tokens."""
    name, n = rng.choice(NAMES), rng.randint(3, 9)
    counts = [rng.randint(2, 40) for _ in range(n)]
    days = "; ".join(f"on day {i} {name} picks {count} apples" for i, count in enumerate(counts, start=1))
    lines, total = [], 0
    for i, count in enumerate(counts, start=1):
        lines.append(f"After day {i} there are {total} + {count} = {total + count} apples.")
        total += count
    return f"Question: {days}. How many apples are there in the end?\nAnswer:", " " + " ".join(
        [*lines, f"#### {total}"]
    )


def write_rows(work: Path, n: int) -> dict[str, Path]:
    """The rows of both trainers as JSONL; the rejected side is the answer to another question."""
    rng = random.Random(0)
    stories = [story(rng) for _ in range(n)]
    sft = [{"prompt": prompt, "completion": answer} for prompt, answer in stories]
    dpo = [{"prompt": p, "chosen": a, "rejected": stories[i - 1][1]} for i, (p, a) in enumerate(stories)]
    found = {}
    for kind, rows in (("sft", sft), ("dpo", dpo)):
        found[kind] = work / f"{kind}.jsonl"
        found[kind].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found


def run_once(script: str, kind: str, rows: Path, args: argparse.Namespace, out: Path) -> dict:
    """One process from start to saved model; the time of its steps, in all, and its peak memory."""
    output = out / "model"
    lr = "1e-5" if kind == "sft" else "5e-7"
    told = [kind, args.work / "smollm2", rows, output, args.batch, args.steps, args.precision, lr]
    try:
        child = run_child([sys.executable, str(CONTENDERS / script), *map(str, told)], args.threads)
    finally:
        for path in out.iterdir():
            shutil.rmtree(path, ignore_errors=True)
    return child.report() | {"peak_rss_mib": child.peak_rss_mib}


def run_rounds(kind: str, rows: Path, args: argparse.Namespace) -> dict[str, list[dict]]:
    """name -> one record a round; contenders alternate."""
    plan = [("expo", "train_expo.py", kind), *((f"trl {name}", "train_trl.py", name) for name in THEIRS[kind])]
    found: dict[str, list[dict]] = {name: [] for name, *_ in plan}
    with tempfile.TemporaryDirectory(dir=args.out) as out:
        for turn in range(args.rounds):
            for name, script, what in plan[turn % len(plan) :] + plan[: turn % len(plan)]:
                record = run_once(script, what, rows, args, Path(out))
                found[name].append(record)
                seconds, peak = record["seconds_of_steps"], record["peak_rss_mib"]
                print(f"{kind} round {turn + 1} {name}: {seconds:.1f} s, {peak:,.0f} MiB", file=sys.stderr)
    return found


def judged(found: dict[str, list[dict]]) -> dict:
    """Rates, memory, and how far the losses are apart."""
    tokens = found["expo"][0]["tokens_of_steps"]
    out: dict = {}
    for name, records in found.items():
        rates = [tokens / record["seconds_of_steps"] for record in records]
        memory = "peak_device_mib" if records[0]["peak_device_mib"] else "peak_rss_mib"
        out[name] = {
            "tokens_per_second": spread(rates),
            "seconds_in_all": spread([record["seconds_in_all"] for record in records]),
            memory: spread([record[memory] for record in records]),
        }
        if name != "expo":
            pairs = list(zip(found["expo"], records, strict=True))
            faster = [theirs["seconds_of_steps"] / ours["seconds_of_steps"] for ours, theirs in pairs]
            larger = [ours[memory] / theirs[memory] for ours, theirs in pairs]
            losses = zip(found["expo"][0]["losses"], records[0]["losses"], strict=True)
            out[name] |= {
                "expo_is_times_as_fast": float(f"{statistics.median(faster):.4g}"),
                "expo_takes_times_the_memory": float(f"{statistics.median(larger):.4g}"),
                "first_losses_differ_by": abs(found["expo"][0]["losses"][0] - records[0]["losses"][0]),
                "losses_differ_by": max(abs(ours - theirs) for ours, theirs in losses),
            }
    return out | {"tokens": tokens}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for SmolLM2 (made there once) and the rows")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4, help="of each run; the first is not timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--kinds", nargs="+", choices=["sft", "dpo"], default=["sft", "dpo"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("/dev/shm"), help="folder for outputs, one at a time")
    parser.add_argument("--save", action="store_true", help="keep the result in results/reasoning-YYYY-MM-DD.json")
    return parser.parse_args()


def main() -> None:
    args = parse()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    described = {"machine": machine(), "versions": versions(PACKAGES)}
    if not (args.work / "smollm2" / "config.json").exists():
        run_child([sys.executable, str(HERE / "make_smollm.py"), str(args.work / "smollm2")], args.threads)
    rows = write_rows(args.work, args.batch)
    try:
        found = {kind: judged(run_rounds(kind, rows[kind], args)) for kind in args.kinds}
    except ChildFailed as error:
        sys.exit(f"a contender failed: {error}")
    how = {name: getattr(args, name) for name in ("batch", "steps", "rounds", "precision", "threads")}
    result = {"benchmark": "train", "model": "SmolLM2-135M", **how, **described, **found}
    if args.save:
        save(result)
    print(json.dumps(result))


def save(result: dict) -> None:
    """Put the result beside what else was measured on that day."""
    path = HERE / "results" / f"reasoning-{datetime.date.today()}.json"
    held = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(held | {f"train-{result['precision']}": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
