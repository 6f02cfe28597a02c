"""Checkpoints become models to train: float32 master weights, or adapters on a frozen base. Knows no data, no loss."""

import copy
import importlib.util
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from expo.checkpoint.spec import Source
from expo.train.errors import BadSetting, MissingPackage, UnfitModel
from expo.train.head import teach_tokens
from expo.train.settings import LoraSettings, TrainSettings

_CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


class Loaded(NamedTuple):
    """A model ready to train, and its config as it was before the trainer changed it."""

    model: Any
    config: Any


@contextmanager
def quietly():
    """transformers without bars and remarks of its own, which would mix with ours; errors still show."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of one library to another
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def need_packages(settings: TrainSettings) -> None:
    """Raise MissingPackage where a setting needs what is not installed."""
    if settings.lora and importlib.util.find_spec("peft") is None:
        raise MissingPackage("peft", "--lora-rank", "expo[train]")
    if settings.quantization and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingPackage("bitsandbytes", "--quantization nf4", "expo[quant]")


def load_tokenizer(source: Source, settings: TrainSettings) -> Any:
    """The checkpoint's tokenizer; UnfitModel where there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source.folder, trust_remote_code=settings.trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise UnfitModel(f"{source.text}: its tokenizer cannot be loaded: {_first_line(error)}") from error


def text_config(source: Source, settings: TrainSettings) -> Any:
    """The config of the language model in a checkpoint; UnfitModel where there is none."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=settings.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UnfitModel(f"{source.text}: its config cannot be loaded: {_first_line(error)}") from error
    return config.get_text_config()


def context_of(config: Any, model: str, settings: TrainSettings) -> tuple[int, int | None]:
    """(Tokens that a row may have: max_length, at most the model's context; that context if the config states it)."""
    context = next((getattr(config, name) for name in _CONTEXT if getattr(config, name, None)), None)
    if context is None and settings.max_length is None:
        raise BadSetting(f"{model}: its config states no context length. State one: --max-length 2048.")
    if context and settings.max_length and settings.max_length > context:
        raise BadSetting(
            f"max_length (--max-length): {settings.max_length:,} is more than {model} can take: "
            f"its context is {context:,}."
        )
    return settings.max_length or context, context


def check_vocabulary(largest: int, config: Any, source: Source) -> None:
    """Raise UnfitModel if a token has no row in the embedding."""
    if largest >= getattr(config, "vocab_size", largest + 1):
        raise UnfitModel(
            f"{source.text}: the tokenizer gives the id {largest:,}, and the model's embedding has "
            f"{config.vocab_size:,} rows. Is the tokenizer another model's?"
        )


def filler_of(tokenizer: Any) -> int:
    """The id that stands where there is no token; never looked at."""
    found = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(id_ for id_ in found if id_ is not None)


def load_causal(source: Source, settings: TrainSettings) -> Loaded:
    """A causal language model whose forward also gives the log-probabilities of targets."""
    from transformers import AutoModelForCausalLM

    model = _from_pretrained(AutoModelForCausalLM, source, settings, allow_new=False)
    config = _plain_config(model)
    teach_tokens(model)
    return Loaded(_with_adapters(model, settings, "CAUSAL_LM"), config)


def load_classifier(source: Source, settings: TrainSettings, labels: list[str], filler: int) -> Loaded:
    """A sequence classifier with one output a label; its head is new unless the checkpoint holds one of that size."""
    from transformers import AutoModelForSequenceClassification

    names = dict(enumerate(labels))
    numbers = {name: i for i, name in names.items()}
    extra = {"num_labels": len(labels), "id2label": names, "label2id": numbers}
    model = _from_pretrained(AutoModelForSequenceClassification, source, settings, allow_new=True, **extra)
    if model.config.get_text_config().pad_token_id is None:
        model.config.get_text_config().pad_token_id = filler  # a decoder reads at the last id that is none
    config = _plain_config(model)
    return Loaded(_with_adapters(model, settings, "SEQ_CLS"), config)


def _from_pretrained(kind: Any, source: Source, settings: TrainSettings, *, allow_new: bool, **extra: Any) -> Any:
    # A frozen base keeps the type it is stored in; what learns is float32, or small steps would be rounded away.
    extra["dtype"] = "auto" if settings.lora and not source.adapters else torch.float32
    if settings.attention:
        extra["attn_implementation"] = settings.attention
    if settings.quantization and source.adapters:
        raise BadSetting(f"{source.text}: an adapter cannot be merged into 4 bits. Leave out --quantization.")
    if settings.quantization:
        extra["quantization_config"] = _four_bit()
    extra["trust_remote_code"] = settings.trust_remote_code
    try:
        model, found = kind.from_pretrained(source.folder, output_loading_info=True, **extra)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise UnfitModel(f"{source.text}: cannot be loaded as {kind.__name__}: {_first_line(error)}") from error
    missing = sorted(found["missing_keys"])
    if missing and not allow_new:
        raise UnfitModel(
            f"{source.text}: {len(missing)} tensors are missing, such as {missing[0]}, and would be trained from "
            f"random values. Is it a {kind.__name__.removeprefix('AutoModelFor')} checkpoint?"
        )
    return _with_its_adapters(model, source)


def _with_its_adapters(model: Any, source: Source) -> Any:
    """The model with the adapters of BASE+ADAPTER merged into it, one after the other."""
    if source.adapters and importlib.util.find_spec("peft") is None:
        raise MissingPackage("peft", source.text, "expo[train]")
    for adapter in source.adapters:
        import peft

        model = peft.PeftModel.from_pretrained(model, adapter.folder).merge_and_unload()
    return model.requires_grad_(True) if source.adapters else model


def _plain_config(model: Any) -> Any:
    """The config that the result will have: not 4 bits, as what is written is not."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def _four_bit() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _with_adapters(model: Any, settings: TrainSettings, task: str) -> Any:
    lora = settings.lora
    if lora is None:
        return model
    import peft

    if settings.quantization:
        checkpointing = settings.activation_checkpointing
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    try:
        adapted = peft.get_peft_model(model, _lora_config(lora, task))  # its weights are float32 whatever the base is
    except ValueError as error:
        raise BadSetting(f"lora: {_first_line(error)}") from error
    if settings.activation_checkpointing:
        adapted.enable_input_require_grads()
    return adapted


def _lora_config(lora: LoraSettings, task: str) -> Any:
    import peft

    return peft.LoraConfig(
        task_type=task,
        r=lora.rank,
        lora_alpha=lora.alpha if lora.alpha is not None else 2 * lora.rank,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets) or "all-linear",
    )


def merged(model: Any, config: Any, source: Source, settings: TrainSettings, scratch: Path) -> Any:
    """Base and adapter as one float32 model; a 4-bit base is loaded again as it is stored."""
    if not settings.quantization:
        return model.float().merge_and_unload()
    import peft

    model.save_pretrained(scratch)
    whole = type(model.get_base_model()).from_pretrained(source.folder, config=config, dtype=torch.float32)
    return peft.PeftModel.from_pretrained(whole, scratch).merge_and_unload()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
