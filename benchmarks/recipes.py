"""Times `expo merge` beside mergekit's `mergekit-yaml` on the same recipe files, and passthrough beside `cp`.

Every contender is a whole process, imports included; they alternate, and ratios are taken round by round. Prints a
table on stderr and one JSON line on stdout. At most one output exists at a time.
"""

import argparse
import datetime
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bars import Bar, Results, judge_all, print_table
from measure import MIB, ChildFailed, filesystem, keep, machine, memory_mib, run_child, versions, warm

PACKAGES = ("expo", "torch", "safetensors")
TIMES = {"linear": 3.5, "model_stock": 4, "slerp": 6, "dare_ties": 10, "ties": 15}  # faster than mergekit, as promised
RARE = ("task_arithmetic", "nuslerp", "breadcrumbs", "della", "sce", "multislerp", "karcher")  # measured when asked for
PEAK_MIB = 400
BASE, FIRST, SECOND = "sft", "dpo-5e-3", "dpo-1e-2"


def recipes(work: Path) -> dict[str, dict]:
    """Name -> the recipe that both programs read, on the set that make_checkpoints.py wrote."""
    base, first, second = (str(work / name) for name in (BASE, FIRST, SECOND))

    def recipe(
        method: str, *own: dict, models: tuple[str, ...] = (first, second), based: bool = True, **shared
    ) -> dict:
        own = own or ({},) * len(models)
        entries = [{"model": model, "parameters": given} for model, given in zip(models, own, strict=True)]
        found = {"merge_method": method, "models": entries, "parameters": shared, "dtype": "bfloat16"}
        return found | ({"base_model": base} if based else {})

    weights = {"weight": 0.6}, {"weight": 0.4}
    sparse = {"weight": 0.6, "density": 0.5}, {"weight": 0.4, "density": 0.7}
    return {
        "linear": recipe("linear", *weights, based=False),
        "model_stock": recipe("model_stock"),
        "slerp": recipe("slerp", models=(base, second), t=0.4),
        "dare_ties": recipe("dare_ties", *sparse),
        "ties": recipe("ties", *sparse),
        "passthrough": recipe("passthrough", models=(second,), based=False),
        "task_arithmetic": recipe("task_arithmetic", *weights),
        "nuslerp": recipe("nuslerp", *weights, based=False),
        "breadcrumbs": recipe("breadcrumbs", *sparse),
        "della": recipe("della", *({**given, "epsilon": 0.1} for given in sparse)),
        "sce": recipe("sce", select_topk=0.5),
        "multislerp": recipe("multislerp", *weights, based=False),
        "karcher": recipe("karcher", based=False),
    }


@dataclass(frozen=True)
class Contender:
    """One command and the files it reads; OUTPUT in the command is replaced by the folder to write."""

    name: str
    command: tuple[str, ...]
    reads: tuple[Path, ...]


def contenders(args: argparse.Namespace, folder: Path) -> Iterator[list[Contender]]:
    """For each recipe those that alternate: expo, and what it is measured against."""
    for name, recipe in recipes(args.work).items():
        if name not in args.recipes:
            continue
        config = folder / f"{name}.yaml"
        config.write_text(json.dumps(recipe))  # JSON is YAML
        named = [entry["model"] for entry in recipe["models"]] + [
            recipe.get("base_model", recipe["models"][0]["model"])
        ]
        reads = tuple(path for model in dict.fromkeys(named) for path in sorted(Path(model).glob("*.safetensors")))
        ours = (
            sys.executable,
            "-m",
            "expo",
            "merge",
            str(config),
            "-o",
            "OUTPUT",
            "--threads",
            str(args.threads),
            "--json",
        )
        group = [Contender(f"expo_{name}", ours, reads)]
        if name == "passthrough":
            group.append(Contender("cp", ("cp", "-r", recipe["models"][0]["model"], "OUTPUT"), reads))
        if args.mergekit and name != "passthrough":
            theirs = (str(args.mergekit / "bin" / "mergekit-yaml"), str(config), "OUTPUT")
            group.append(Contender(f"mergekit_{name}", theirs, reads))
        yield group


def promises() -> list[Bar]:
    """How many times faster, passthrough beside cp, and the memory."""
    found = []
    for name in (*TIMES, *RARE):
        ours, theirs = f"expo_{name}", f"mergekit_{name}"
        found.append(Bar(f"{name}: mergekit / expo", f"{theirs}.wall_s", f"{ours}.wall_s", at_least=TIMES.get(name)))
        found.append(Bar(f"{name}: peak RSS, MiB", f"{ours}.peak_rss_mib", at_most=PEAK_MIB, over_rounds=max))
    found += [
        Bar("passthrough / cp", "expo_passthrough.wall_s", "cp.wall_s", at_most=1.1),
        Bar("passthrough's own seconds / cp", "expo_passthrough.seconds", "cp.wall_s"),  # without start and imports
        Bar("passthrough: peak RSS, MiB", "expo_passthrough.peak_rss_mib", at_most=PEAK_MIB, over_rounds=max),
    ]
    return found


