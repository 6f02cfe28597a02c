"""What a run leaves unread of files that stay on the Hub, read for the sake of their hashes."""

from expo.checkpoint.read_ahead import ReadAhead
from expo.planning.identity import every_input
from expo.planning.jobs import Plan


def read_through(plan: Plan, ahead: ReadAhead) -> None:
    """Read every file that stays on the Hub to its end; raises ChangedFile where its hash is not the Hub's."""
    for checkpoint in every_input(plan).values():
        files = [file.remote for file in checkpoint.every_file if file.remote]
        if files:
            ahead.read_through(files)
        for file in files:
            file.refuse_unsound()
