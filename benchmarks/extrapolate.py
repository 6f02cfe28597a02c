"""Times `expo extrapolate` beside a floor and beside what people use today: one run, alternating, medians.

Knows the contenders and what alternates with what; `measure.py` knows how to measure a process, `bars.py` what was
promised. Prints a table on stderr and one JSON line on stdout. At most one output exists at a time.
"""

import argparse
import datetime
import json
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bars import Results, judge_all, print_table
from measure import MIB, ChildFailed, cool, filesystem, machine, memory_mib, run_child, versions, warm

HERE = Path(__file__).resolve().parent
PARTS = ("streaming", "whole", "cold", "disk", "start", "larger")
PACKAGES = ("expo", "torch", "safetensors", "transformers")


@dataclass(frozen=True)
class Pair:
    """The two checkpoints of one extrapolation."""

    sft: Path
    dpo: Path

    @property
    def files(self) -> list[Path]:
        return [path for folder in (self.sft, self.dpo) for path in sorted(folder.glob("*.safetensors"))]

    @property
    def n_bytes(self) -> int:
        """Bytes of one checkpoint, and so of the output."""
        return sum(path.stat().st_size for path in self.files) // 2


@dataclass(frozen=True)
class Contender:
    """One command, what it reads and where it writes, and the state of the page cache it starts from."""

    name: str
    command: Callable[[Path], list]  # output folder -> argv
    pair: Pair | None = None
    place: Path | None = None  # the folder that receives the output
    cold: bool = False
    exact: bool = False  # whether the first output is compared with float64


@dataclass(frozen=True)
class Commands:
    """How each program is asked for the same extrapolation."""

    alpha: float
    threads: int

    def script(self, name: str, pair: Pair, *rest, python: Path | str = sys.executable) -> Callable[[Path], list]:
        return lambda out: [python, HERE / "contenders" / f"{name}.py", pair.sft, pair.dpo, out, *rest]

    def expo(self, pair: Pair, *rest) -> Callable[[Path], list]:
        head = [sys.executable, "-m", "expo", "extrapolate", "--sft", pair.sft, "--dpo", pair.dpo, "--json"]
        return lambda out: [*head, "--alpha", self.alpha, "--threads", self.threads, *rest, "-o", out]

    def plain_read(self, pair: Pair) -> Callable[[Path], list]:
        script = HERE / "contenders" / "plain_read.py"
        return lambda out: [sys.executable, script, pair.sft, pair.dpo, "--threads", self.threads]

    def mergekit(self, pair: Pair, venv: Path) -> Callable[[Path], list]:
        recipe = {
            "merge_method": "task_arithmetic",
            "base_model": str(pair.sft),
            "models": [{"model": str(pair.dpo), "parameters": {"weight": 1 + self.alpha}}],
            "dtype": "bfloat16",
        }

        def command(out: Path) -> list:
            config = out.with_suffix(".yaml")
            config.write_text(json.dumps(recipe))  # JSON is YAML
            return [venv / "bin" / "mergekit-yaml", config, out]

        return command


