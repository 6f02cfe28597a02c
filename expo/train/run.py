"""One training run from rows to a published folder: what all three trainers do around their losses.

OUT.partial/training/checkpoint-N  where a killed run goes on
OUT.partial/training/run.json      what the run was told (expo.train.identity)
OUT.partial/training/runs/         metrics.jsonl, and what report_to writes; becomes OUT/runs
"""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import PrinterCallback, set_seed

from expo.checkpoint import open_checkpoint
from expo.checkpoint.spec import Checkpoint, Source
from expo.errors import AnotherRun
from expo.output.folder import FolderSink
from expo.train.arguments import check_arguments, last_checkpoint, needs_cpu, tokens_until, training_arguments
from expo.train.encode import Encoded, Limits
from expo.train.errors import ElsewhereStopped, NonFiniteLoss, OutOfMemory
from expo.train.identity import differences, fingerprint, identity, note
from expo.train.load import (
    Loaded,
    check_vocabulary,
    context_of,
    filler_of,
    load_causal,
    load_tokenizer,
    need_packages,
    quietly,
    text_config,
)
from expo.train.processes import among_processes
from expo.train.publish import write_checkpoint
from expo.train.report import TrainReport
from expo.train.rows import Kept
from expo.train.settings import TrainSettings
from expo.train.watch import Watch, peak_memory

_WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Task:
    """What tells the trainers apart."""

    kind: str
    kept: Kept
    check_template: Callable
    encode: Callable[[Any, list, Limits, Any], Encoded]
    collate: Callable[[Any, int], dict]
    trainer: type
    load: Callable[[Source, Any, int], Loaded] = lambda source, settings, filler: load_causal(source, settings)
    ready: Callable[[Any], None] = lambda trainer: None  # called before the first step


class Prepared(NamedTuple):
    """All that is known before a weight is read."""

    checkpoint: Checkpoint
    tokenizer: Any
    encoded: Encoded
    plan: TrainReport
    told: dict  # what decides the result


@among_processes()
def train(
    task: Task,
    model: str | Path,
    output: str | Path,
    settings: TrainSettings,
    *,
    overwrite: bool,
    dry_run: bool,
    progress: Callable[[int, int, dict], object] | None,
    warn: Callable[[str], object] | None,
) -> TrainReport:
    """Do the whole run; the report says what came of it."""
    state = PartialState(cpu=needs_cpu(settings))
    sink = FolderSink(output, overwrite=overwrite)
    with quietly():
        prepared = _prepare(task, model, output, settings, state.num_processes)
        with _together(state):
            if state.is_main_process:
                _check(sink, prepared, settings, dry_run)
        _tell(prepared.plan, warn if state.is_main_process else None)
        if dry_run:
            return prepared.plan
        with _together(state):
            complete = [state.is_main_process and _take(sink, prepared)]
        if broadcast_object_list(complete)[0]:
            return _finished(sink, prepared.plan) if state.is_main_process else prepared.plan
        try:
            report = _fit(task, prepared, settings, sink, progress)
            state.wait_for_everyone()
            if state.is_main_process:
                sink.partial.publish(overwrite=overwrite)
        except BaseException:
            if state.is_main_process and not _holds_anything(sink):
                sink.partial.drop()
            raise
        finally:
            sink.partial.release()
    return report


# --- Before the weights ----------------------------------------------------------------------------------------------


def _prepare(task: Task, model: str | Path, output: str | Path, settings: TrainSettings, processes: int) -> Prepared:
    checkpoint = open_checkpoint(model)
    source = checkpoint.source
    need_packages(settings)
    check_arguments(settings)
    tokenizer = load_tokenizer(source, settings)
    config = text_config(source, settings)
    max_length, context = context_of(config, source.text, settings)
    limits = Limits(max_length, settings.too_long, context)
    task.check_template(tokenizer, task.kept.rows, settings.chat, source.text)
    encoded = task.encode(tokenizer, task.kept.rows, limits, settings)
    rows = encoded.rows
    check_vocabulary(max(max(ids) for row in rows for ids in _ids(row)), config, source)
    plan = TrainReport(
        kind=task.kind,
        model=str(model),
        output=str(output),
        rows=len(rows),
        dropped={**task.kept.dropped, **encoded.dropped},
        truncated=encoded.truncated,
        max_length=limits.max_length,
        tokens_each_epoch=sum(len(ids) for row in rows for ids in _ids(row)),
        steps=n_steps(len(rows), settings, processes),
        settings=dataclasses.asdict(settings),
    )
    return Prepared(checkpoint, tokenizer, encoded, plan, identity(task.kind, checkpoint, rows, settings, processes))


def n_steps(n_rows: int, settings: TrainSettings, processes: int) -> int:
    """Optimizer steps of the whole run."""
    batches = math.ceil(n_rows / (settings.batch_size * processes))
    each_epoch = math.ceil(batches / settings.accumulation)
    return settings.max_steps or math.ceil(settings.epochs * each_epoch)


def _ids(row: Any) -> list:
    return [row.ids] if hasattr(row, "ids") else [row.chosen.ids, row.rejected.ids]


