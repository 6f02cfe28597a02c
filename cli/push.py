"""expo push: a checkpoint onto the Hub, in one commit."""

import json
from pathlib import Path

import click

from expo.cli.hub_options import BRANCH, PR, PRIVATE, target_of, told
from expo.cli.options import JSON, QUIET
from expo.cli.tables import plural, printable


@click.command(short_help="Publish a checkpoint on the Hub, in one commit; a broken push continues.")
@click.argument("output", type=click.Path(path_type=Path))
@click.argument("target", metavar="ORG/NAME")
@PRIVATE
@BRANCH
@PR
@click.option("--overwrite", is_flag=True, help="Replace what the target holds, in the same commit.")
@click.option("--dry-run", is_flag=True, help="Check the folder, the token and the target; send nothing.")
@JSON
@QUIET
def push(output: Path, target: str, dry_run: bool, as_json: bool, quiet: bool, **options) -> None:
    """Publish the checkpoint in the folder OUTPUT on the Hub as ORG/NAME.

    Each large file is sent by itself; one commit then shows all files. Nothing is visible before. After a kill or a
    lost connection the same command continues, and sends at most one file again. The token is huggingface_hub's: of
    `hf auth login`, or HF_TOKEN.
    """
    from expo.planning.budget import size
    from expo.publish import files_of, push

    place = target_of({**options, "quiet": quiet}, target)
    sent = lambda name, n_bytes: click.echo(f"arrived: {printable(name)}, {size(n_bytes)}", err=True)  # noqa: E731
    done = push(output, place, dry_run=dry_run, **({} if quiet or as_json else {"say": sent}))
    if done is None:
        files = files_of(output)
        n_bytes = sum(path.stat().st_size for path in files.values())
        if as_json:
            click.echo(json.dumps({"target": place.label, "files": list(files), "n_bytes": n_bytes}))
        else:
            click.echo(f"would publish {plural(len(files), 'file')}, {size(n_bytes)}, as {place.label}")
    elif as_json:
        click.echo(json.dumps(done.record()))
    elif not quiet:
        click.echo(told(done))
