"""expo plan: what a run will do and cost, in words, before anything is read but headers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from expo.cli.merge import SET
from expo.cli.options import PLUGIN, load_plugins, over_a_recipe, recipe_fields
from expo.cli.tables import printable, show_facts, show_table

_RATES = {
    "network": "What the Hub delivers. 1 Gbit/s is 0.125.",
    "disk": "What the disk reads and writes, together; the slower disk of several.",
    "gpu": "What is copied to the GPU, or from it, each way; with --device cuda.",
    "compute": "What a run reaches when its inputs are in memory: the GB/s that its summary prints, for this method.",
}


def _rates(command):
    for name, text in reversed(_RATES.items()):
        kind = click.FloatRange(min=0, min_open=True)
        command = click.option(f"--{name}-rate", type=kind, metavar="GB/S", help=f"For the expected time. {text}")(
            command
        )
    return command


@click.command(short_help="Show what a recipe will do: budgets, donor, and which tensors get which parameters.")
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option("--sft", "--base", "sft", help="Instead of RECIPE: what `expo extrapolate` starts from.")
@click.option("--dpo", "--aligned", "dpo", help="And where that ends.")
@click.option("--alpha", type=float, help="How far past DPO to go.  [default: 0.3]")
@_rates
@SET
@PLUGIN
@over_a_recipe
def plan(recipe: Path | None, sft: str | None, dpo: str | None, alpha: float | None, **options: Any) -> None:
    """Show what `expo merge RECIPE`, or `expo extrapolate --sft SFT --dpo DPO`, will do and cost.

    Reads headers only, those of Hub ids on the Hub, and writes nothing: models of any size can be planned anywhere.
    The time is that of the slowest of disk, network, GPU copies and computing, as far as their rates are given.
    """
    from expo.planning.budget import default_threads
    from expo.planning.expected import together, total_in_words
    from expo.stages import Run

    load_plugins(options["plugins"])
    recipes = _recipes(recipe, {"sft": sft, "dpo": dpo, "alpha": alpha}, options)
    run = Run(recipes, Path("OUT"))
    found = [_Cost(stage, planned, options) for stage, planned in run.plans()]
    threads = options["threads"] or default_threads()
    if options["as_json"]:
        record = {"stages": [_record(one, threads) for one in found], "notes": recipes.notes}
        click.echo(json.dumps(record | {"time": together([one.phases for one in found])}))
        return
    for number, one in enumerate(found):
        if len(recipes.stages) > 1:
            click.echo(("\n" if number else "") + f"stage {one.stage.name} -> {run.folder(one.stage)}")
        _show(one, threads)
    if len(found) > 1:
        click.echo(f"\nall stages: {total_in_words(together([one.phases for one in found]))}")
    for note in recipes.notes:
        click.echo(f"note: {printable(note)}", err=True)
    for one in found:
        for warning in one.plan.warnings:
            click.echo(f"warning: {printable(warning)}", err=True)


def _recipes(recipe: Path | None, pair: dict[str, Any], options: dict[str, Any]):
    """What is to be planned: a recipe file, or the extrapolation of a pair; headers on the Hub are read there."""
    from expo.recipe import Recipes, Stage, extrapolation, read_recipe

    given = {name: value for name, value in pair.items() if value is not None}
    if recipe is not None and not given:
        found = read_recipe(recipe, options["sets"])
    elif recipe is None and pair["sft"] and pair["dpo"]:
        if options["sets"]:
            raise click.UsageError("--set changes a recipe file; for an extrapolation give --alpha.")
        found = Recipes((Stage("final", extrapolation(**given), {}),))
    else:
        raise click.UsageError("Plan one thing: expo plan RECIPE, or expo plan --sft SFT --dpo DPO [--alpha A].")
    return found.with_settings(**recipe_fields(options) | {"stream": True})


class _Cost:
    """One stage's plan, with what it moves and how long that takes at the rates that were given."""

    def __init__(self, stage: Any, planned: Any, options: dict[str, Any]):
        from expo.planning.expected import Rates, phases
        from expo.planning.traffic import downloaded, traffic

        self.stage, self.plan, self.to_download = stage, planned, 0
        if not options["stream"]:
            self.plan, self.to_download = downloaded(planned)
        moved = replace(traffic(self.plan), to_download=self.to_download)
        rates = {name: rate and rate * 1e9 for name in _RATES for rate in [options[f"{name}_rate"]]}
        gpu = options["device"].startswith("cuda") or rates["gpu"] is not None
        once = self.plan.n_bytes_read + self.plan.n_bytes_written
        self.phases = phases(moved, once, Rates(**rates), gpu=gpu)


