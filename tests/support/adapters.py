"""Adapters as PEFT itself makes and saves them, on tiny models, with every trained tensor drawn at random."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from pico import write_checkpoint
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from expo.checkpoint import Shards, open_checkpoint
from expo.ops import torch_dtype


def llama(dtype: torch.dtype = torch.float32, **changes) -> LlamaForCausalLM:
    """A Llama whose matrices have more rows than a block, and not a multiple of it."""
    sizes = {"vocab_size": 150, "hidden_size": 48, "intermediate_size": 136, "num_hidden_layers": 2} | changes
    torch.manual_seed(0)
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
                         initializer_range=0.3,
                         bos_token_id=1, eos_token_id=None, tie_word_embeddings=False)  # fmt: skip
    return LlamaForCausalLM(config).to(dtype)


def gpt2(dtype: torch.dtype = torch.float32) -> GPT2LMHeadModel:
    """A GPT-2: its matrices are stored as (inputs, outputs)."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=150, n_positions=32, n_embd=48, n_layer=1, n_head=4, bos_token_id=1,
                        eos_token_id=None, initializer_range=0.3)  # fmt: skip
    return GPT2LMHeadModel(config).to(dtype)


def save_adapter(folder: Path, model: Callable, *, seed: int = 1, spread: float = 0.1, **config) -> Path:
    """An adapter of `model()` in PEFT's own files; returns its folder."""
    from peft import LoraConfig, get_peft_model

    peft = get_peft_model(model(), LoraConfig(**config))
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if weight.requires_grad:
                drawn = torch.randn(weight.shape, generator=noise) * spread
                weight.copy_(weight.abs() + drawn.abs() if "magnitude" in name else weight + drawn)
    peft.save_pretrained(folder)
    return folder


def merged(model: Callable, *adapters: Path) -> dict[str, torch.Tensor]:
    """The authority: PEFT's merge_and_unload in float32, one adapter after the other; tensors in float64."""
    from peft import PeftModel

    base = model().to(torch.float32)
    for folder in adapters:
        base = PeftModel.from_pretrained(base, folder).merge_and_unload()
    return {name: tensor.detach().double() for name, tensor in base.state_dict().items()}


def values_of(source: str) -> dict[str, torch.Tensor]:
    """Every tensor of BASE+ADAPTER as its view gives it, in float64."""
    checkpoint = open_checkpoint(source)
    with Shards(checkpoint) as reader:
        return {name: read(reader, spec).double() for name, spec in checkpoint.tensors.items()}


def read(reader: Shards, spec, start: int = 0, n_bytes: int | None = None) -> torch.Tensor:
    """One tensor, or some of its bytes, as its view gives it."""
    whole = n_bytes is None
    raw = torch.empty(spec.n_bytes if whole else n_bytes, dtype=torch.uint8)
    reader.read_into(memoryview(raw.numpy()), spec, start)
    return raw.view(torch_dtype(spec.dtype)).view(spec.shape) if whole else raw


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor], **config) -> Path:
    """An adapter of these tensors, named without PEFT's prefix, and of this config."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 8, **config}))
    return folder


def edited(folder: Path, into: Path, rename: Callable[[str], str] = lambda name: name, **config) -> Path:
    """A copy of an adapter with other names or another config."""
    into.mkdir(parents=True)
    tensors = {rename(name): tensor for name, tensor in load_file(folder / "adapter_model.safetensors").items()}
    save_file(tensors, into / "adapter_model.safetensors")
    said = json.loads((folder / "adapter_config.json").read_text())
    (into / "adapter_config.json").write_text(json.dumps({**said, **config}))
    return into


def matrix(folder: Path, weight: torch.Tensor, name: str = "m.weight") -> Path:
    """A checkpoint of one tensor."""
    return write_checkpoint(folder, {name: weight}, config={"model_type": "llama"})
