"""Options of every command that publishes on the Hub."""

import sys
from typing import Any

import click

PRIVATE = click.option("--private", is_flag=True, help="Make a new repository private.")
BRANCH = click.option("--branch", metavar="NAME", help="Commit on this branch; it is made if it is not there.")
PR = click.option("--pr", is_flag=True, help="Open a pull request instead of committing.")
PUSH_TO = click.option(
    "--push-to",
    metavar="ORG/NAME",
    help="Publish the result on the Hub, in one commit; without -o it is kept nowhere else.",
)


TARGET = [PRIVATE, BRANCH, PR]  # how a target is written to
PUSHING = [PUSH_TO, *TARGET]  # of commands that make a result
AGAINST = click.option(
    "--against",
    metavar="PUBLISHED",
    help="Compare with a published checkpoint (folder or Hub id, read by ranges) tensor by tensor.",
)


def target_of(options: dict[str, Any], repo_id: str | None = None):
    """The HubTarget that the options name; None without --push-to."""
    from expo.cli.progress import is_terminal
    from expo.output.hub import HubTarget

    repo_id = repo_id or options.get("push_to")
    given = [f"--{name}" for name in ("private", "branch", "pr") if options.get(name)]
    if repo_id is None:
        if given:
            raise click.UsageError(f"{given[0]} says how a target is written to: name it with --push-to ORG/NAME.")
        return None
    if options.get("branch") and options.get("pr"):
        raise click.UsageError("--branch and --pr exclude each other.")
    return HubTarget(
        repo_id,
        private=options["private"],
        branch=options["branch"],
        pr=options["pr"],
        overwrite=options["overwrite"],
        show_progress=not options["quiet"] and is_terminal(sys.stderr),
    )


def told(done) -> str:
    """What came of a push, in words."""
    from expo.cli.tables import plural
    from expo.planning.budget import size

    if done.already:
        return f"{done.url} holds exactly this already: nothing was committed"
    kept = f", {plural(done.n_kept, 'large file')} had arrived earlier" if done.n_kept else ""
    sent = f"{plural(done.n_sent, 'large file')} ({size(done.n_bytes_sent)}) sent{kept}"
    return f"published {done.url}: {plural(done.n_files, 'file')} in one commit; {sent}"
