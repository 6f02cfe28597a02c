"""What can be set about a training run: plain dataclasses that a YAML mapping fills. Imports no torch."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from expo.errors import ExpoError, nearest
from expo.recipe import parse_size
from expo.train.errors import BadSetting

_OPTIONS = {"learning_rate": "--lr", "save_dtype": "--dtype"}  # others are spelled as the setting is


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters in place of all weights (peft)."""

    rank: int = 16
    alpha: float | None = None  # twice the rank, unless given
    dropout: float = 0.0
    targets: tuple[str, ...] = ()  # names of linear layers; none: all but the head
    merge: bool = True  # write one whole checkpoint; False writes the adapter alone

    @classmethod
    def of(cls, mapping: Mapping[str, Any]) -> Self:
        """Settings from a mapping; BadSetting names an unknown or ill-typed field."""
        return _from_mapping(cls, mapping)

    def __post_init__(self) -> None:
        _check(self.rank >= 1, "lora.rank", self.rank, "at least 1")
        _check(0 <= self.dropout < 1, "lora.dropout", self.dropout, "from 0 to below 1")


@dataclass(frozen=True)
class TrainSettings:
    """What all trainers share."""

    learning_rate: float = 1e-5
    epochs: float = 1.0
    max_steps: int | None = None  # instead of epochs
    batch_size: int = 8  # rows, or pairs, that one process takes at a time
    accumulation: int = 1  # batches before a step
    max_length: int | None = None  # tokens of prompt and completion; None: the model's context
    too_long: Literal["error", "drop", "truncate"] = "error"  # truncate cuts completions, never prompts
    bad_rows: Literal["error", "drop"] = "error"  # empty completions, pairs with chosen = rejected
    chat: bool = False  # plain prompts become a user's message; messages are always rendered
    split: str = "train"  # of a `datasets` id
    seed: int = 0
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # all begin with the warm-up
    warmup: float = 0.1  # below 1 a share of all steps, else steps
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optimizer: str = "adamw_torch"  # any `optim` of transformers
    precision: Literal["bf16", "float32"] = "bf16"  # of the arithmetic; weights are float32 whatever it is
    save_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    shard_size: str = "5GB"
    activation_checkpointing: bool = False
    lora: LoraSettings | None = None
    quantization: Literal["nf4"] | None = None  # of the frozen base under lora
    attention: str | None = None  # transformers' attn_implementation
    trust_remote_code: bool = False
    device: Literal["auto", "cpu"] = "auto"
    save_every: int = 500  # steps between checkpoints to resume from; 0: none
    log_every: int = 10
    report_to: tuple[str, ...] = ()  # tensorboard, trackio, wandb, ...
    resume: bool = True  # go on with an unfinished run of the same settings; False drops it

    @classmethod
    def of(cls, mapping: Mapping[str, Any]) -> Self:
        """Settings from a mapping, such as a part of a YAML file; BadSetting names an unknown or ill-typed field."""
        return _from_mapping(cls, mapping)

    def __post_init__(self) -> None:
        _check(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        _check(self.epochs > 0, "epochs", self.epochs, "above 0")
        _check(self.max_steps is None or self.max_steps >= 1, "max_steps", self.max_steps, "at least 1")
        _check(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _check(self.accumulation >= 1, "accumulation", self.accumulation, "at least 1")
        _check(self.max_length is None or self.max_length >= 2, "max_length", self.max_length, "at least 2")
        _check(self.warmup >= 0, "warmup", self.warmup, "at least 0")
        _check(self.max_grad_norm >= 0, "max_grad_norm", self.max_grad_norm, "at least 0 (0: no clipping)")
        _check(self.save_every >= 0, "save_every", self.save_every, "at least 0")
        _check(self.log_every >= 1, "log_every", self.log_every, "at least 1")
        _check_size(self.shard_size)
        if self.quantization and not self.lora:
            raise BadSetting(
                f"quantization: {self.quantization} freezes the base, so there would be nothing to train. "
                "Add adapters: --lora-rank 16 (lora: {rank: 16})."
            )


@dataclass(frozen=True)
class SftSettings(TrainSettings):
    """Supervised fine-tuning."""

    end_token: bool = True  # teach the tokenizer's end token after a plain completion


@dataclass(frozen=True)
class DpoSettings(TrainSettings):
    """Preference training on pairs."""

    learning_rate: float = 5e-7
    loss: Literal["sigmoid", "ipo", "orpo"] = "sigmoid"
    beta: float = 0.1  # DPO's and ORPO's beta, IPO's tau
    label_smoothing: float = 0.0  # cDPO: the share of pairs that are labelled the wrong way round
    orpo_prompt_loss: bool = False  # ORPO's likelihood term over the prompt too, as in TRL
    end_token: bool = True
    reference_cache: str | None = None  # folder; None: ~/.cache/expo/reference

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.beta > 0, "beta", self.beta, "above 0")
        _check(0 <= self.label_smoothing < 0.5, "label_smoothing", self.label_smoothing, "from 0 to below 0.5")
        if self.label_smoothing and self.loss != "sigmoid":
            raise BadSetting(f"label_smoothing belongs to --loss sigmoid; this is --loss {self.loss}.")


@dataclass(frozen=True)
class ClassifySettings(TrainSettings):
    """A classifier on hard or soft labels."""

    labels: tuple[str, ...] = ()  # names of the classes in their order; none: as found in the data


def changed(settings: TrainSettings, changes: Mapping[str, Any]) -> Any:
    """The settings with some fields replaced, checked as a mapping's are."""
    kept = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return _from_mapping(type(settings), {**kept, **changes})


def _check(fine: bool, name: str, value: Any, wanted: str) -> None:
    if not fine or (isinstance(value, float) and not math.isfinite(value)):
        raise BadSetting(f"{name} ({_option(name)}): {value} is out of range; it must be {wanted}.")


def _option(name: str) -> str:
    """The command line's word for a setting."""
    return _OPTIONS.get(name, "--" + name.replace("_", "-").replace(".", "-"))


def _check_size(text: str) -> None:
    try:
        parse_size(text)
    except ExpoError as error:
        raise BadSetting(f"shard_size (--shard-size): {error}") from None


def _from_mapping(cls: type, mapping: Mapping[str, Any]) -> Any:
    known = typing.get_type_hints(cls)
    for name in mapping:
        if name not in known:
            raise BadSetting(f"{name!r} is no setting of {cls.__name__}.{nearest(str(name), known)}")
    return cls(**{name: _fit(name, value, known[name]) for name, value in mapping.items()})


def _fit(name: str, value: Any, kind: Any) -> Any:
    """The value as `kind`, with the few conversions that YAML needs."""
    if typing.get_origin(kind) is types.UnionType or typing.get_origin(kind) is typing.Union:
        if value is None:
            return None
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            offer = nearest(str(value), map(str, choices))
            raise BadSetting(f"{name}: {value!r} is none of {', '.join(map(str, choices))}.{offer}")
        return value
    if typing.get_origin(kind) is tuple:
        return tuple(map(str, [value] if isinstance(value, str) else value))
    if kind is LoraSettings and isinstance(value, Mapping):
        return LoraSettings.of(value)
    if kind is float and type(value) in (int, str):  # YAML reads 5e-7 as text
        value = _number(name, value)
    if type(value) is not kind:
        raise BadSetting(f"{name}: {value!r} is a {type(value).__name__}, not a {kind.__name__}.")
    return value


def _number(name: str, value: int | str) -> float:
    try:
        return float(value)
    except ValueError:
        raise BadSetting(f"{name}: {value!r} is not a number.") from None
