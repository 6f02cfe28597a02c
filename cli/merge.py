"""expo merge: run a recipe file."""

import json
from pathlib import Path
from typing import Any

import click

from expo.cli.hub_options import BRANCH, PR, PRIVATE, PUSH_TO
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
    from expo.cli.write import check_room, checked_target, closing, stream, warn
    from expo.planning.budget import check_memory, default_threads, summary, totals
    from expo.stages import Run

    threads = options["threads"] or default_threads()
    as_json, quiet, target = options["as_json"], options["quiet"], checked_target(options)
    run = Run(recipes, output or target.place, options["overwrite"], passes=output is None)
    if target and len(recipes.results) > 1:
        names = ", ".join(stage.name for stage in recipes.results)
        raise click.UsageError(f"The recipe has several results ({names}): run it without --push-to, then push each.")
    planned = run.check()
    for _, plan in planned:
        check_memory(plan, threads)
    if target:
        check_room(planned[-1][1], target)
    several = len(recipes.stages) > 1
    if not (as_json and options["dry_run"]) and not quiet:
        for note in recipes.notes:
            click.echo(f"note: {note}", err=True)
    if options["dry_run"]:
        plans = [{"name": s.name, "plan": totals(p, threads), "warnings": p.warnings} for s, p in planned]
        if as_json:
            click.echo(json.dumps({"stages": plans, "notes": recipes.notes} if several else plans[0]))
            return
        for stage, plan in planned:
            click.echo((f"{stage.name} -> {run.folder(stage)}\n" if several else "") + summary(plan, threads))
            warn(*plan.warnings)
        return

    def one(stage, plan, folder: Path, overwrite: bool):
        if not quiet:
            click.echo((f"{stage.name} -> {folder}\n" if several else "") + summary(plan, threads), err=True)
        passes = output is None and stage in recipes.results
        place = None if passes else folder
        return stream(plan, place, overwrite, options, target if stage in recipes.results else None)

    reports = run.run(one, keep_stages=options["keep_stages"])
    if as_json:
        records = {name: report.record() for name, report in reports.items()}
        click.echo(json.dumps(records if len(records) != 1 else next(iter(records.values()))))
    elif not quiet:
        for report in reports.values():
            click.echo(closing(report))
        if not reports:
            click.echo(f"{output} was complete already")
