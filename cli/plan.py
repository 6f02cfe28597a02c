"""expo plan: what a recipe will do, in words, before anything is read but headers."""

import json
from pathlib import Path
from typing import Any

import click

from expo.cli.merge import SET
from expo.cli.options import PLUGIN, load_plugins, over_a_recipe, recipe_fields
from expo.cli.tables import printable, show_facts, show_table


@click.command(short_help="Show what a recipe will do: budgets, donor, and which tensors get which parameters.")
@click.argument("recipe", type=click.Path(path_type=Path))
@SET
@PLUGIN
@over_a_recipe
def plan(recipe: Path, sets: tuple[str, ...], **options) -> None:
    """Show what `expo merge RECIPE` will do. Reads headers only, and writes nothing."""
    from expo.planning.budget import default_threads
    from expo.recipe import read_recipe
    from expo.stages import Run

    load_plugins(options["plugins"])
    recipes = read_recipe(recipe, sets).with_settings(**recipe_fields(options))
    run = Run(recipes, Path("OUT"))
    planned = list(run.plans())
    threads = options["threads"] or default_threads()
    if options["as_json"]:
        stages = [_record(stage, found, threads) for stage, found in planned]
        click.echo(json.dumps({"stages": stages, "notes": recipes.notes}))
        return
    several = len(recipes.stages) > 1
    for number, (stage, found) in enumerate(planned):
        if several:
            click.echo(("\n" if number else "") + f"stage {stage.name} -> {run.folder(stage)}")
        _show(found, threads)
    for note in recipes.notes:
        click.echo(f"note: {printable(note)}", err=True)
    for _, found in planned:
        for warning in found.warnings:
            click.echo(f"warning: {printable(warning)}", err=True)


def _record(stage, planned, threads: int) -> dict[str, Any]:
    """One stage for programs."""
    from expo.planning.budget import totals
    from expo.planning.outline import outline

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
        "budget": totals(planned, threads),
        "parameters": found.shared,
        "varying": runs,
        "copied": found.copied,
        "left_out": planned.left_out,
        "warnings": planned.warnings,
    }


def _show(planned, threads: int) -> None:
    from expo.methods import find_method
    from expo.planning.budget import summary
    from expo.planning.outline import outline

    recipe, found = planned.recipe, outline(planned)
    rest = summary(planned, threads).splitlines()[1:]
    click.echo(f"{recipe.method}: {find_method(recipe.method).formula}")
    click.echo(printable("\n".join(rest)))
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
