"""Models that do not fit here, and several processes: is memory constant, is the time what bytes and floor say?

`sparse`: two checkpoints in the shape of Llama-3.1-70B whose tensors are holes, beside two of Llama-3.2-1B. They are
planned, and extrapolated into a sink that discards; the floor reads the same bytes on the same threads and computes
nothing. `ranks`: one rank with one thread beside two ranks under torchrun, on a real pair of make_checkpoints.py.
Prints a table on stderr and one JSON line on stdout.
"""

import argparse
import datetime
import filecmp
import json
import shutil
import sys
import tempfile
from pathlib import Path

from bars import Bar, Results, judge_all, print_table
from measure import ChildFailed, filesystem, keep, machine, run_child, versions, warm

HERE = Path(__file__).resolve().parent
PARTS = ("sparse", "ranks")
BARS = [
    Bar("70b, sparse: plan, s", "plan_70b.wall_s", at_most=2.0),
    Bar("70b / 1b: peak RSS", "discard_70b.peak_rss_mib", "discard_1b.peak_rss_mib", at_most=1.1),
    Bar("70b: seconds / floor's for its bytes", "discard_70b.seconds", "floor_70b.seconds", at_most=1.8),
    Bar("1b: seconds / floor's for its bytes", "discard_1b.seconds", "floor_1b.seconds"),
    Bar("one rank, one thread / two ranks", "one_rank.seconds", "two_ranks.seconds", at_least=1.6),
    Bar("the same, whole processes", "one_rank.wall_s", "two_ranks.wall_s"),
]


def sparse_pair(folder: Path, shape: str, layers: int | None, shards: int) -> list[Path]:
    """Make a pair of this shape without data, where it is not there yet."""
    name = f"{shape}-{layers or 'all'}"
    pair = [folder / name / role for role in ("sft", "dpo-0")]
    if not all((one / "model.safetensors.index.json").exists() for one in pair):
        shutil.rmtree(folder / name, ignore_errors=True)
        words = ["--shape", shape, "--deltas", "0", "--sparse", "--shards", str(shards)]
        words += ["--layers", str(layers)] if layers else []
        run_child([sys.executable, str(HERE / "make_checkpoints.py"), str(folder / name), *words], 1)
    return pair


def measure(results: Results, name: str, number: int, command: list, threads: int) -> None:
    """Run one contender once; its peak RSS is that of all its processes where it says so."""
    try:
        child = run_child([str(word) for word in command], threads)
    except ChildFailed as error:
        results.failed[name] = str(error)
        print(f"{number + 1}  {name:20}failed: {error}", file=sys.stderr)
        return
    said = child.report()
    metrics = {"wall_s": child.wall_s, "cpu_s": child.cpu_s, "peak_rss_mib": child.peak_rss_mib} | said
    metrics["peak_rss_mib"] = said.get("all_rss_mib") or metrics["peak_rss_mib"]
    moved = said.get("n_bytes_read", 0) + said.get("n_bytes_written", 0)
    if moved and said.get("seconds"):
        metrics["gb_per_s"] = moved / said["seconds"] / 1e9
    results.add(name, ("scale", number), metrics)
    print(f"{number + 1}  {name:20}{child.wall_s:8.2f} s", file=sys.stderr)


def run_sparse(args: argparse.Namespace, results: Results) -> dict:
    """Plan, floor and discarding run on both shapes; says what the larger one was."""
    pairs = {
        "1b": sparse_pair(args.sparse, args.small, None, 1),
        "70b": sparse_pair(args.sparse, args.large, args.layers, 30),
    }
    contenders = HERE / "contenders"
    for number in range(args.rounds):
        for size in ("1b", "70b") if number % 2 == 0 else ("70b", "1b"):
            sft, dpo = pairs[size]
            threads = ["--threads", args.threads]
            plan = [sys.executable, "-m", "expo", "plan", "--sft", sft, "--dpo", dpo, "--json", *threads]
            measure(results, f"plan_{size}", number, plan, args.threads)
            floor = [sys.executable, contenders / "floor.py", sft, dpo, *threads]
            measure(results, f"floor_{size}", number, floor, args.threads)
            discard = [sys.executable, contenders / "expo_discard.py", sft, dpo, *threads]
            measure(results, f"discard_{size}", number, discard, args.threads)
    n_bytes = {size: sum(p.stat().st_size for p in pair[1].glob("*.safetensors")) for size, pair in pairs.items()}
    return {"shapes": {"1b": args.small, "70b": args.large}, "layers": args.layers or "all", "n_bytes": n_bytes}


