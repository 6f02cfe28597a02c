"""expo demo: train two toy models, extrapolate with the real command line, and see whether it helped.

Alpha is chosen on validation questions only; the test questions are answered once, by what was written to disk.
"""

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from expo.cli.options import JSON, QUIET
from expo.cli.progress import is_terminal
from expo.errors import ExpoError, OutputError

ALPHAS = tuple(tenths / 10 for tenths in range(11))
N_TERMS = 5  # the hard questions
N_QUESTIONS = 2000  # for validation, and again for the test: a standard error of about 1.1 points
TASK = "running sums modulo 10, such as 31475= -> 34850, of which the last digit counts"
CAVEAT = "base -> SFT on a toy task, not the paper's SFT -> DPO"
# Test accuracy on seeds 0 to 4: 60 steps .45 to .86, extrapolated from there .51 to .93, 80 steps .55 to .94.
ON_PURPOSE = "SFT was stopped early on purpose; 20 more steps would gain a little more than this"
NEXT = """\
next, on your own checkpoints (folders or Hub ids):
  expo inspect DPO
  expo diff SFT DPO
  expo extrapolate --sft SFT --dpo DPO --alpha 0.3 -o OUT --dry-run
  expo extrapolate --sft SFT --dpo DPO --alpha 0.3 -o OUT"""


@click.command(short_help="Train two toy models, extrapolate, and see whether it helped.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="demo",
    show_default=True,
    help="Folder for models, picture and figures; an earlier demo's is replaced.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Of the models' weights, their training and all questions.",
)
@click.option("--steps-scale", default=1.0, hidden=True)
@JSON
@QUIET
def demo(output: Path, seed: int, steps_scale: float, as_json: bool, quiet: bool) -> None:
    """Train a tiny base model and stop its fine-tuning (SFT) far too early; then extrapolate from base past SFT.

    Alpha is chosen on validation questions, accuracy measured on test questions. This is base -> SFT on a toy task,
    not the paper's SFT -> DPO. It takes less than a minute on two cores.
    """
    began = time.monotonic()
    _clear(output)
    say = (lambda text: None) if as_json or quiet else click.echo
    say(f"task: {TASK}\nseed {seed}; {CAVEAT}")
    _silence_transformers()
    _train(output, seed, steps_scale, quiet)
    train_seconds = time.monotonic() - began
    curve = _validate(output, seed, quiet)
    alpha = max(curve, key=lambda point: point["correct"])["alpha"]  # the smallest of equals
    say(f"alpha {alpha:g} is best on {N_QUESTIONS:,} validation questions\n")
    command = _extrapolate(output, alpha, say)
    record = {"made_by": "expo demo", "finished": True, "comparison": CAVEAT, "caution": ON_PURPOSE}
    record |= {"task": TASK, "seed": seed, "settings": _settings(steps_scale)}
    record |= {"validation": curve, "alpha": alpha, "command": command}
    record |= _test(output, seed, quiet)
    record["picture"] = str(output / "alpha.png") if _draw(record, output / "alpha.png") else None
    seconds = {"training": round(train_seconds, 1), "all": round(time.monotonic() - began, 1)}
    record |= {"seconds": seconds, "versions": _versions()}
    _write_json(output, record)
    if as_json:
        click.echo(json.dumps(record))
    elif not quiet:
        _show(record, output)


# --- The steps -------------------------------------------------------------------------------------------------------


def _clear(output: Path) -> None:
    """Make the folder, without what an earlier demo left in it; any other folder with content is refused."""
    try:
        if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not _is_ours(output))):
            raise OutputError(
                f"{output} exists and is no earlier demo. To write somewhere else: expo demo --output FOLDER"
            )
        for name in ("base", "sft", "extrapolated", "extrapolated.partial"):
            if (output / name).exists():
                shutil.rmtree(output / name)
        (output / "alpha.png").unlink(missing_ok=True)
        output.mkdir(parents=True, exist_ok=True)
        # Written first as well, so that a demo that was stopped half-way can be repeated.
        _write_json(output, {"made_by": "expo demo", "finished": False})
    except OSError as error:
        raise OutputError(f"cannot write {output}: {error.strerror or error}.") from error


