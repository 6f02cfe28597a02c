"""The paper's controlled experiment in small: how much extrapolation gains after 5 to 100 % of the training.

On the embedded task (running sums), for each seed and two stages of training: sft (base -> SFT on true answers) and
dpo (SFT -> DPO on pairs of the model's own samples, a right and a wrong one). Each is trained along three axes:
data (a fraction of the examples, the same number of passes, as in arXiv:2404.16792), steps (the whole run, stopped
after a fraction of its steps) and data-all-steps (a fraction of the examples, as many steps as the whole run).
Alpha is searched on validation questions, on exactly the weights that would be written; the chosen checkpoint is
written and answers the test questions once, as does the one before it.

A cell that is done lies in WORK and costs nothing. A table goes to stderr, one JSON line to stdout, and with --save
into results/search-YYYY-MM-DD.json under `controlled`. Settings were chosen on seeds from 100 on.
"""

import argparse
import datetime
import json
import statistics
import sys
import time
from itertools import product
from pathlib import Path

from measure import keep, machine, versions

PACKAGES = ("expo", "torch", "transformers")
FRACTIONS = (0.05, 0.1, 0.2, 0.4, 1.0)
AXES = ("data", "steps", "data-all-steps")
STAGES = ("sft", "dpo")
ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 1.8, 2.5, 4.0, 6.0, 10.0, 16.0, 25.0)
TERMS = 5
VALIDATION, TEST = 1000, 2000
START_STEPS = 60  # of the SFT that DPO starts from
SAMPLES = 8  # answers a question, of which pairs are made
# examples: what 100 % of the data are. Constant learning rates, so that a stopped run is a prefix of the whole one.
TRAINING = {
    "sft": {"examples": 3200, "passes": 2, "batch_size": 64, "learning_rate": 3e-4},
    "dpo": {"examples": 1280, "passes": 4, "batch_size": 32, "learning_rate": 2e-4, "beta": 1.0},
}
SHARED = {"schedule": "constant", "warmup": 0, "precision": "float32", "save_every": 0}


def main() -> None:
    arguments = parsed()
    silence()
    cells = []
    for seed, stage, (axis, fraction) in product(arguments.seeds, arguments.stages, places(arguments.axes)):
        found = cell(arguments.work.resolve() / f"seed-{seed}", seed, stage, axis, fraction)
        cells.append(found)
        print(line_of(found), file=sys.stderr, flush=True)
    result = {
        "benchmark": "controlled",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(PACKAGES),
        "task": f"running sums of {TERMS} numbers; {VALIDATION} validation and {TEST} test questions a seed",
        "training": TRAINING | {"start of dpo": {"steps": START_STEPS}},
        "alphas": ALPHAS,
        "seeds": arguments.seeds,
        "table": summary(cells),
        "cells": cells,
    }
    show(result)
    print(json.dumps(result))
    if arguments.save:
        keep("search", result)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="Folder of models and finished cells; 40 MB a seed.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--save", action="store_true", help="Write the results into results/.")
    return parser.parse_args()


def silence() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def places(axes: list[str]) -> list[tuple[str, float]]:
    """(axis, fraction) of every cell; the whole run is the same on all axes."""
    return [(axis, fraction) for axis in axes for fraction in FRACTIONS if fraction < 1] + [("whole", 1.0)]


# --- One seed's data and models --------------------------------------------------------------------------------------


