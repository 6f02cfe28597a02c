"""expo merge: run a recipe file."""

import json
from pathlib import Path
from typing import Any

import click

from expo.cli.hub_options import BRANCH, PR, PRIVATE, PUSH_TO, target_of
from expo.cli.options import (
    CONNECTIONS,
    DRY_RUN,
    OVERWRITE,
    PLUGIN,
    VERIFY_INPUTS,
    load_plugins,
    output,
    over_a_recipe,
    recipe_fields,
)

SET = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change the recipe, such as parameters.weight=0.4 or models.1.parameters.density=0.3. Repeatable.",
)


@click.command(short_help="Run a recipe: a merge in YAML, such as mergekit's.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("out", required=False, type=click.Path(path_type=Path))
@output(required=False)
@SET
@PLUGIN
@click.option("--keep-stages", is_flag=True, help="Keep what earlier stages made, in OUTPUT.stages.")
@PUSH_TO
@PRIVATE
@BRANCH
@PR
@OVERWRITE
@DRY_RUN
@VERIFY_INPUTS
@CONNECTIONS
@over_a_recipe
def merge(recipe: Path, out: Path | None, output: Path | None, sets: tuple[str, ...], **options) -> None:
    """Run the merge that RECIPE describes into OUTPUT, which is given by -o or second.

    Options count instead of what RECIPE says; --dtype and --shard-size for its results only, the others for every
    stage. Relative paths in RECIPE count from the current directory. A killed run continues when the same command is
    repeated.
    """
    if (out and output) or not (out or output or options["push_to"]):
        raise click.UsageError("Give the output once: expo merge RECIPE -o OUTPUT, or expo merge RECIPE OUTPUT.")
    from expo.recipe import read_recipe

    load_plugins(options["plugins"])
    recipes = read_recipe(recipe, sets).with_settings(**recipe_fields(options))
    _write(recipes, output or out, options)


def _write(recipes, output: Path | None, options: dict[str, Any]) -> None:
    """Check everything, then run stage after stage; prints plans or summaries."""
    from expo.cli.write import check_device, closing, stream, warn
    from expo.planning.budget import check_memory, default_threads, summary, totals
    from expo.stages import Run

    threads = options["threads"] or default_threads()
    as_json, quiet, target = options["as_json"], options["quiet"], target_of(options)
    if target:
        target.check()
    check_device(options)
    run = Run(recipes, output, options["overwrite"], target)
    planned = run.check()
    for _, plan in planned:
        check_memory(plan, threads)
    several = len(recipes.stages) > 1
    if not (as_json and options["dry_run"]) and not quiet:
        for note in recipes.notes:
            click.echo(f"note: {note}", err=True)

    def told(stage, plan) -> str:
        place = target.label if run.is_passing(stage) else run.folder(stage)
        return (f"{stage.name} -> {place}\n" if several else "") + summary(plan, threads, passes=run.is_passing(stage))

    if options["dry_run"]:
        plans = [
            {"name": s.name, "plan": totals(p, threads, passes=run.is_passing(s)), "warnings": p.warnings}
            for s, p in planned
        ]
        if as_json:
            click.echo(json.dumps({"stages": plans, "notes": recipes.notes} if several else plans[0]))
            return
        for stage, plan in planned:
            click.echo(told(stage, plan))
            warn(*plan.warnings)
        return

    def one(stage, plan, place: Path | None, overwrite: bool, target):
        if not quiet:
            click.echo(told(stage, plan), err=True)
        return stream(plan, place, overwrite, options, target)

    reports = run.run(one, keep_stages=options["keep_stages"])
    if as_json:
        records = {name: report.record() for name, report in reports.items()}
        click.echo(json.dumps(records if len(records) != 1 else next(iter(records.values()))))
    elif not quiet:
        for report in reports.values():
            click.echo(closing(report))
        if not reports:
            click.echo(f"{output} was complete already")
