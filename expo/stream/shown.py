"""The result of several stages that went to the Hub alone: seen there, its command need not make them again."""

import json
from contextlib import suppress

from expo.errors import PushError
from expo.output.hub import HubTarget
from expo.output.hub_commit import already_shown
from expo.output.manifest import NAME
from expo.output.shown import note_shown, shown_at
from expo.planning.jobs import Plan
from expo.stream.report import Report, report_of_manifest


def shown_result(plan: Plan, target: HubTarget, identity: str) -> Report | None:
    """The report of a result that a target shows since an earlier command; the target must be checked.

    plan: of the last stage. identity: of all stages. Raises TargetHolds where it was changed since, and a PushError.
    """
    seen = None if target.pr else shown_at(target.key, identity)
    if seen is None or target.branch_is_absent:
        return None
    if not seen.is_in(target.held):
        target.check_room()
        return None
    report = report_of_manifest(plan, target.label, json.loads(target.read_small(NAME)))
    report.published, report.passed = already_shown(target), True
    return report


def note_result(target: HubTarget, identity: str, report: Report) -> None:
    """Remember that a target shows the result of all stages."""
    if report.published and not target.pr:
        with suppress(PushError):  # all is published; the same command would only have more to do
            if content := target.look(report.published.commit):
                note_shown(target.key, identity, content)
