"""run(plan, output): stream a plan into a folder and publish it with index, side files, manifest and card."""

import time
from pathlib import Path
from typing import Any

import xxhash

from expo.checkpoint.model_card import license_of
from expo.checkpoint.pipelines import by_folder, own_name
from expo.checkpoint.read_ahead import CONNECTIONS, ReadAhead
from expo.checkpoint.spec import Checkpoint, Source
from expo.errors import DataError, Interrupted, RecipeError
from expo.forks import most_bytes
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
from expo.planning.identity import check_output, records_after_reading
from expo.planning.jobs import Plan
from expo.stream.delivery import ToFolder, delivery_of
from expo.stream.lane import Settings
from expo.stream.loop import Stream, report_of, settings_for
from expo.stream.pieces import Progress
from expo.stream.probe import check_tied, pair_warnings
from expo.stream.ranks import World, world
from expo.stream.report import Report, peak_rss, report_of_manifest
from expo.stream.rest import read_through
from expo.stream.survey import survey
from expo.stream.workers import carry_out


def run(
    plan: Plan,
    output: str | Path | None = None,
    *,
    overwrite: bool = False,
    threads: int | None = None,
    device: str = "cpu",
    gpu_memory: int | None = None,
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
    device: "cpu", "cuda", "cuda:1" or "auto". gpu_memory: bytes of a GPU to take at most; default nine tenths of what
    is free.
    progress: called with the bytes of output finished since the last call. warn: called with each warning's text.
    verify_inputs: read what the run itself did not of files that stay on the Hub, so that their hashes are checked.
    connections: how many requests to the Hub are in flight at a time where inputs stay there.
    checks: False leaves out hashes, finiteness checks and figures, to measure the arithmetic alone.
    target: where on the Hub the output is published too, which has been checked; shards go up when they are finished.
    Under a launcher (torchrun) all processes call it, share the work, and get the report; the first publishes.
    Raises OutputError or DiskFull for the folder, NonFinite, Overflow or CopyMismatch for the data, RankError where
    processes do not fit together; after anything but data errors the same call continues where the run stopped.
    """
    if threads is not None and threads < 1:
        raise RecipeError(f"threads must be at least 1, not {threads}.")
    ranks = world()
    ranks.agree(plan)
    workers = threads or (default_threads() if ranks.here.size == 1 else 1)
    ahead = ReadAhead(connections)
    settings = settings_for(plan, device, workers=workers, gpu_memory=gpu_memory, checks=checks, ahead=ahead)
    delivery = delivery_of(plan, output, overwrite, target)
    warnings = ranks.first(_looked_at, plan, delivery.sink, workers, ahead)
    for text in warnings:
        warn(text)
    try:
        if _is_complete(plan, delivery, ranks):
            report = ranks.first(_report_of_finished, plan, delivery)
        else:
            report = _streamed(plan, delivery, settings, ranks, workers, progress)
            if verify_inputs:
                ranks.first(read_through, plan, ahead)
            found = report.fidelity_warnings(plan.recipe.rounding)
            for text in found:
                warn(text)
            warnings = warnings + found
            ranks.first(_add_small_files, plan, delivery.sink, report)
        report.warnings = warnings
        report.published = ranks.first(delivery.publish)
    except Interrupted:
        delivery.sink.abandon(drop=False)
        raise Interrupted("interrupted. What is written stays: the same command continues.") from None
    except BaseException as error:
        # Data that must not pass will not pass the next time: nothing to continue.
        delivery.sink.abandon(drop=isinstance(error, DataError))
        raise
    finally:
        delivery.close()
    report.peak_rss = sum(ranks.gather(max(peak_rss() + report.peak_rss, most_bytes())))
    return report


def _looked_at(plan: Plan, sink: FolderSink, workers: int, ahead: ReadAhead) -> list[str]:
    """Everything that can be known to fail before the output is begun; returns the warnings."""
    check_output(plan, sink)
    check_memory(plan, workers)
    with one_thread():
        check_tied(plan, ahead)
        return [*plan.warnings, *pair_warnings(plan)]


def _is_complete(plan: Plan, delivery: ToFolder, ranks: World) -> bool:
    """Take the output's place in every process; True if its result is complete already."""
    sink = delivery.sink

    def opened() -> tuple[bool, Any]:
        complete = delivery.open()
        return complete, sink.mark() if ranks.here.size > 1 and not complete else None

    complete, mark = ranks.first(opened)
    ranks.together(lambda: complete or ranks.here.is_first or sink.join(mark, plan.shards, ranks.here.rank))
    return complete


def _streamed(
    plan: Plan, delivery: ToFolder, settings: Settings, ranks: World, workers: int, progress: Progress | None
) -> Report:
    """Survey and stream; the report, whose peak_rss is what further processes had for themselves."""
    began = time.perf_counter()
    surveyed = survey(plan, settings, workers, progress=progress)
    stream = Stream(plan, delivery.sink, settings, surveyed=surveyed, progress=delivery.beside(progress), ahead=workers)
    delivery.follow(stream)
    memory = carry_out(stream, workers)
    report = report_of(stream, delivery.label)
    report.seconds, report.passed, report.peak_rss = time.perf_counter() - began, delivery.passes, memory
    report.fsync_seconds = max(ranks.together(delivery.sink.sync))
    return report


def write_side_files(plan: Plan, folder: Path) -> dict[str, str]:
    """Config, tokenizer, chat template and whatever else lies beside the weights; name -> hash of what was written."""
    source, recipe = plan.donor.source, plan.recipe
    wanted = recipe.output_dtype()
    hashes = copy_side_files(
        plan.side_files,
        source.folder,
        folder,
        # No model is built in an 8-bit type: its config goes on naming the type to compute in.
        dtype=wanted.torch_name if wanted and wanted.bits > 8 else None,
        do_sample=recipe.arithmetic == "reference",
        picked=plan.picked,
        dropped=plan.dropped_entries,
        configs=("config.json", *(f"{part.folder.name}/config.json" for part in source.folders)),
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
    for folder, files in by_folder([shard.name for shard in plan.shards]).items():
        index = _index_of(donor, folder)
        if len(files) > 1 or (index and not files[0].endswith("model.safetensors")):
            _add_index(plan, sink, folder, _index_name(index))
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
    return CardInput(role, source.own_label, source.repo_id, stage, license_of(source))


def _index_of(donor: Checkpoint, folder: str) -> str | None:
    """The donor's index of a sub-folder, or its own."""
    parts = {part.folder.name: part for part in donor.source.folders}
    return parts.get(folder, donor.source).index


def _add_index(plan: Plan, sink: FolderSink, folder: str, name: str) -> None:
    """The index of one folder: its tensors by their own names, in its own files."""
    inside = f"{folder}/" if folder else ""
    jobs = [job for job in plan.jobs if job.file.rpartition("/")[0] == folder]
    weight_map = {own_name(job.name, job.file): job.file.removeprefix(inside) for job in jobs}
    sink.add_index(inside + name, weight_map, sum(job.n_bytes for job in jobs))


def _index_name(index: str | None) -> str:
    """The donor's own name for its index, in safetensors' spelling."""
    return index if index and index.endswith(".safetensors.index.json") else "model.safetensors.index.json"


def _report_of_finished(plan: Plan, delivery: ToFolder) -> Report:
    """The report of a run that had nothing left to do but to appear."""
    return report_of_manifest(plan, delivery.label, read_manifest(delivery.sink.sealed[NAME].parent))
