"""Tiny live models of transformers, saved by transformers itself."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)


def save_pair(folder: Path, *, tied: bool, dtype: torch.dtype, max_shard_size: str = "8KB") -> dict[str, Path]:
    """Folders sft and dpo: a Llama of a few thousand parameters, and the same after a small step."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=tied, initializer_range=0.3,
        bos_token_id=1, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    noise = torch.Generator().manual_seed(1)
    model = LlamaForCausalLM(config).to(dtype)
    model.generation_config.do_sample = False
    found = {}
    for role in ("sft", "dpo"):
        found[role] = Path(folder) / role
        model.save_pretrained(found[role], max_shard_size=max_shard_size)
        with torch.no_grad():
            for weight in model.parameters():
                weight += (torch.randn(weight.shape, generator=noise) * 0.02 * weight.float().std().nan_to_num(0.1)).to(
                    dtype
                )
    return found


def state(model) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by name; tied ones under each of their names."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Equal names, types and bits."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and torch.equal(one[name].reshape(-1).view(torch.uint8), other[name].reshape(-1).view(torch.uint8))
        for name in one
    )


def generated(model, n: int = 8) -> list[int]:
    """Greedy tokens after a fixed prompt."""
    prompt = torch.tensor([[1, 5, 9, 33]])
    return model.generate(prompt, max_new_tokens=n, do_sample=False)[0].tolist()
