"""run(plan, output): stream a plan into a folder and publish it with index, side files, manifest and card."""

import time
from pathlib import Path

import xxhash

from expo.checkpoint.model_card import license_of
from expo.checkpoint.read_ahead import CONNECTIONS, READ_AHEAD
from expo.checkpoint.spec import Checkpoint, Source
from expo.errors import DataError, Interrupted, OutputError, RecipeError
from expo.methods import find_method
from expo.ops import one_thread
from expo.output.card import CardInput, card
from expo.output.chat_template import write_chat_template
from expo.output.folder import FolderSink
from expo.output.hub import HubTarget
from expo.output.manifest import NAME, as_text, manifest, read_manifest
from expo.output.sidecars import copy_side_files
from expo.output.tokenizer import write_tokenizer
from expo.planning.budget import check_memory, default_threads
from expo.planning.identity import check_output, description, fingerprint, records_after_reading
from expo.planning.jobs import Plan
from expo.stream.loop import Stream, report_of, settings_for
from expo.stream.passing import PassingSink
from expo.stream.pieces import Progress
from expo.stream.probe import check_tied, pair_warnings
from expo.stream.report import Fidelity, Report, peak_rss
from expo.stream.rest import read_through
from expo.stream.survey import survey
from expo.stream.upload import Uploads
from expo.stream.workers import carry_out


def run(
    plan: Plan,
    output: str | Path | None = None,
    *,
    overwrite: bool = False,
    threads: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    checks: bool = True,
    verify_inputs: bool = False,
    connections: int = CONNECTIONS,
    warn=lambda text: None,
    target: HubTarget | None = None,
) -> Report:
    """Write the planned checkpoint to the folder `output`, which appears whole or not at all.

    output: None sends the result to `target` alone: at most two of its shards lie on the disk at a time.

    overwrite: replace an `output` that exists, when the new one is complete.
    threads: workers (processes, for large outputs on the CPU); default one a core. Never changes a byte.
    device: "cpu", "cuda", "cuda:1" or "auto".
    progress: called with the bytes of output finished since the last call. warn: called with each warning's text.
    verify_inputs: read what the run itself did not of files that stay on the Hub, so that their hashes are checked.
    connections: how many requests to the Hub are in flight at a time where inputs stay there.
    checks: False leaves out hashes, finiteness checks and figures, to measure the arithmetic alone.
    target: where on the Hub the output is published too, which has been checked; shards go up when they are finished.
    Raises OutputError or DiskFull for the folder, NonFinite, Overflow or CopyMismatch for the data; after anything
    but those last three, the same call continues where the run stopped.
    """
    if threads is not None and threads < 1:
        raise RecipeError(f"threads must be at least 1, not {threads}.")
    READ_AHEAD.connections = connections
    settings = settings_for(plan, device, checks=checks)
    sink = _sink(plan, output, overwrite, target)
    passing = sink if isinstance(sink, PassingSink) else None
    check_output(plan, sink)
    workers = threads or default_threads()
    check_memory(plan, workers)
    with one_thread():
        check_tied(plan)
        warnings = [*plan.warnings, *pair_warnings(plan)]
    for text in warnings:
        warn(text)
    uploads = None
    try:
        if target:
            target.open(fingerprint(plan))
        complete = sink.open(fingerprint(plan), description(plan), plan.shards)
        if target and not passing:
            uploads = Uploads(plan, sink, target)
        if complete:
            report = _report_of_finished(plan, sink, warnings)
            report.published = (uploads or passing) and (uploads or passing).commit()
            sink.publish()
            return report
        began = time.perf_counter()
        surveyed = survey(plan, settings, workers, progress=progress)
        advance = uploads.beside(progress) if uploads else progress
        stream = Stream(plan, sink, settings, surveyed=surveyed, progress=advance, ahead=workers)
        if passing:
            passing.is_stopped = stream.stop.is_set
        memory = carry_out(stream, workers)
        seconds = time.perf_counter() - began
        report = report_of(stream, target.label if passing else str(sink.output))
        report.seconds, report.passed = seconds, passing is not None
        report.fsync_seconds = sink.sync()
        if verify_inputs:
            read_through(plan)
        found = report.fidelity_warnings(plan.recipe.rounding)
        for text in found:
            warn(text)
        report.warnings = warnings + found
        _add_small_files(plan, sink, report)
        if uploads:
            sink.seal()
            uploads.finish()
        if uploads or passing:
            report.published = (uploads or passing).commit()
        sink.publish()
    except Interrupted:
        sink.abandon(drop=False)
        raise Interrupted("interrupted. What is written stays: the same command continues.") from None
    except BaseException as error:
        # Data that must not pass will not pass the next time: nothing to continue.
        sink.abandon(drop=isinstance(error, DataError))
        raise
    finally:
        if passing:
            passing.let_target_go()
        elif target:
            uploads.abandon() if uploads else target.close()
    report.peak_rss = peak_rss() + memory
    return report


