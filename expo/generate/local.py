"""A model of transformers with its tokenizer: what it is, what it can read, and its weights once needed."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import xxhash

from expo.checkpoint.source import resolve
from expo.checkpoint.spec import Source
from expo.errors import ExpoError
from expo.generate.prompts import Demo, Question, rendered
from expo.generate.sizes import window_of
from expo.launcher import place

_SAMPLE = 1 << 16  # bytes of a weight file that are hashed at its start, middle and end
_PREFIX = 8  # tokens of the prompt that are decoded with an answer: some tokenizers drop the first space of a text


class ModelError(ExpoError):
    """transformers cannot load a model or its tokenizer."""


class LocalModel:
    """A tokenizer and a model that is loaded when first used; `label` names it, `fingerprint` knows it again."""

    def __init__(self, tokenizer: Any, load: Callable[[], Any], config: Any, label: str, fingerprint: str):
        self.tokenizer = tokenizer
        self.config = config
        self.label = label
        self.fingerprint = fingerprint
        self._load = load

    @cached_property
    def model(self) -> Any:
        return self._load().eval()

    @property
    def models(self) -> list[Any]:
        """The only one; an ensemble has several (expo.generate.members)."""
        return [self.model]

    def join(self, *, logs: bool) -> Callable:
        """What makes one distribution of the models' logits."""
        from expo.generate.decode import alone

        return alone

    @property
    def context(self) -> int | None:
        """Tokens that fit into the model's window, None where its config does not say."""
        return window_of(self.config)

    @cached_property
    def ends(self) -> set[int]:
        """The tokens that end an answer."""
        named = [getattr(self.model.generation_config, "eos_token_id", None), self.tokenizer.eos_token_id]
        return {token for one in named if one is not None for token in (one if isinstance(one, list) else [one])}

    def check_chat(self) -> None:
        """Nothing to compare; members of an ensemble must agree on their template."""

    def encode(self, question: Question, demos: Sequence[Demo]) -> list[int]:
        """The tokens of a question's whole prompt."""
        text, marks = rendered(question, demos, self.tokenizer)
        tokens = self.tokenizer(text, add_special_tokens=marks)["input_ids"]
        if not tokens:
            raise ModelError(f"{question.where}: the tokenizer of {self.label} makes no token of this prompt.")
        return list(tokens)

    def text(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """What `tokens` add to the prompt's text; marks like an end token have none."""
        before = self._decode(prompt[-_PREFIX:])
        whole = self._decode([*prompt[-_PREFIX:], *tokens])
        return whole[len(before) :] if whole.startswith(before) else self._decode(tokens)

    def _decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def load_local(
    model: Any, *, device: str = "auto", dtype: str | None = None, trust_remote_code: bool = False
) -> LocalModel:
    """The model in a folder or behind a Hub id, +ADAPTERs merged into it; one that is loaded already is given back.

    device: cpu, cuda, cuda:1, or auto. dtype: of its weights while it runs; by default float32 on the CPU, and the
    checkpoint's own elsewhere. With float32 answers do not depend on how rows are batched; with 16 bits some do.
    Raises a SourceError or ModelError.
    """
    import torch
    import transformers

    if isinstance(model, LocalModel):
        return model
    device = _device(device)
    source = resolve(model)
    folder, label = source.folder, source.label
    dtype = dtype or ("float32" if torch.device(device).type == "cpu" else "auto")
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ModelError(f"{dtype!r} is no type of torch; use float32, bfloat16 or float16.")
    code = {"trust_remote_code": trust_remote_code}

    def load() -> Any:
        loaded = tried(label, transformers.AutoModelForCausalLM.from_pretrained, folder, dtype=dtype, **code)
        return _with_adapters(loaded, source).to(device)

    tokenizer = tried(label, transformers.AutoTokenizer.from_pretrained, folder, **code)
    config = tried(label, transformers.AutoConfig.from_pretrained, folder, **code)
    prints = " ".join(fingerprint_of(part.folder) for part in (source, *source.adapters))
    return LocalModel(tokenizer, load, config, label, f"{prints} {dtype}")


def wrap(model: Any, tokenizer: Any, label: str) -> LocalModel:
    """A LocalModel of a live model and tokenizer; its fingerprint is taken from the first bytes of every parameter."""
    import torch

    digest = xxhash.xxh3_128()
    for name, weight in model.named_parameters():
        digest.update(name.encode())
        digest.update(weight.detach().reshape(-1)[:1024].cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return LocalModel(tokenizer, lambda: model, model.config, label, digest.hexdigest())


def _with_adapters(model: Any, source: Source) -> Any:
    """The model with its source's adapters merged into it, one after the other."""
    if not source.adapters:
        return model
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelError(
            f"{source.label}: adapters need peft, which is not installed.\nTo install it: pip install 'expo[train]'"
        ) from error
    for adapter in source.adapters:
        model = tried(adapter.label, partial(PeftModel.from_pretrained, model), adapter.folder).merge_and_unload()
    return model


def _device(name: str) -> str:
    """The device of that name, once it is known to be there; `auto` is the GPU where there is one."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and place().size > 1 and (n := torch.cuda.device_count()):
        name = f"cuda:{place().local_rank % n}"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):  # torch without CUDA asserts
        raise ModelError(
            f"--device {name!r} is not a device that torch {torch.__version__} finds here; use cpu, cuda, cuda:1 or "
            "auto."
        ) from None
    return name


def tried(label: str, load: Callable, folder: Path, **options: Any) -> Any:
    try:
        return load(folder, **options)
    except (OSError, ValueError, TypeError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(f"transformers cannot load {label}: {error}") from error


def fingerprint_of(folder: Path) -> str:
    """A hash of what is cheap to read and differs between models: side files whole, weights in three places."""
    digest = xxhash.xxh3_128()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if path.suffix in (".json", ".jinja", ".model", ".txt", ".py") and path.name != "expo.json":
            digest.update(path.name.encode() + path.read_bytes())
        elif path.suffix in (".safetensors", ".bin"):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode())
            with open(path, "rb") as file:
                for start in (0, size // 2, max(0, size - _SAMPLE)):
                    file.seek(start)
                    digest.update(file.read(_SAMPLE))
    return digest.hexdigest()