def build_parts(args: argparse.Namespace, pair: Pair, ram: Path, disk: Path | None) -> dict[str, list[Contender]]:
    """Part -> the contenders that alternate in it."""
    ask, threads = Commands(args.alpha, args.threads), ("--threads", args.threads)
    expo = Contender("expo", ask.expo(pair), pair, ram, exact=True)
    twelve = Contender("twelve_lines", ask.script("twelve_lines", pair, args.alpha), pair, ram, exact=True)
    bare = ask.script("bare_loop", pair, "--alpha", args.alpha, *threads)
    alone = ask.script("expo_arithmetic", pair, "--alpha", args.alpha, *threads)
    parts = {
        "streaming": [
            Contender("floor", ask.script("floor", pair, *threads), pair, ram),
            Contender("bare_loop", bare, pair, ram, exact=True),
            Contender("expo_arithmetic", alone, pair, ram, exact=True),
            expo,
            Contender("expo_stochastic", ask.expo(pair, "--rounding", "stochastic"), pair, ram),
        ],
        "whole": [
            expo,
            twelve,
            Contender("whole_model", ask.script("whole_model", pair, args.alpha), pair, ram, exact=True),
        ],
        "cold": [
            Contender("plain_read", ask.plain_read(pair), pair, cold=True),
            Contender("expo_cold", ask.expo(pair), pair, ram, cold=True),
        ],
        "start": [
            Contender("import_torch", lambda _: [sys.executable, "-c", "import torch"]),
            Contender("help", lambda _: [sys.executable, "-m", "expo", "--help"]),
        ],
    }
    if args.mergekit:
        parts["whole"].append(Contender("mergekit", ask.mergekit(pair, args.mergekit), pair, ram, exact=True))
    if args.sd_mecha:
        mecha = ask.script("mecha", pair, args.alpha, python=args.sd_mecha / "bin" / "python")
        parts["whole"].append(Contender("sd_mecha", mecha, pair, ram, exact=True))
    if disk:
        parts["disk"] = [Contender(f"{c.name}_disk", c.command, pair, disk) for c in (expo, twelve)]
    if args.larger:
        parts["larger"] = list(build_larger(ask, pair, open_pair(args.larger, args.delta), ram, disk))
    return {part: parts[part] for part in args.parts if part in parts}


def build_larger(ask: Commands, pair: Pair, larger: Pair, ram: Path, disk: Path | None) -> Iterator[Contender]:
    """Both sets under one condition: in memory if the larger one fits there, else cold and onto the disk."""
    fits = room_mib(larger) < memory_mib("MemAvailable")
    if not fits and not disk:
        sys.exit(f"--larger needs {room_mib(larger)} MiB of memory, or --disk")
    for name, each in (("expo_smaller", pair), ("expo_larger", larger)):
        yield Contender(name, ask.expo(each), each, ram if fits else disk, cold=not fits)


def room_mib(pair: Pair) -> int:
    """Memory that two cached inputs and an output take, and a margin for the processes."""
    return 3 * pair.n_bytes // MIB + 1024


def run_once(contender: Contender, key: tuple[str, int], args: argparse.Namespace, results: Results) -> None:
    """Measure one contender once, check its first output, and remove it."""
    files = contender.pair.files if contender.pair else []
    (cool if contender.cold else warm)(files)
    out = (contender.place or Path()) / "out"
    try:
        child = run_child([str(word) for word in contender.command(out)], args.threads)
        metrics = child.report() | {name: getattr(child, name) for name in ("wall_s", "cpu_s", "peak_rss_mib")}
        if "seconds" in metrics:
            n_bytes = contender.pair.n_bytes * (3 if contender.place else 2)
            metrics["gb_per_s"] = n_bytes / metrics["seconds"] / 1e9
        if contender.exact and f"{contender.name}.misrounded_percent" not in results.rounds:
            check = Commands(args.alpha, args.threads).script("misrounded", contender.pair, args.alpha)
            metrics |= run_child([str(word) for word in check(out)], args.threads).report()
        results.add(contender.name, key, metrics)
        print(f"{key[0]} {key[1] + 1}/{args.rounds}  {contender.name:20}{child.wall_s:8.2f} s", file=sys.stderr)
    except ChildFailed as error:
        results.failed[contender.name] = str(error)
        print(f"{key[0]} {key[1] + 1}/{args.rounds}  {contender.name:20}failed: {error}", file=sys.stderr)
    finally:
        if contender.place:
            empty(contender.place)


