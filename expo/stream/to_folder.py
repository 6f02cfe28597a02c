"""run(plan, output): stream a plan into a folder and publish it with index, side files, manifest and card."""

import time
from pathlib import Path

import xxhash

from expo.checkpoint.pipelines import by_folder, own_name
from expo.checkpoint.spec import Checkpoint
from expo.errors import DataError, Interrupted, RecipeError
from expo.methods import find_method
from expo.ops import one_thread
from expo.output.card import CardInput, card
from expo.output.chat_template import write_chat_template
from expo.output.folder import FolderSink
from expo.output.manifest import NAME, as_text, manifest, read_manifest
from expo.output.sidecars import copy_side_files
from expo.output.tokenizer import write_tokenizer
from expo.planning.budget import check_memory, default_threads
from expo.planning.identity import check_output, description, fingerprint, input_records
from expo.planning.jobs import Plan
from expo.stream.loop import Stream, report_of, settings_for
from expo.stream.pieces import Progress
from expo.stream.probe import check_tied, pair_warnings
from expo.stream.report import Fidelity, Report, peak_rss
from expo.stream.survey import survey
from expo.stream.workers import carry_out


def run(
    plan: Plan,
    output: str | Path,
    *,
    overwrite: bool = False,
    threads: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    checks: bool = True,
    warn=lambda text: None,
) -> Report:
    """Write the planned checkpoint to the folder `output`, which appears whole or not at all.

    overwrite: replace an `output` that exists, when the new one is complete.
    threads: workers (processes, for large outputs on the CPU); default one a core. Never changes a byte.
    device: "cpu", "cuda", "cuda:1" or "auto".
    progress: called with the bytes of output finished since the last call. warn: called with each warning's text.
    checks: False leaves out hashes, finiteness checks and figures, to measure the arithmetic alone.
    Raises OutputError or DiskFull for the folder, NonFinite, Overflow or CopyMismatch for the data; after anything
    but those last three, the same call continues where the run stopped.
    """
    if threads is not None and threads < 1:
        raise RecipeError(f"threads must be at least 1, not {threads}.")
    settings = settings_for(plan, device, checks=checks)
    sink = FolderSink(output, overwrite=overwrite)
    check_output(plan, sink)
    workers = threads or default_threads()
    check_memory(plan, workers)
    with one_thread():
        check_tied(plan)
        warnings = [*plan.warnings, *pair_warnings(plan)]
    for text in warnings:
        warn(text)
    try:
        if sink.open(fingerprint(plan), description(plan), plan.shards):
            sink.publish()
            return _report_of_finished(plan, sink.output, warnings)
        began = time.perf_counter()
        surveyed = survey(plan, settings, workers, progress=progress)
        stream = Stream(plan, sink, settings, surveyed=surveyed, progress=progress, ahead=workers)
        memory = carry_out(stream, workers)
        seconds = time.perf_counter() - began
        report = report_of(stream, str(sink.output))
        report.seconds = seconds
        report.fsync_seconds = sink.sync()
        found = report.fidelity_warnings(plan.recipe.rounding)
        for text in found:
            warn(text)
        report.warnings = warnings + found
        _add_small_files(plan, sink, report)
        sink.publish()
    except Interrupted:
        sink.abandon(drop=False)
        raise Interrupted("interrupted. What is written stays: the same command continues.") from None
    except BaseException as error:
        # Data that must not pass will not pass the next time: nothing to continue.
        sink.abandon(drop=isinstance(error, DataError))
        raise
    report.peak_rss = peak_rss() + memory
    return report


def _add_small_files(plan: Plan, sink: FolderSink, report: Report) -> None:
    """Index, side files, card and manifest: the manifest last, for it states the others."""
    donor, recipe = plan.donor, plan.recipe
    method = find_method(recipe.method)
    wanted = recipe.output_dtype()
    with sink.full_disk_is_clear():
        side_files = copy_side_files(
            plan.side_files,
            donor.source.folder,
            sink.partial.files,
            # No model is built in an 8-bit type: its config goes on naming the type to compute in.
            dtype=wanted.torch_name if wanted and wanted.bits > 8 else None,
            do_sample=recipe.arithmetic == "reference",
            picked=plan.picked,
            dropped=plan.dropped_entries,
            configs=("config.json", *(f"{part.folder.name}/config.json" for part in donor.source.folders)),
        )
        if plan.sides.tokenizer:
            side_files = write_tokenizer(plan.sides.tokenizer, sink.partial.files, side_files)
        if plan.sides.chat_template is not None:
            side_files = write_chat_template(plan.sides.chat_template, sink.partial.files, side_files)
    # transformers would not know which to believe, a model.safetensors or an index beside it.
    for folder, files in by_folder([shard.name for shard in plan.shards]).items():
        index = _index_of(donor, folder)
        if len(files) > 1 or (index and not files[0].endswith("model.safetensors")):
            _add_index(plan, sink, folder, _index_name(index))
    sources = [
        CardInput(name, part.label, part.repo_id, plan.uses.get(name) if part is checkpoint.source else None)
        for name, checkpoint in plan.inputs.items()
        for part in (checkpoint.source, *checkpoint.source.adapters)
    ]
    sink.add_file(
        "README.md",
        card(method.name, method.formula, method.paper, recipe.record(), sources, report.effective(), plan.stages),
    )
    content = manifest(
        recipe.record(),
        input_records(plan),
        {s.name: {"n_bytes": s.n_bytes, "header": xxhash.xxh3_128_hexdigest(s.header)} for s in plan.shards},
        side_files,
        report.hashes,
        report.effective(),
        plan.left_out,
        plan.stages,
    )
    sink.add_file(NAME, as_text(content))


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


def _report_of_finished(plan: Plan, output: Path, warnings: list[str]) -> Report:
    """The report of a run that had nothing left to do but to appear."""
    effective = read_manifest(output)["effective"]
    return Report(
        output=str(output),
        tensors=len(plan.jobs),
        n_bytes_written=plan.n_bytes_written,
        alpha=plan.recipe.asked_alpha,
        fidelity=Fidelity(effective["multiple"], effective["cosine"]),
        groups={name: Fidelity(g["multiple"], g["cosine"]) for name, g in effective["groups"].items()},
        warnings=warnings,
        peak_rss=peak_rss(),
    )