def run_once(contender: Contender, key: tuple[str, int], args: argparse.Namespace, out: Path, results: Results) -> None:
    """Measure one contender once from a warm page cache, and remove what it wrote."""
    warm(contender.reads)
    try:
        command = [str(out / "merged") if word == "OUTPUT" else word for word in contender.command]
        child = run_child(command, args.threads)
        metrics = {name: getattr(child, name) for name in ("wall_s", "cpu_s", "peak_rss_mib")}
        results.add(contender.name, key, child.report() | metrics)
        print(f"{key[1] + 1}/{args.rounds}  {contender.name:24}{child.wall_s:8.2f} s", file=sys.stderr)
    except ChildFailed as error:
        results.failed[contender.name] = str(error)
        print(f"{key[1] + 1}/{args.rounds}  {contender.name:24}failed: {error}", file=sys.stderr)
    finally:
        for path in out.iterdir():  # a failed run's folder too
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def run_rounds(groups: list[list[Contender]], args: argparse.Namespace, out: Path) -> Results:
    """All rounds of each recipe; every second round runs backwards, so that no contender always follows another."""
    results = Results()
    for group in groups:
        for i in range(args.rounds):
            for contender in group[:: -1 if i % 2 else 1]:
                if contender.name not in results.failed:
                    run_once(contender, (group[0].name, i), args, out, results)
    return results


def describe(args: argparse.Namespace, out: Path) -> dict:
    """What the figures depend on: the machine, the versions, the inputs, where the outputs went."""
    installed = versions(PACKAGES)
    if args.mergekit:
        ask = [
            str(args.mergekit / "bin" / "python"),
            "-c",
            "import importlib.metadata as m; print(m.version('mergekit'))",
        ]
        installed["mergekit"] = run_child(ask, args.threads).stdout.strip()
    files = sorted((args.work / BASE).glob("*.safetensors"))
    inputs = {"n_bytes_of_one": sum(file.stat().st_size for file in files), "n_shards": len(files)}
    places = {"inputs_on": filesystem(args.work), "output_on": filesystem(out)}
    how = {"threads": args.threads, "rounds": args.rounds}
    return {"machine": machine(), "versions": installed, "inputs": inputs, **places, **how}


def check(args: argparse.Namespace) -> None:
    """End the program where the set is unfinished, or memory does not hold inputs and output."""
    for name in (BASE, FIRST, SECOND):
        if not (args.work / name / "model.safetensors.index.json").exists():
            sys.exit(f"{args.work / name} is no finished checkpoint: python benchmarks/make_checkpoints.py {args.work}")
    one = sum(path.stat().st_size for path in (args.work / BASE).glob("*.safetensors"))
    # mergekit holds the models' largest tensors and a whole shard of output; 9.4 GiB were measured for ties.
    room = (4 * one + (4 * one if args.mergekit else 0)) // MIB + 1024
    if room > memory_mib("MemAvailable"):
        sys.exit(f"inputs, output and processes take {room} MiB of memory: free some, or make a smaller set")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder that make_checkpoints.py wrote")
    parser.add_argument("--recipes", nargs="+", choices=[*TIMES, "passthrough", *RARE], default=[*TIMES, "passthrough"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("/dev/shm"), help="RAM-backed folder for outputs")
    parser.add_argument("--mergekit", type=Path, metavar="VENV", help="environment that holds mergekit 0.1.5")
    parser.add_argument("--save", action="store_true", help="keep the line in results/recipes-YYYY-MM-DD.json")
    return parser.parse_args()


def main() -> None:
    args = parse()
    args.work = args.work.resolve()
    if args.mergekit:
        args.mergekit = args.mergekit.absolute()
    check(args)
    # Without this a SIGTERM would leave an output behind in memory.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    with tempfile.TemporaryDirectory() as written, tempfile.TemporaryDirectory(dir=args.out) as out:
        around = describe(args, Path(out))
        if (load := around["machine"]["load_before"]) > 0.5:
            print(f"other work runs here (load {load}): no ratio of this run is evidence", file=sys.stderr)
        results = run_rounds(list(contenders(args, Path(written))), args, Path(out))
    verdicts = judge_all(results, promises())
    print_table(results, verdicts)
    figures = {"bars": verdicts, "contenders": results.by_contender(), "failed": results.failed}
    line = {"benchmark": "recipes", "date": datetime.date.today().isoformat(), **around, **figures}
    print(json.dumps(line))
    if args.save:
        keep("recipes", line)
    sys.exit(1 if results.failed else 0)


if __name__ == "__main__":
    main()
