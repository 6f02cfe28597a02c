"""The trained model becomes an ordinary checkpoint: weights in the asked type, config and side files as they came."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from expo.checkpoint.spec import Source
from expo.output.folder import FolderSink
from expo.output.partial import fsync_path
from expo.output.sidecars import copy_side_files
from expo.recipe import parse_size
from expo.train.load import merged
from expo.train.report import TrainReport
from expo.train.settings import TrainSettings
from expo.version import __version__


def write_checkpoint(
    trainer: Any, config: Any, source: Source, settings: TrainSettings, sink: FolderSink, report: TrainReport
) -> None:
    """Fill OUT.partial/files and mark it complete; every process calls this, the main one writes.

    config: of the model as it was loaded; the trainer switches use_cache off, and may change special tokens.
    """
    scratch, files = sink.partial.folder / "training", sink.partial.files
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if not trainer.is_world_process_zero():
        return
    shutil.rmtree(files, ignore_errors=True)  # what a killed run left
    files.mkdir()
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    whole = not settings.lora or settings.lora.merge
    if settings.lora and whole:
        if state is not None:
            model.load_state_dict(state, strict=False)
            state = None
        model = merged(model, config, source, settings, scratch / "adapter")
    _save(model, state, config, settings, files, whole=whole)
    _copy_sides(source, files, report.kind, whole=whole)
    shutil.move(scratch / "runs", files / "runs")
    (files / "runs" / "train.json").write_text(json.dumps(report.record(), indent=2, default=str) + "\n")
    (files / "README.md").write_text(_card(source, report))
    _settle(files)
    sink.partial.mark_done()


def _save(model: Any, state: dict | None, config: Any, settings: TrainSettings, files: Path, *, whole: bool) -> None:
    dtype = getattr(torch, settings.save_dtype)
    if not whole:
        model.save_pretrained(files, state_dict=state)  # an adapter, float32
        return
    if state is None:
        model.to(dtype)  # in place, so that tied weights stay tied
    else:
        state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    config.dtype = dtype
    model.config = config
    if model.can_generate():
        model.generation_config = GenerationConfig()  # the file is copied as it is; an odd one would not be saved
    model.save_pretrained(files, state_dict=state, max_shard_size=parse_size(settings.shard_size))
    (files / "generation_config.json").unlink(missing_ok=True)


def _copy_sides(source: Source, files: Path, kind: str, *, whole: bool) -> None:
    """Tokenizer, chat template, license and code arrive byte for byte; the config is the model's own."""
    left = {"config.json"} | ({"generation_config.json"} if kind == "classify" or not whole else set())
    names = [name for name in source.side_files if name not in left]
    copy_side_files(names, source.folder, files, dtype=None, do_sample=False)


def _card(source: Source, report: TrainReport) -> str:
    base = f"base_model: {source.repo_id}\nbase_model_relation: finetune\n" if source.repo_id else ""
    return (
        f"---\n{base}library_name: transformers\ntags: [expo, {report.kind}]\n---\n\n"
        f"# {source.label}, {report.kind}\n\nTrained with expo {__version__}: {report.steps:,} steps on "
        f"{report.rows:,} rows. Settings and figures are in `runs/train.json`, metrics in `runs/metrics.jsonl`.\n"
    )


def _settle(files: Path) -> None:
    """Everyone whom the umask lets read may read (safetensors writes 0600), and the bytes are on the disk."""
    mask = os.umask(0)
    os.umask(mask)
    for path in files.rglob("*"):
        if path.is_symlink():
            continue
        os.chmod(path, (0o777 if path.is_dir() else 0o666) & ~mask)
        fsync_path(path)
    fsync_path(files)
