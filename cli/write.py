"""What every command that writes a checkpoint does after it has a recipe: plan, run, and say what came of it."""

import json
import os
import shlex
from typing import Any

import click

from expo.cli.hub_options import target_of, told
from expo.recipe import Recipe, parse_size


def write(recipe: Recipe, options: dict[str, Any]) -> None:
    """Plan and run a recipe under the shared options; prints the plan or the summary."""
    from expo.output.folder import FolderSink
    from expo.planning.budget import check_memory, default_threads, summary, totals
    from expo.planning.build import plan
    from expo.planning.identity import check_output
    from expo.planning.on_the_hub import check_passage, check_room

    quiet, as_json = options["quiet"], options["as_json"]
    target = target_of(options)
    if options["output"] is None and target is None:
        raise click.UsageError("Name the output: -o OUTPUT, or --push-to ORG/NAME.")
    if target:
        target.check()
    check_device(options)
    planned = plan(recipe)
    threads = options["threads"] or default_threads()
    passes = options["output"] is None
    if passes:
        check_passage(planned, target.place)
    else:
        check_output(planned, FolderSink(options["output"], overwrite=options["overwrite"]))
    check_memory(planned, threads)
    if target:
        check_room(planned, target)
    if options["dry_run"]:
        if as_json:
            click.echo(json.dumps({"plan": totals(planned, threads, passes=passes), "warnings": planned.warnings}))
        else:
            click.echo(summary(planned, threads, passes=passes))
            warn(*planned.warnings)
        return
    if not quiet:
        click.echo(summary(planned, threads, passes=passes), err=True)
    report = stream(planned, options["output"], options["overwrite"], options, target)
    if as_json:
        click.echo(json.dumps(report.record()))
    elif not quiet:
        click.echo(closing(report))


def stream(planned, output, overwrite: bool, options: dict[str, Any], target=None):
    """Run a plan into a folder, and onto the Hub, with a progress bar; returns the report."""
    from expo.cli.main import loading
    from expo.cli.progress import Progress

    with loading():
        from expo.stream import run  # torch loads here, after all that can fail without it

    moved = (planned.n_bytes_read + planned.n_bytes_written) / max(1, planned.n_bytes_written)
    total = sum(job.n_bytes for job in planned.jobs)
    with Progress(total, moved_for_each=moved, quiet=options["quiet"]) as progress:
        return run(
            planned,
            output,
            overwrite=overwrite,
            threads=options["threads"],
            device=options["device"],
            gpu_memory=gpu_memory(options),
            progress=progress,
            verify_inputs=options["verify_inputs"],
            connections=options["connections"],
            warn=warn,
            target=target,
        )


def check_device(options: dict[str, Any]) -> None:
    """Raise ExpoError for a device that is not here; the CPU always is."""
    if options["device"] not in ("cpu", "auto"):
        from expo.cli.main import loading

        with loading():
            from expo.stream.device import pick_device
        pick_device(options["device"])


def gpu_memory(options: dict[str, Any]) -> int | None:
    """Bytes that --gpu-memory names."""
    return parse_size(options["gpu_memory"]) if options["gpu_memory"] else None


def closing(report) -> str:
    """The summary that closes a run; what it says to do next is of the very commit, where nothing lies here."""
    from expo.planning.budget import size

    record, done = report.record(), report.published
    passed = done and not os.path.isabs(report.output)
    place = f"{done.repo_id}@{done.commit} --stream" if passed else shlex.quote(report.output)
    next_one = f"next: expo verify {place}"
    if passed and done.already and not report.seconds:
        return f"{told(done)}\n{next_one}"
    lines = [
        f"wrote {report.output}: {report.tensors} tensors, {size(report.n_bytes_written)} "
        f"in {report.seconds:.2f} s + {report.fsync_seconds:.2f} s {'to the Hub' if report.passed else 'to the disk'}"
        + (f", {record['gb_per_second']:.2f} GB/s read and written" if record["gb_per_second"] else "")
        + f", peak memory {report.peak_rss / 2**20:.0f} MiB"
    ]
    if report.segments_resumed:
        lines.append(f"continued: {report.segments_resumed} segments of an earlier run were kept")
    if report.effective_alpha is not None:
        lines.append(
            f"effective alpha {report.effective_alpha:g} of {report.alpha:g} asked, cosine {report.fidelity.cosine:.4f}"
        )
    if report.published:
        lines.append(told(report.published))
    lines.append(next_one)
    return "\n".join(lines)


def warn(*texts: str) -> None:
    from expo.cli.tables import printable

    for text in texts:
        click.echo(f"warning: {printable(text)}", err=True)