def write_side_files(plan: Plan, folder: Path) -> dict[str, str]:
    """Config, tokenizer, chat template and whatever else lies beside the weights; name -> hash of what was written."""
    source, recipe = plan.donor.source, plan.recipe
    wanted = recipe.output_dtype()
    hashes = copy_side_files(
        source.side_files,
        source.folder,
        folder,
        # No model is built in an 8-bit type: its config goes on naming the type to compute in.
        dtype=wanted.torch_name if wanted and wanted.bits > 8 else None,
        do_sample=recipe.arithmetic == "reference",
        picked=plan.picked,
    )
    if plan.sides.tokenizer:
        hashes = write_tokenizer(plan.sides.tokenizer, folder, hashes)
    if plan.sides.chat_template is not None:
        hashes = write_chat_template(plan.sides.chat_template, folder, hashes)
    return hashes


def _add_small_files(plan: Plan, sink: FolderSink, report: Report) -> None:
    """Index, side files, card and manifest: the manifest last, for it states the others."""
    donor, recipe = plan.donor, plan.recipe
    method = find_method(recipe.method)
    with sink.full_disk_is_clear():
        side_files = write_side_files(plan, sink.partial.files)
    # transformers would not know which to believe, a model.safetensors or an index beside it.
    if len(plan.shards) > 1 or (donor.source.index and plan.shards[0].name != "model.safetensors"):
        n_bytes = sum(job.n_bytes for job in plan.jobs)
        sink.add_index(_index_name(donor), plan.weight_map, n_bytes)
    sources = [
        _card_input(name, part, plan.uses.get(name) if part is checkpoint.source else None)
        for name, checkpoint in plan.inputs.items()
        for part in (checkpoint.source, *checkpoint.source.adapters)
    ]
    sink.add_file(
        "README.md",
        card(
            method.name,
            method.formula,
            method.paper,
            recipe.record(),
            sources,
            report.effective(),
            plan.stages,
            plan.search,
        ),
    )
    content = manifest(
        recipe.record(),
        records_after_reading(plan),
        {s.name: {"n_bytes": s.n_bytes, "header": xxhash.xxh3_128_hexdigest(s.header)} for s in plan.shards},
        side_files,
        report.hashes,
        report.effective(),
        plan.left_out,
        plan.stages,
        plan.search,
    )
    sink.add_file(NAME, as_text(content))


def _card_input(role: str, source: Source, stage: str | None) -> CardInput:
    own = f"{source.repo_id}@{source.revision}" if source.repo_id else source.folder.name
    return CardInput(role, own, source.repo_id, stage, license_of(source))


def _index_name(donor: Checkpoint) -> str:
    """The donor's own name for its index, in safetensors' spelling."""
    index = donor.source.index
    return index if index and index.endswith(".safetensors.index.json") else "model.safetensors.index.json"


def _sink(plan: Plan, output: str | Path | None, overwrite: bool, target: HubTarget | None) -> FolderSink:
    """Where the result goes: a folder, or through this machine to the Hub."""
    if output is not None:
        return FolderSink(output, overwrite=overwrite)
    if target is None:
        raise OutputError("there is no output: name a folder, or a target on the Hub.")
    return PassingSink(plan, target)


def _report_of_finished(plan: Plan, sink: FolderSink, warnings: list[str]) -> Report:
    """The report of a run that had nothing left to do but to appear."""
    effective = read_manifest(sink.sealed[NAME].parent)["effective"]
    return Report(
        output=sink.target.label if isinstance(sink, PassingSink) else str(sink.output),
        tensors=len(plan.jobs),
        n_bytes_written=plan.n_bytes_written,
        alpha=plan.recipe.asked_alpha,
        fidelity=Fidelity(effective["multiple"], effective["cosine"]),
        groups={name: Fidelity(g["multiple"], g["cosine"]) for name, g in effective["groups"].items()},
        warnings=warnings,
        peak_rss=peak_rss(),
    )
