"""The Hub as the place of a plan's result: what can be known to fail there before any work."""

from pathlib import Path

from expo.errors import OutputError
from expo.output.folder import FolderSink
from expo.output.hub import HubTarget
from expo.output.manifest import NAME
from expo.planning.budget import disk_bytes
from expo.planning.identity import check_output, may_be_result
from expo.planning.jobs import Plan


def checked_target(
    push_to: str | HubTarget | None, output: str | Path | None, *, overwrite: bool = False
) -> HubTarget | None:
    """The target of a run, where access to it has been checked; None without one.

    Raises a PushError, and OutputError where neither a target nor an output is named.
    """
    if push_to is None:
        if output is None:
            raise OutputError("there is no output: name a folder (output), or a target on the Hub (push_to).")
        return None
    target = push_to if isinstance(push_to, HubTarget) else HubTarget(push_to, overwrite=overwrite)
    target.check()
    return target


def check_room(plan: Plan, target: HubTarget) -> None:
    """Raise TargetHolds for a target that holds something else than the plan's result."""
    said = target.read_small(NAME) if target.held.own and not target.replaces else None
    if said is None or not may_be_result(plan, said):
        target.check_room()


def check_passage(plan: Plan, place: Path) -> None:
    """Everything about the place of a result that only passes through; raises OutputError or DiskFull."""
    check_output(plan, FolderSink(place), n_bytes=disk_bytes(plan, passes=True))
