"""Write pico checkpoints: whole models of a few kilobytes, in the shapes and names that real ones have."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write_checkpoint(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    *,
    shards: int | Sequence[Sequence[str]] = 1,
    config: dict | None = None,
    metadata: dict[str, str] | None = None,
    index: dict | None = None,
    side_files: Mapping[str, str | bytes] = {},
) -> Path:
    """Write `tensors` as a folder that transformers and expo read; returns the folder.

    shards: how many files, or the names that each file holds; index: replaces the true index's content.
    config: config.json's content; side_files: path inside the folder -> content.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    groups = split(tensors, shards) if isinstance(shards, int) else [list(group) for group in shards]
    metadata = {"format": "pt"} if metadata is None else metadata
    weight_map = {}
    for number, group in enumerate(groups, 1):
        file = "model.safetensors" if len(groups) == 1 else f"model-{number:05}-of-{len(groups):05}.safetensors"
        save_file({name: tensors[name].clone().contiguous() for name in group}, folder / file, metadata=metadata)
        weight_map |= dict.fromkeys(group, file)
    if len(groups) > 1 or index is not None:
        total = sum(t.numel() * t.element_size() for t in tensors.values())
        index = index or {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, indent=2))
    for name, content in side_files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def split(names: Sequence[str] | Mapping[str, object], n_groups: int) -> list[list[str]]:
    """Names in order, cut into `n_groups` groups of nearly equal length."""
    names = list(names)
    return [names[len(names) * k // n_groups : len(names) * (k + 1) // n_groups] for k in range(n_groups)]


def llama_shapes(config: Mapping[str, int] = LLAMA) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a Llama of this config, in the order of its modules."""
    d, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    q, kv = (config["head_dim"] * config[f"num_{kind}_heads"] for kind in ("attention", "key_value"))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, d)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.self_attn.q_proj.weight": (q, d),
            f"{at}.self_attn.k_proj.weight": (kv, d),
            f"{at}.self_attn.v_proj.weight": (kv, d),
            f"{at}.self_attn.o_proj.weight": (d, q),
            f"{at}.mlp.gate_proj.weight": (inner, d),
            f"{at}.mlp.up_proj.weight": (inner, d),
            f"{at}.mlp.down_proj.weight": (d, inner),
            f"{at}.input_layernorm.weight": (d,),
            f"{at}.post_attention_layernorm.weight": (d,),
        }
    shapes |= {"model.norm.weight": (d,)}
    if not config.get("tie_word_embeddings"):
        shapes |= {"lm_head.weight": (vocab, d)}
    return shapes


def llama_tensors(
    *, dtype: torch.dtype = torch.float32, seed: int = 0, config: Mapping[str, int] = LLAMA
) -> dict[str, torch.Tensor]:
    """Random weights of a pico Llama; norms lie near 1."""
    noise = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(shape, generator=noise) * 0.05 for name, shape in llama_shapes(config).items()}
    return {name: (t + 1 if name.endswith("norm.weight") else t).to(dtype) for name, t in drawn.items()}


def nudged(tensors: Mapping[str, torch.Tensor], *, seed: int = 1, relative: float = 0.01) -> dict[str, torch.Tensor]:
    """The same tensors after a small step: a delta of about `relative` of each tensor's own size."""
    noise = torch.Generator().manual_seed(seed)
    moved = {}
    for name, tensor in tensors.items():
        wide = tensor.double()
        step = torch.randn(tensor.shape, generator=noise, dtype=torch.float64)
        moved[name] = (wide + step * wide.pow(2).mean().sqrt() * relative).to(tensor.dtype)
    return moved


def pico_pair(
    tmp: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    relative: float = 0.01,
    shards: int = 2,
    config: dict = LLAMA,
    side_files: Mapping[str, str | bytes] = {},
) -> tuple[Path, Path]:
    """Folders tmp/sft and tmp/dpo: a pico Llama in two shards, and the same after a step of 1 % of its weights."""
    sft = llama_tensors(dtype=dtype, seed=seed, config=config)
    dpo = nudged(sft, seed=seed + 1, relative=relative)
    config = {**config, "torch_dtype": str(dtype).removeprefix("torch.")}
    shared = {"generation_config.json": '{"eos_token_id": 2}', **side_files}
    return (
        write_checkpoint(Path(tmp) / "sft", sft, shards=shards, config=config, side_files=shared),
        write_checkpoint(Path(tmp) / "dpo", dpo, shards=shards, config=config, side_files=shared),
    )


def raw_safetensors(path: Path, header: bytes | dict, data: bytes = b"", *, length: int | None = None) -> Path:
    """Write a file in safetensors' frame with any header and data, however wrong; `length` is the header's claim."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path