def _is_ours(output: Path) -> bool:
    try:
        return json.loads((output / "demo.json").read_text())["made_by"] == "expo demo"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_json(output: Path, record: dict[str, Any]) -> None:
    (output / "demo.json").write_text(json.dumps(record, indent=2) + "\n")


def _train(output: Path, seed: int, scale: float, quiet: bool) -> None:
    from expo import toy

    tokenizer, model = toy.build_tokenizer(), toy.build_model(toy.STRONG, seed)
    pretraining, fine_tuning = _courses(scale)
    with _stage("training the base model", pretraining.steps, quiet) as advance:
        toy.teach(model, tokenizer, pretraining, seed, advance)
    toy.save(model, tokenizer, output / "base")
    with _stage("fine-tuning it (SFT)", fine_tuning.steps, quiet) as advance:
        toy.teach(model, tokenizer, fine_tuning, seed + 1, advance)
    toy.save(model, tokenizer, output / "sft")


def _courses(scale: float) -> tuple:
    from expo import toy

    courses = (toy.PRETRAINING, toy.FINE_TUNING)
    return tuple(course._replace(steps=max(1, round(course.steps * scale))) for course in courses)


def _settings(scale: float) -> dict[str, Any]:
    from expo import toy

    pretraining, fine_tuning = _courses(scale)
    courses = {"pretraining": pretraining._asdict(), "fine_tuning": fine_tuning._asdict()}
    return {"model": toy.STRONG._asdict(), **courses, "terms": N_TERMS}


def _validate(output: Path, seed: int, quiet: bool) -> list[dict[str, Any]]:
    """The accuracy for each alpha, on exactly the weights that would be written; writes none of them."""
    from transformers import AutoTokenizer

    import expo
    from expo import toy

    questions = toy.draw(N_TERMS, N_QUESTIONS, "validation", seed)
    tokenizer = AutoTokenizer.from_pretrained(output / "sft")
    model, curve = None, []
    with _stage("choosing alpha on validation questions", len(ALPHAS), quiet) as advance:
        for alpha in ALPHAS:
            recipe = expo.extrapolation(sft=output / "base", dpo=output / "sft", alpha=alpha)
            model = expo.load_model(recipe, model=model)
            curve.append({"alpha": alpha, **_accuracy(toy.grade(model, tokenizer, questions))})
            advance()
    return curve