def run_ranks(args: argparse.Namespace, results: Results) -> dict:
    """One rank and two, alternating; the first outputs are compared byte by byte."""
    pair = [(args.work / name).resolve() for name in ("sft", f"dpo-{args.delta}")]
    files = [path for folder in pair for path in folder.glob("*.safetensors")]
    words = ["extrapolate", "--sft", pair[0], "--dpo", pair[1], "--threads", 1, "--json", "-o"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "expo"]
    commands = {"one_rank": [sys.executable, "-m", "expo", *words], "two_ranks": [*launch, *words]}
    same = None
    with tempfile.TemporaryDirectory(prefix="expo-scale-", dir=args.out) as scratch:
        for number in range(args.rounds):
            for name in list(commands)[:: -1 if number % 2 else 1]:
                warm(files)
                measure(results, name, number, [*commands[name], Path(scratch) / name], 1)
            outputs = [Path(scratch) / name for name in commands]
            if same is None and all(output.is_dir() for output in outputs):
                names = sorted(path.name for path in outputs[0].iterdir())
                equal, *_ = filecmp.cmpfiles(*outputs, names, shallow=False)
                same = sorted(equal) == names == sorted(path.name for path in outputs[1].iterdir())
            for output in outputs:
                shutil.rmtree(output, ignore_errors=True)
    if same is False:
        results.failed["two_ranks"] = "other bytes than one rank's"
    return {"pair": pair[1].parent.name, "same_bytes": same, "output_on": filesystem(args.out)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sparse", type=Path, required=True, help="folder for the sparse pairs; some megabytes")
    parser.add_argument("--work", type=Path, help="folder that make_checkpoints.py wrote, for the ranks")
    parser.add_argument("--delta", default="1e-2", help="which of its deltas to extrapolate")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--small", default="llama-3.2-1b", help="a shape of make_checkpoints.py")
    parser.add_argument("--large", default="llama-3.1-70b", help="another")
    parser.add_argument("--layers", type=int, help="of the larger shape; fewer are sooner done, and are said to be")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("/dev/shm"), help="RAM-backed folder for the ranks' outputs")
    parser.add_argument("--save", action="store_true", help="keep the line in results/scale-YYYY-MM-DD.json")
    args = parser.parse_args()
    if "ranks" in args.parts and not args.work:
        sys.exit("the ranks need --work, which make_checkpoints.py wrote; or leave them out: --parts sparse")
    around = {"machine": machine(), "versions": versions(("expo", "torch", "safetensors"))}
    if (load := around["machine"]["load_before"]) > 0.5:
        print(f"other work runs here (load {load}): no ratio of this run is evidence", file=sys.stderr)
    results = Results()
    runs = {"sparse": run_sparse, "ranks": run_ranks}
    inputs = {part: runs[part](args, results) for part in args.parts}
    verdicts = judge_all(results, BARS)
    asked = {"threads": args.threads, "rounds": args.rounds}
    figures = {"bars": verdicts, "contenders": results.by_contender(), "failed": results.failed}
    today = datetime.date.today().isoformat()
    line = {"benchmark": "scale", "date": today, **around, "inputs": inputs, **asked, **figures}
    print_table(results, verdicts)
    print(json.dumps(line))
    if args.save:
        keep("scale", line)
    sys.exit(1 if results.failed else 0)


if __name__ == "__main__":
    main()
