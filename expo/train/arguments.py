"""Settings become transformers' TrainingArguments; and the checkpoint that a killed run left."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from expo.errors import nearest
from expo.train.errors import BadSetting
from expo.train.settings import TrainSettings


def needs_cpu(settings: TrainSettings) -> bool:
    """Whether training runs on the CPU."""
    return settings.device == "cpu" or not torch.accelerator.is_available()


def check_arguments(settings: TrainSettings) -> None:
    """Raise BadSetting for what this machine and its transformers do not offer; reads no model."""
    _check_reports(settings)
    _check_bf16(settings)
    _check_optimizer(settings)


def training_arguments(settings: TrainSettings, folder: Path, steps: int) -> TrainingArguments:
    """The arguments of a run of `steps` steps whose checkpoints lie in `folder`."""
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        max_steps=steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        warmup_steps=round(settings.warmup * steps if settings.warmup < 1 else settings.warmup),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=settings.optimizer,
        bf16=settings.precision == "bf16",
        use_cpu=needs_cpu(settings),
        seed=settings.seed,
        data_seed=settings.seed,
        logging_steps=settings.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps" if settings.save_every else "no",
        save_steps=settings.save_every or 500,
        save_total_limit=1,
        report_to=list(settings.report_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=[],
        log_level="error",
        ddp_find_unused_parameters=False,
        **_checkpointing(settings),
    )


def _checkpointing(settings: TrainSettings) -> dict[str, Any]:
    if not settings.activation_checkpointing:
        return {}
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    word = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    return {word: True, f"{word}_kwargs": {"use_reentrant": False}}


def _check_reports(settings: TrainSettings) -> None:
    from transformers.integrations import get_available_reporting_integrations

    if not settings.report_to:
        return
    there = get_available_reporting_integrations()
    for name in settings.report_to:
        if name not in there:
            offer = nearest(name, there)
            raise BadSetting(
                f"report_to: {name!r} is not installed, or not known to transformers.{offer} "
                f"Installed here: {', '.join(there) or 'none'}. To install it: pip install {name}"
            )


def _check_optimizer(settings: TrainSettings) -> None:
    known = [name.value for name in OptimizerNames]
    if settings.optimizer not in known:
        raise BadSetting(
            f"optimizer (--optimizer): transformers has no {settings.optimizer!r}.{nearest(settings.optimizer, known)} "
            f"It has: {', '.join(known)}."
        )
    try:
        Trainer.get_optimizer_cls_and_kwargs(training_arguments(settings, Path("unused"), 1))
    except (ValueError, ImportError, RuntimeError) as error:
        raise BadSetting(f"optimizer (--optimizer): {settings.optimizer} cannot be used here: {error}") from error


def _check_bf16(settings: TrainSettings) -> None:
    from transformers.utils import is_torch_bf16_gpu_available

    if settings.precision == "bf16" and not needs_cpu(settings) and not is_torch_bf16_gpu_available():
        raise BadSetting("precision: this device has no bfloat16 arithmetic. Use --precision float32.")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; those that a kill cut are removed."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    for path in sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        if _is_whole(path):
            return path
        shutil.rmtree(path, ignore_errors=True)
    return None


def tokens_until(checkpoint: Path) -> int:
    """Tokens that were trained on until a whole checkpoint was written."""
    return json.loads((checkpoint / "trainer_state.json").read_text()).get("num_input_tokens_seen", 0)


def _is_whole(checkpoint: Path) -> bool:
    """trainer_state.json is written last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
        return True
    except (OSError, ValueError):
        return False
