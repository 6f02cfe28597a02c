"""expo search: which alpha, by evidence; no checkpoint is written but the chosen one."""

import json
from pathlib import Path
from typing import Any

import click

from expo.cli.options import form_and_threads, load_plugins, recipe_fields
from expo.cli.search_options import OF_METRICS, sampling_from, searching


@click.command(short_help="Choose alpha, or anything in a recipe, by evidence; no try is written to disk.")
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@searching
@form_and_threads
def search(recipe: Path | None, **options: Any) -> None:
    """Score DPO + alpha (DPO - SFT) at several alphas, or RECIPE at several values, and choose the best.

    One model is in memory; each try is streamed into its parameters, with exactly the weights that a run would write,
    and every difference is one to alpha 0 on the same examples. -o OUTPUT writes the chosen checkpoint, with the
    evidence in expo.json and the model card. The same command continues a search that was stopped.
    """
    if recipe is None and not (options["sft"] and options["dpo"]):
        raise click.UsageError("Name what is searched: expo search --sft A --dpo B ..., or expo search RECIPE ....")
    load_plugins(options["plugins"])
    dry_run, as_json, quiet = (options.pop(name) for name in ("dry_run", "as_json", "quiet"))
    prepared = _prepared(recipe, options, quiet or as_json)
    if dry_run:
        _show_plan(prepared, as_json)
        return
    result = _run(prepared, options, quiet or as_json)
    if as_json:
        click.echo(json.dumps(result.record()))
        return
    for note in result.notes if quiet else ():
        click.echo(f"note: {note}", err=True)
    if not quiet:
        _show(prepared, result)


def _prepared(recipe: Path | None, options: dict[str, Any], quiet: bool):
    from expo.cli.asking import silence_transformers
    from expo.cli.main import loading
    from expo.cli.write import warn

    fields = recipe_fields(options)
    fields |= {"arithmetic": options["arithmetic"]} if options["arithmetic"] else {}
    with loading():
        from expo.search.prepare import prepare

        silence_transformers()
    sampling = sampling_from(options)
    names = ("metric", "sft", "dpo", "data", "test", "alphas", "bracket", "vary", "sets", "sampler", "trials", "budget")
    names = (*names, "output", "report", "overwrite", "device", "threads", "trust_remote_code")
    own = {name: options[name] for name in OF_METRICS}
    if options["metric"].startswith("reward:"):
        own["trust_remote_code"] = options["trust_remote_code"]
    return prepare(
        recipe,
        **{name: options[name] for name in names},
        hold=options["resident"],
        compute=options["compute_dtype"],
        seed=fields.pop("seed", None),
        sampling=sampling,
        metric_options=own,
        settings=fields,
        say=(lambda text: None) if quiet else lambda text: click.echo(text, err=True),
        warn=warn,
    )


def _run(prepared, options: dict[str, Any], quiet: bool):
    """The search, with a bar while the chosen checkpoint is written."""
    from expo.cli.progress import Progress

    with Progress(prepared.plan.n_bytes_written, quiet=quiet) as progress:
        return prepared.run(threads=options["threads"], progress=progress)


def _show_plan(prepared, as_json: bool) -> None:
    """What a search would do, and what it needs."""
    from expo.cli.tables import show_facts
    from expo.planning.budget import size

    record = prepared.planned()
    if as_json:
        click.echo(json.dumps(record))
        return
    tries, points = record["most_tries"], record["points"]
    facts = [
        ("baseline", record["baseline"]),
        ("tries", f"{tries}: {', '.join(points)}" if points else f"at most {tries}, by {record['strategy']['kind']}"),
        ("metric", f"{record['metric']['metric']} on {record['examples']:,} examples"),
        ("scores", f"at most {record['most_scored']:,} examples, {record['known']:,} known already"),
        ("test", f"{record['test_examples']:,} examples, twice" if record["test_examples"] else "none (--test FILE)"),
        ("memory", f"{size(record['memory'])}: one model{', both inputs' if prepared.how.get('hold') else ''}"),
        ("reads", f"{size(record['n_bytes_read_a_try'])} a try; writes no try to disk"),
        ("report", str(prepared.folder)),
        ("output", str(prepared.output) if prepared.output else "none (-o OUTPUT)"),
    ]
    show_facts(facts)


def _show(prepared, result) -> None:
    from expo.cli.tables import plural, show_table
    from expo.cli.write import closing
    from expo.search.result import columns, said

    headings, rows = columns(result)
    show_table(headings, rows, left=len(result.space.dimensions))
    better = "" if result.higher_is_better else "; lower is better"
    click.echo(f"\n{result.name(result.chosen)} is best on {plural(result.chosen.n, 'example')}{better}")
    if result.test:
        click.echo(f"test, {plural(result.test[-1].n, 'example')}: {said(result.test[-1])}")
    for note in result.notes:
        click.echo(f"note: {note}")
    click.echo(f"wrote {prepared.folder / 'search.json'}")
    if result.report is not None:
        click.echo(closing(result.report))
    elif result.point:
        click.echo(f"next: the same command with --report {prepared.folder} -o OUTPUT writes it; no try is repeated")