def _check(sink: FolderSink, prepared: Prepared, settings: TrainSettings, dry_run: bool) -> None:
    """Output and disk, before anything is written: the result, and one checkpoint to resume from."""
    unwanted = not settings.resume and sink.partial.fingerprint() is not None
    if unwanted and dry_run:
        return
    if unwanted:
        sink.partial.drop()
    n_bytes = prepared.checkpoint.n_parameters * _WIDTH[settings.save_dtype]
    if settings.save_every and prepared.plan.steps > settings.save_every and not settings.lora:
        n_bytes += prepared.checkpoint.n_parameters * 12  # float32 weights and Adam's two moments
    try:
        sink.check({"model": prepared.checkpoint.source.folder}, n_bytes, fingerprint(prepared.told))
    except AnotherRun as error:
        found = [f"  {line}" for line in differences(prepared.told, sink.partial.folder / "training")]
        if not found:
            raise AnotherRun(f"{error}\nOr repeat this command with --restart.") from None
        first = f"{sink.partial.folder} belongs to another run. What differs:"
        last = "To go on with that one, repeat its command. To drop it and begin anew: --restart."
        raise AnotherRun("\n".join([first, *found, last])) from None


@contextlib.contextmanager
def _together(state: PartialState) -> Iterator[None]:
    """What the main process raises here stops the others too, which would wait for it in vain."""
    stopped: Exception | None = None
    try:
        yield
    except Exception as error:
        stopped = error
    told = [stopped is not None]
    broadcast_object_list(told)
    if stopped is not None:
        raise stopped
    if told[0]:
        raise ElsewhereStopped("The main process stopped before training.")


def _tell(plan: TrainReport, warn: Callable[[str], object] | None) -> None:
    if warn and (plan.dropped or plan.truncated):
        left_out = [f"{n:,} {'row' if n == 1 else 'rows'} left out ({kind})" for kind, n in plan.dropped.items()]
        cut = [f"completions cut at {plan.max_length:,} tokens: {plan.truncated:,}"] if plan.truncated else []
        warn(f"{'; '.join(left_out + cut)}; rows that remain: {plan.rows:,}.")


def _take(sink: FolderSink, prepared: Prepared) -> bool:
    """Take the partial folder; True if an earlier run left it finished."""
    sink.partial.open(fingerprint(prepared.told), f"train {prepared.plan.kind}")
    if sink.partial.state() != "open":
        return True
    note(prepared.told, sink.partial.folder / "training")
    return False


def _holds_anything(sink: FolderSink) -> bool:
    """Whether a failed run left something to go on from."""
    return sink.partial.state() != "open" or last_checkpoint(sink.partial.folder / "training") is not None


def _finished(sink: FolderSink, plan: TrainReport) -> TrainReport:
    """Publish what a killed run had completed."""
    sink.partial.publish(overwrite=sink.overwrite)
    told = json.loads((sink.output / "runs" / "train.json").read_text())
    known = {field.name for field in dataclasses.fields(TrainReport)}
    return dataclasses.replace(plan, **{name: value for name, value in told.items() if name in known})


# --- With the weights ------------------------------------------------------------------------------------------------


def _fit(task: Task, prepared: Prepared, settings: TrainSettings, sink: FolderSink, progress: Any) -> TrainReport:
    began = time.monotonic()
    scratch = sink.partial.folder / "training"
    source, filler = prepared.checkpoint.source, filler_of(prepared.tokenizer)
    set_seed(settings.seed)  # before new weights are drawn
    loaded = task.load(source, settings, filler)
    watch = Watch(scratch / "runs" / "metrics.jsonl", progress)
    rows = prepared.encoded.rows
    trainer = task.trainer(
        model=loaded.model,
        args=training_arguments(settings, scratch, prepared.plan.steps),
        data_collator=lambda batch: task.collate(batch, filler),
        train_dataset=list(enumerate(rows)),
        callbacks=[watch],
        where=[row.where for row in rows],
        settings=settings,
    )
    trainer.remove_callback(PrinterCallback)  # prints on stdout
    start = last_checkpoint(scratch) if settings.resume else None
    resumed_at = int(start.name.split("-")[1]) if start else 0
    trainer.tokens_before = tokens_until(start) if start else 0
    if trainer.is_world_process_zero():
        watch.forget_after(resumed_at)
    task.ready(trainer)
    _run(trainer, start, scratch)
    leg_tokens = trainer.leg_tokens()
    report = dataclasses.replace(
        prepared.plan,
        trainable=sum(p.numel() for p in loaded.model.parameters() if p.requires_grad),
        tokens=trainer.tokens_before + leg_tokens,
        leg_tokens=leg_tokens,
        loss=watch.last.get("loss"),
        metrics=watch.last,
        peak_memory=peak_memory(),
        resumed_at=resumed_at,
    )
    report = dataclasses.replace(report, seconds=time.monotonic() - began)
    write_checkpoint(trainer, loaded.config, source, settings, sink, report)
    return report


def _run(trainer: Any, start: Path | None, scratch: Path) -> None:
    try:
        trainer.train(resume_from_checkpoint=str(start) if start else None)
    except NonFiniteLoss as error:
        kept = last_checkpoint(scratch)
        where = f"The last good checkpoint is kept: {kept}." if kept else "No checkpoint had been written yet."
        raise NonFiniteLoss(f"{error}\n{where}") from error
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"The device ran out of memory: {str(error).splitlines()[0]}\n"
            "Try a smaller --batch-size with more --accumulation, --activation-checkpointing, or --lora-rank 16."
        ) from error