def empty(folder: Path) -> None:
    """Remove everything in a folder, a failed run's `.partial` too."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def run_parts(parts: dict[str, list[Contender]], args: argparse.Namespace) -> Results:
    """All rounds of all parts; every second round runs backwards, so that no contender always follows another."""
    results = Results()
    for part, group in parts.items():
        for i in range(args.rounds):
            for contender in group[:: -1 if i % 2 else 1]:
                if contender.name not in results.failed:
                    run_once(contender, (part, i), args, results)
    if torch_mib := results.compare("import_torch.peak_rss_mib", None):
        for key, peak_mib in results.rounds.get("expo.peak_rss_mib", {}).items():
            results.add("expo", key, {"above_torch_mib": peak_mib - statistics.median(torch_mib)})
    return results


def open_pair(work: Path, delta: str) -> Pair:
    """The pair that make_checkpoints.py wrote; ends the program where it is unfinished."""
    pair = Pair((work / "sft").resolve(), (work / f"dpo-{delta}").resolve())
    for folder in (pair.sft, pair.dpo):
        if not (folder / "model.safetensors.index.json").exists():
            sys.exit(f"{folder} is no finished checkpoint: python benchmarks/make_checkpoints.py {work}")
    return pair


def describe(args: argparse.Namespace, pair: Pair, ram: Path, disk: Path | None) -> dict:
    """What the figures depend on: the machine, the versions, the inputs, where the outputs went."""
    peers = {"mergekit": args.mergekit, "sd-mecha": args.sd_mecha}
    installed = versions(PACKAGES)
    for package, venv in peers.items():
        if venv:
            ask = [str(venv / "bin" / "python"), "-c", f"import importlib.metadata as m; print(m.version({package!r}))"]
            installed[package] = run_child(ask, args.threads).stdout.strip()
    index = json.loads((pair.dpo / "model.safetensors.index.json").read_text())
    inputs = {"n_bytes": pair.n_bytes, "n_tensors": len(index["weight_map"]), "n_shards": len(pair.files) // 2}
    places = {"inputs_on": filesystem(pair.sft), "output_on": filesystem(ram)}
    if disk:
        places["disk"] = filesystem(disk)
    asked = {"alpha": args.alpha, "delta": args.delta, "threads": args.threads, "rounds": args.rounds}
    return {"machine": machine(), "versions": installed, "inputs": inputs, **places, **asked}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder that make_checkpoints.py wrote")
    parser.add_argument("--delta", default="1e-2", help="which of its deltas to extrapolate")
    parser.add_argument("--larger", type=Path, help="a set several times the size, for memory and time in proportion")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alpha", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("/dev/shm"), help="RAM-backed folder for outputs")
    parser.add_argument("--disk", type=Path, help="folder on a disk, for the figures that are reported and not gated")
    parser.add_argument("--mergekit", type=Path, metavar="VENV", help="environment that holds mergekit 0.1.5")
    parser.add_argument("--sd-mecha", type=Path, metavar="VENV", help="environment that holds sd-mecha")
    parser.add_argument("--save", action="store_true", help="keep the line in results/engine-YYYY-MM-DD.json")
    return parser.parse_args()


def main() -> None:
    args = parse()
    pair = open_pair(args.work, args.delta)
    if room_mib(pair) > memory_mib("MemAvailable"):
        sys.exit(f"inputs and output take {room_mib(pair)} MiB of memory: free some, or make a smaller set")
    # Without this a SIGTERM would leave an output behind in memory.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    with ExitStack() as stack:
        ram, disk = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="expo-benchmark-", dir=folder)))
            if folder
            else None
            for folder in (args.out, args.disk)
        )
        around = describe(args, pair, ram, disk)
        if (load := around["machine"]["load_before"]) > 0.5:
            print(f"other work runs here (load {load}): no ratio of this run is evidence", file=sys.stderr)
        results = run_parts(build_parts(args, pair, ram, disk), args)
    verdicts = judge_all(results)
    today = datetime.date.today().isoformat()
    figures = {"bars": verdicts, "contenders": results.by_contender(), "failed": results.failed}
    line = json.dumps({"benchmark": "extrapolate", "date": today, **around, **figures})
    print_table(results, verdicts)
    print(line)
    if args.save:
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / f"engine-{today}.json").write_text(line + "\n")
    sys.exit(1 if results.failed else 0)


if __name__ == "__main__":
    main()