def _record(cost: _Cost, threads: int) -> dict[str, Any]:
    """One stage for programs."""
    from expo.planning.budget import totals
    from expo.planning.expected import together
    from expo.planning.outline import outline

    stage, planned = cost.stage, cost.plan
    found, recipe = outline(planned), planned.recipe
    runs = [
        {"tensors": run.groups, "n_tensors": run.n_tensors, "layers": run.layers, "first": run.first, "last": run.last}
        for run in found.runs
    ]
    return {
        "name": stage.name,
        "method": recipe.method,
        "models": {name: checkpoint.source.label for name, checkpoint in planned.inputs.items()},
        "base": recipe.base,
        "donor": recipe.donor,
        "uses": stage.uses,
        "dtype": sorted({job.dtype.name for job in planned.jobs}),
        "tokenizer": recipe.tokenizer.record() if recipe.tokenizer else None,
        "budget": totals(planned, threads) | {"bytes_to_download": cost.to_download},
        "time": together([cost.phases]),
        "parameters": found.shared,
        "varying": runs,
        "copied": found.copied,
        "left_out": planned.left_out,
        "warnings": planned.warnings,
    }


def _show(cost: _Cost, threads: int) -> None:
    from expo.methods import find_method
    from expo.planning.budget import summary
    from expo.planning.expected import in_words
    from expo.planning.outline import outline

    planned = cost.plan
    recipe, found = planned.recipe, outline(planned)
    rest = summary(planned, threads).splitlines()[1:]
    click.echo(f"{recipe.method}: {find_method(recipe.method).formula}")
    click.echo(printable("\n".join(rest)))
    click.echo(in_words(cost.phases))
    facts = [
        ("config, names", f"of {recipe.donor}"),
        ("tokenizer", _tokenizer(recipe)),
        ("type", _type(recipe)),
        *((name, _value(value, _models(planned))) for name, value in found.shared.items()),
    ]
    show_facts(facts)
    if found.runs:
        names = list(found.runs[0].first)
        click.echo()
        rows = [
            (run.label, _layers(run.layers), str(run.n_tensors), *(run.text(name) for name in names))
            for run in found.runs
        ]
        show_table(("tensors", "layers", "how many", *names), rows)
    if found.copied:
        click.echo(printable(f"copied: {'; '.join(found.copied)}"))


def _tokenizer(recipe) -> str:
    if recipe.tokenizer is None:
        return f"of {recipe.donor}, file by file"
    return f"{recipe.tokenizer.source} (tokenizer entry)"


def _type(recipe) -> str:
    """The output's type. In mergekit `dtype` is also what the arithmetic is done in."""
    wanted = recipe.output_dtype()
    written = wanted.torch_name if wanted else f"as in {recipe.donor}, tensor by tensor"
    return f"{written}, rounded once from float32 or wider; no input is cast when it is read"


def _models(planned) -> list[str] | None:
    """The models that values stand for one by one, where all computed tensors have the same."""
    found = {
        tuple(o.role for o in job.operands[-job.n_models :]) for job in planned.jobs if job.method and job.n_models
    }
    return list(found.pop()) if len(found) == 1 else None


def _value(value: Any, models: list[str] | None) -> str:
    from expo.planning.outline import shown

    if isinstance(value, tuple) and models and len(models) == len(value):
        if len(set(value)) == 1:
            return shown(value[0]) + (" each" if len(value) > 1 else "")
        return ", ".join(f"{model} {shown(v)}" for model, v in zip(models, value, strict=True))
    return shown(value)


def _layers(layers: tuple[int, int] | None) -> str:
    if layers is None:
        return ""
    return str(layers[0]) if layers[0] == layers[1] else f"{layers[0]}-{layers[1]}"