def _extrapolate(output: Path, alpha: float, say: Callable[[str], object]) -> str:
    """Run the real command line; the command as a user types it."""
    places = ["--sft", str(output / "base"), "--dpo", str(output / "sft")]
    arguments = ["extrapolate", *places, "--alpha", f"{alpha:g}", "-o", str(output / "extrapolated")]
    command = shlex.join(["expo", *arguments])
    say(f"$ {command}")
    done = subprocess.run([sys.executable, "-m", "expo", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ExpoError(f"this command of the demo failed: {command}\n{done.stderr.strip()}")
    for line in done.stderr.splitlines():
        if line.startswith("warning:"):
            click.echo(line, err=True)
    say(done.stdout)
    return command


def _test(output: Path, seed: int, quiet: bool) -> dict[str, Any]:
    """Accuracies of the three checkpoints as transformers loads them, and what extrapolation changed."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from expo import toy

    questions = toy.draw(N_TERMS, N_QUESTIONS, "test", seed)
    grades = {}
    with _stage("answering test questions", 3, quiet) as advance:
        for name in ("base", "sft", "extrapolated"):
            model = AutoModelForCausalLM.from_pretrained(output / name, dtype=torch.float32)
            grades[name] = toy.grade(model, AutoTokenizer.from_pretrained(output / name), questions)
            advance()
    mean, low, high = toy.paired_difference(grades["sft"], grades["extrapolated"])
    gain = {"mean": mean, "interval": [low, high], "distinguishable": low > 0 or high < 0}
    return {"test": {name: _accuracy(right) for name, right in grades.items()}, "gain": gain}


def _accuracy(right) -> dict[str, Any]:
    from expo.evaluate import wilson

    correct, n = int(right.sum()), len(right)
    found = wilson(correct, n)
    return {"accuracy": found.value, "interval": [found.low, found.high], "correct": correct, "n": n}


# --- What is shown ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _stage(title: str, total: int, quiet: bool) -> Iterator[Callable[[], object]]:
    """What to call after each step of a stage: a bar where stderr is a terminal, one line elsewhere."""
    if quiet or not is_terminal(sys.stderr):
        click.echo(title, err=True) if not quiet else None
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(f"{title:<40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def _silence_transformers() -> None:
    """Its own bars for loading and saving would break ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _show(record: dict[str, Any], output: Path) -> None:
    from expo.cli.tables import show_table

    fine_tuning = record["settings"]["fine_tuning"]
    names = {
        "base": "base",
        "sft": f"SFT, {fine_tuning['steps']} steps",
        "extrapolated": f"extrapolated, alpha {record['alpha']:g}",
    }
    rows = []
    for name, found in record["test"].items():
        low, high = found["interval"]
        interval = f"{low:.1%} to {high:.1%}"
        rows.append((names[name], f"{found['accuracy']:.1%}", interval, f"{found['correct']} of {found['n']}"))
    show_table(("model", "test accuracy", "95 % interval", "correct"), rows)
    click.echo(f"\n{_verdict(record)}")
    click.echo(f"{CAVEAT};\n{ON_PURPOSE}\n")
    made = " and ".join(filter(None, [record["picture"], str(output / "demo.json")]))
    click.echo(f"wrote {made}; {record['seconds']['all']:.0f} s in all\n\n{NEXT}")


def _verdict(record: dict[str, Any]) -> str:
    if record["alpha"] == 0:
        return "validation preferred alpha 0: going further did not help here, so the SFT model was copied"
    mean, (low, high) = record["gain"]["mean"], record["gain"]["interval"]
    sure = "distinguishable from 0" if record["gain"]["distinguishable"] else "not distinguishable from 0"
    return (
        f"extrapolated - SFT: {100 * mean:+.1f} points on the same questions, "
        f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}: {sure}"
    )


def _draw(record: dict[str, Any], path: Path) -> bool:
    """Validation accuracy over alpha, with its band, as a picture; False where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        click.echo("no picture, as matplotlib is missing; to have one: pip install 'expo[plot]'", err=True)
        return False
    curve, blue, orange = record["validation"], "#0072b2", "#d55e00"  # told apart by the colour-blind too
    alphas, heights = ALPHAS, [100 * point["accuracy"] for point in curve]
    low, high = zip(*([100 * bound for bound in point["interval"]] for point in curve), strict=True)
    chosen = alphas.index(record["alpha"])
    figure = Figure(figsize=(7.2, 4.3), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(alphas, low, high, color=blue, alpha=0.15, linewidth=0, label="95 % interval")
    axes.plot(alphas, heights, color=blue, linewidth=2, marker="o", markersize=4)
    axes.axhline(heights[0], color="0.45", linewidth=1, linestyle="--", zorder=1)
    axes.plot(0, heights[0], "s", color="0.25", markersize=9, label=f"SFT (alpha 0): {heights[0]:.1f} %")
    label = f"chosen: alpha {alphas[chosen]:g}, {heights[chosen]:.1f} %"
    axes.plot(alphas[chosen], heights[chosen], "D", color=orange, markersize=9, label=label)
    axes.set_xlabel("alpha in SFT + alpha (SFT - base)")
    axes.set_ylabel(f"validation accuracy, % (n = {N_QUESTIONS:,})")
    axes.set_title(f"Extrapolating past an undertrained SFT model\ntoy task, base -> SFT, seed {record['seed']}")
    axes.set_xticks(alphas)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=160)
    return True


def _versions() -> dict[str, str]:
    import torch
    import transformers

    from expo.version import __version__

    return {"expo": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
