"""expo w2s supervision: a whole study of what makes good supervision, from one run file."""

from collections.abc import Mapping
from typing import Any

import click

from expo.cli.w2s_run import drive, pipeline_options


@click.command(short_help="Study what makes good supervision: error rates, subtasks, paraphrases; a grid that resumes.")
@pipeline_options
def supervision(**options: Any) -> None:
    """Guiding Through Complexity (arXiv:2410.20533): build supervision sets, train on each, test, report the grid.

    The sets differ in outcome error rate, step-wise error rate, and in what they are mixed of: hard tasks, their
    subtasks, paraphrases. Decomposition, judging and mixing were not published as code; prompts, samplers and the judge
    of steps are ours, and docs/supervision.md says where the paper did otherwise.

    The paper's step-wise error rates were annotated by people, on 50 problems; these are a judge's, or on the embedded
    task exact.

    RUN.yaml is a file, or the name of one that comes with expo (--list). A killed study continues in the cell it was in
    when the same command is repeated. A stage whose inputs and settings are unchanged is passed over.
    """
    from expo.weak_to_strong.supervision.grid import build, check
    from expo.weak_to_strong.supervision.runfile import SupervisionFile

    drive(SupervisionFile, build, check, _show, **options)


def _show(facts: Mapping[str, Any]) -> None:
    from expo.cli.tables import show_table
    from expo.weak_to_strong.supervision.text import HEADINGS, claim_lines, gain_lines, rows

    for test, found in facts["tests"].items():
        click.echo(f"\n{test}")
        show_table(HEADINGS, rows(found["cells"], facts["sets"]))
        for line in (*gain_lines(found["gains"]), *claim_lines(found["claims"])):
            click.echo(line)