def once(path: Path, make) -> Path:
    """A file or folder, made unless it is there; `make` writes it whole or not at all."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
    return path


def rows(path: Path, examples: list[dict]) -> None:
    from expo.rows import write_rows

    write_rows(path, examples)


def questions(folder: Path, seed: int, split: str, n: int) -> Path:
    """Solved questions of one split as JSONL."""
    from expo import toy

    def make(path: Path) -> None:
        drawn = toy.draw(TERMS, n, split, seed)
        rows(path, [{"id": i, **one._asdict(), "gold": toy.answer(one.completion)} for i, one in enumerate(drawn)])

    return once(folder / f"{split}.jsonl", make)


def saved(path: Path, model) -> None:
    """A checkpoint folder by rename."""
    from expo import toy

    beside = path.with_name(path.name + ".new")
    toy.save(model, toy.build_tokenizer(), beside)
    beside.rename(path)


def base(folder: Path, seed: int) -> Path:
    """The pretrained model: a third of the hard questions right."""
    from expo import toy

    def make(path: Path) -> None:
        model = toy.build_model(toy.STRONG, seed)
        toy.teach(model, toy.build_tokenizer(), toy.PRETRAINING, seed)
        saved(path, model)

    return once(folder / "base", make)


def start(folder: Path, seed: int) -> Path:
    """The SFT model that DPO starts from."""
    data = questions(folder, seed, "train", TRAINING["sft"]["examples"])
    return once(folder / "start", lambda path: train("sft", base(folder, seed), data, path, seed, START_STEPS))


def pairs(folder: Path, seed: int) -> Path:
    """Preference pairs by a verified reward: of a model's own samples one with every sum right, one that ends wrong."""
    from expo import toy
    from expo.generate import Sampling, generate

    def make(path: Path) -> None:
        wanted = TRAINING["dpo"]["examples"]
        drawn = toy.draw(TERMS, 3 * wanted, "train", seed + 1)
        asked = [{"id": i, "prompt": one.prompt} for i, one in enumerate(drawn)]
        answers = folder / "samples.jsonl"
        sampling = Sampling(samples=SAMPLES, temperature=1.0, max_tokens=toy.MAX_TERMS + 1, seed=seed)
        generate(str(start(folder, seed)), asked, answers, sampling=sampling)
        found = []
        for one, own in zip(drawn, by_question(answers, len(drawn)), strict=True):
            right = [text for text in own if text == one.completion]
            wrong = [text for text in own if text and toy.answer(text) != toy.answer(one.completion)]
            if right and wrong:
                found.append({"prompt": one.prompt, "chosen": right[0], "rejected": wrong[0]})
        if len(found) < wanted:
            raise SystemExit(f"{folder}: {len(found)} questions give a pair; {wanted} are needed.")
        rows(path, found[:wanted])

    return once(folder / "pairs.jsonl", make)


def by_question(answers: Path, n: int) -> list[list[str]]:
    """The samples of each question, in their order."""
    found: list[list[str]] = [[] for _ in range(n)]
    for line in answers.read_text().splitlines():
        row = json.loads(line)
        found[row["id"]].append(row["response"])
    return found


def train(stage: str, model: Path, data: Path, output: Path, seed: int, steps: int, share: float = 1.0) -> None:
    """`steps` steps of one stage on the first `share` of its data."""
    from expo.train import train_dpo, train_sft

    settings = TRAINING[stage]
    lines = data.read_text().splitlines()[: round(settings["examples"] * share)]
    how = {name: value for name, value in settings.items() if name not in ("examples", "passes")}
    run = {"sft": train_sft, "dpo": train_dpo}[stage]
    more = {"reference_cache": str(output.parent / "reference")} if stage == "dpo" else {}
    run(str(model), [json.loads(line) for line in lines], output, seed=seed, max_steps=steps, **how, **more, **SHARED)


# --- One cell --------------------------------------------------------------------------------------------------------


def cell(folder: Path, seed: int, stage: str, axis: str, fraction: float) -> dict:
    """Train, search alpha on validation, test before and after; kept in the cell's folder."""
    home = folder / f"{stage}-{axis}-{fraction:g}"
    done = home / "cell.json"
    if done.exists():
        return json.loads(done.read_text())
    began, cpu = time.monotonic(), time.process_time()
    whole = TRAINING[stage]
    all_steps = whole["examples"] * whole["passes"] // whole["batch_size"]
    steps = all_steps if axis == "data-all-steps" else round(all_steps * fraction)
    share = 1.0 if axis == "steps" else fraction
    data = questions(folder, seed, "train", whole["examples"]) if stage == "sft" else pairs(folder, seed)
    before = base(folder, seed) if stage == "sft" else start(folder, seed)
    tuned = once(home / "tuned", lambda path: train(stage, before, data, path, seed, steps, share))
    found = {"seed": seed, "stage": stage, "axis": axis, "fraction": fraction, "steps": steps}
    found |= {"examples": round(whole["examples"] * share)}
    found |= search(folder, home, seed, before, tuned)
    found |= {"seconds": round(time.monotonic() - began, 1), "cpu_s": round(time.process_time() - cpu, 1)}
    home.mkdir(parents=True, exist_ok=True)
    (home / "cell.json.new").write_text(json.dumps(found))
    (home / "cell.json.new").rename(done)
    return found


def search(folder: Path, home: Path, seed: int, before: Path, tuned: Path) -> dict:
    """Alpha by validation, then what it gains on the test."""
    import expo

    metric = accuracy_of(questions(folder, seed, "validation", VALIDATION))
    model, tokenizer, scores = None, tokenizer_of(tuned), {}
    for alpha in ALPHAS:
        model = expo.load_model(expo.extrapolation(sft=str(before), dpo=str(tuned), alpha=alpha), model=model)
        scores[alpha] = [one.score for one in metric.score(model, tokenizer, metric.ids)]
    means = {alpha: statistics.fmean(found) for alpha, found in scores.items()}
    alpha = max(ALPHAS, key=lambda one: (means[one], -one))  # the smallest of equals
    chosen = home / "extrapolated"
    expo.extrapolate(sft=str(before), dpo=str(tuned), alpha=alpha, output=chosen, overwrite=True)
    return {"validation": means, "alpha": alpha, **tested(folder, seed, before, tuned, chosen)}


def tested(folder: Path, seed: int, before: Path, tuned: Path, chosen: Path) -> dict:
    """Test accuracies of the checkpoints as transformers loads them, and the paired gain."""
    from transformers import AutoModelForCausalLM

    from expo.evaluate.statistics import mean, paired

    metric = accuracy_of(questions(folder, seed, "test", TEST))
    scores = {}
    for name, path in (("start", before), ("tuned", tuned), ("extrapolated", chosen)):
        model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()
        scores[name] = [one.score for one in metric.score(model, tokenizer_of(path), metric.ids)]
    gain = paired(scores["tuned"], scores["extrapolated"])
    return {"test": {name: mean(found).record() for name, found in scores.items()}, "gain": gain.record()}


def accuracy_of(data: Path):
    from expo import toy
    from expo.evaluate.metrics import metric_of
    from expo.generate import Sampling

    how = {"extraction": r"regex:(\d)$", "equivalence": "string"}
    return metric_of("accuracy", data=data, sampling=Sampling(max_tokens=toy.MAX_TERMS + 1), **how)


def tokenizer_of(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


# --- All cells -------------------------------------------------------------------------------------------------------


def summary(cells: list[dict]) -> list[dict]:
    """Each place's accuracies over the seeds, and the gain over all their questions."""
    from expo.evaluate.statistics import tango

    places: dict[tuple, list[dict]] = {}
    for one in cells:
        places.setdefault((one["stage"], one["axis"], one["fraction"]), []).append(one)
    table = []
    for (stage, axis, fraction), found in places.items():
        row = {"stage": stage, "axis": axis, "fraction": fraction, "seeds": [one["seed"] for one in found]}
        row["alphas"] = [one["alpha"] for one in found]
        for name in ("start", "tuned", "extrapolated"):
            row[name] = statistics.fmean(one["test"][name]["value"] for one in found)
        gains = [one["gain"] for one in found]
        won, lost, n = (sum(gain[key] for gain in gains) for key in ("won", "lost", "n"))
        row["gains"] = [gain["value"] for gain in gains]
        row["gain over all questions"] = tango(won, lost, n).record()
        row["above 0"] = sum(gain["interval"][0] > 0 for gain in gains)
        row["below 0"] = sum(gain["interval"][1] < 0 for gain in gains)
        table.append(row)
    return table


def line_of(one: dict) -> str:
    """A finished cell on one line."""
    before, after = (100 * one["test"][name]["value"] for name in ("tuned", "extrapolated"))
    low, high = (100 * bound for bound in one["gain"]["interval"])
    return (
        f"seed {one['seed']}  {one['stage']}  {one['axis']:<14} {one['fraction']:>4.0%}  {one['steps']:>4} steps  "
        f"alpha {one['alpha']:>4g}  {before:5.1f} -> {after:5.1f}  gain {100 * one['gain']['value']:+5.1f} "
        f"({low:+.1f} to {high:+.1f})  {one['cpu_s']:.0f} s"
    )


def show(result: dict) -> None:
    """The table over the seeds on stderr."""
    print(f"\n{'':<26}{'start':>7}{'tuned':>7}{'+ExPO':>7}  gain, all questions   seeds + / -  alphas", file=sys.stderr)
    for row in result["table"]:
        gain = row["gain over all questions"]
        low, high = (100 * bound for bound in gain["interval"])
        accuracies = "".join(f"{100 * row[name]:7.1f}" for name in ("start", "tuned", "extrapolated"))
        print(
            f"{row['stage']} {row['axis']:<16}{row['fraction']:>5.0%}{accuracies}  {100 * gain['value']:+5.1f} "
            f"({low:+.1f} to {high:+.1f})   {row['above 0']} / {row['below 0']}         "
            f"{', '.join(f'{alpha:g}' for alpha in row['alphas'])}",
            file=sys.stderr,
        )
    print(f"test accuracy in %, means of seeds {result['seeds']}; in brackets 95 % intervals", file=sys.stderr)


if __name__ == "__main__":
    main()
