"""Writes a synthetic SFT checkpoint and its DPO neighbours, for the benchmarks.

Knows the Llama layout (names, shapes, tied head) and the safetensors format; does not know expo. Every block of
weights has a seed of its own, so any number of threads writes the same set. Memory stays constant: the files are laid
out first and filled block by block.
"""

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

BLOCK = 1 << 22  # elements drawn at a time
STD = 0.02


@dataclass(frozen=True)
class Shape:
    """The numbers of a Llama that decide its tensors."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool = True  # the head is the embedding, and so not stored

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, in the order of the state dict."""
        kv = self.kv_heads * self.head_dim
        layer = {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
            "input_layernorm": (self.hidden,),
            "post_attention_layernorm": (self.hidden,),
        }
        named = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for i in range(self.layers):
            named |= {f"model.layers.{i}.{part}.weight": shape for part, shape in layer.items()}
        head = {} if self.tied else {"lm_head.weight": (self.vocab, self.hidden)}
        return named | {"model.norm.weight": (self.hidden,)} | head

    @property
    def n_elements(self) -> int:
        return sum(map(math.prod, self.tensors().values()))

    def grown(self, times: float) -> "Shape":
        """The same model with as many layers as bring it nearest to `times` its elements, at least one."""
        none, one = (replace(self, layers=n).n_elements for n in (0, 1))
        return replace(self, layers=max(1, round((times * self.n_elements - none) / (one - none))))


SHAPES = {
    "llama-3.2-1b": Shape(hidden=2048, layers=16, heads=32, kv_heads=8, intermediate=8192, vocab=128256),
    "llama-3.1-70b": Shape(8192, layers=80, heads=64, kv_heads=8, intermediate=28672, vocab=128256, tied=False),
    "pico": Shape(hidden=256, layers=16, heads=8, kv_heads=2, intermediate=1024, vocab=16032),
}


@dataclass(frozen=True)
class Piece:
    """A run of elements of one tensor, and where it lies in a shard of each checkpoint of the set."""

    name: str
    start: int
    n_elements: int
    shard: str
    at: int


def split_shards(tensors: dict[str, tuple[int, ...]], n_shards: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shard file -> its tensors: runs of the state dict of nearly equal bytes."""
    total, done, groups = sum(map(math.prod, tensors.values())), 0, {}
    for name, shape in tensors.items():
        groups.setdefault(done * n_shards // total, {})[name] = shape
        done += math.prod(shape)
    return {f"model-{i:05}-of-{len(groups):05}.safetensors": g for i, g in enumerate(groups.values(), 1)}


def header(tensors: dict[str, tuple[int, ...]]) -> tuple[bytes, dict[str, int]]:
    """The bytes that open a bf16 shard, and each tensor's offset in the file."""
    entries, at = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        end = at + 2 * math.prod(tensors[name])
        entries[name] = {"dtype": "BF16", "shape": tensors[name], "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format asks that tensors start on 8 bytes
    head = len(text).to_bytes(8, "little") + text
    return head, {name: len(head) + entries[name]["data_offsets"][0] for name in tensors}


def lay_out(folders: list[Path], shards: dict[str, dict[str, tuple[int, ...]]]) -> Iterator[Piece]:
    """Create every shard of every folder with its header and full length; yield the blocks to fill."""
    for shard, tensors in shards.items():
        head, offsets = header(tensors)
        n_bytes = len(head) + 2 * sum(map(math.prod, tensors.values()))
        for folder in folders:
            (folder / shard).write_bytes(head)
            os.truncate(folder / shard, n_bytes)
        for name in sorted(tensors):
            n_elements = math.prod(tensors[name])
            for start in range(0, n_elements, BLOCK):
                yield Piece(name, start, min(BLOCK, n_elements - start), shard, offsets[name] + 2 * start)


def draw(piece: Piece, purpose: str, seed: int) -> torch.Tensor:
    """Standard normal float32, decided by the piece's place, the purpose and the seed."""
    key = f"{seed}/{purpose}/{piece.name}/{piece.start}".encode()
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) >> 1)
    return torch.randn(piece.n_elements, generator=generator)


def fill(piece: Piece, sft: Path, dpos: dict[Path, float], seed: int) -> None:
    """Write sft ~ N(0, STD) and dpo = bf16(sft + delta * STD * noise) for every delta."""
    weights = draw(piece, "weights", seed).mul_(STD).bfloat16()
    put(sft / piece.shard, weights, piece.at)
    noise = draw(piece, "noise", seed)
    for folder, delta in dpos.items():
        put(folder / piece.shard, (noise * (delta * STD)).add_(weights).bfloat16(), piece.at)


def put(path: Path, tensor: torch.Tensor, at: int) -> None:
    """Write one bf16 tensor at byte `at`."""
    view = memoryview(tensor.view(torch.uint8).numpy())
    fd = os.open(path, os.O_WRONLY)
    try:
        while view:
            n = os.pwrite(fd, view, at)
            view, at = view[n:], at + n
    finally:
        os.close(fd)


def write_sidecars(folder: Path, shape: Shape) -> None:
    """config.json and generation_config.json, as transformers itself writes them."""
    from transformers import GenerationConfig, LlamaConfig

    scaling = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    tokens = {"bos_token_id": 0, "eos_token_id": 1}
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocab,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling={"rope_type": "llama3", "original_max_position_embeddings": 8192, **scaling},
        tie_word_embeddings=shape.tied,
        **tokens,
    ).save_pretrained(folder)
    GenerationConfig(**tokens).save_pretrained(folder)


def close_checkpoint(folder: Path, shards: dict[str, dict[str, tuple[int, ...]]]) -> None:
    """fsync the shards, then write the index: a folder without one is unfinished."""
    for shard in shards:
        # Dirty pages ignore POSIX_FADV_DONTNEED, and a benchmark of cold inputs would read them from memory.
        with open(folder / shard, "rb") as file:
            os.fsync(file.fileno())
    n_bytes = 2 * sum(math.prod(shape) for tensors in shards.values() for shape in tensors.values())
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    index = {"metadata": {"total_size": n_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def make(
    folder: Path, shape: Shape, deltas: list[str], n_shards: int, seed: int, threads: int, *, sparse: bool = False
) -> None:
    """Write folder/sft and one folder/dpo-DELTA a delta; none of them may exist. sparse: headers over holes."""
    sft, dpos = folder / "sft", {folder / f"dpo-{delta}": float(delta) for delta in deltas}
    folders = [sft, *dpos]
    for made in folders:
        made.mkdir(parents=True)
        write_sidecars(made, shape)
    shards = split_shards(shape.tensors(), n_shards)
    pieces = list(lay_out(folders, shards))
    torch.set_num_threads(1)
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda piece: fill(piece, sft, dpos, seed), [] if sparse else pieces):
            pass
    for made in folders:
        close_checkpoint(made, shards)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where sft and dpo-DELTA are written")
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.2-1b")
    parser.add_argument("--deltas", nargs="+", default=["1e-3", "5e-3", "1e-2"], help="multiples of the weights' std")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--layers", type=int, help="this many layers instead of the shape's own")
    size.add_argument("--scale", type=float, default=1.0, help="multiple of the shape's layers")
    size.add_argument("--times", type=float, help="multiple of the shape's elements, reached by adding layers")
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--sparse", action="store_true", help="true headers over holes: every weight is 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()

    shape = SHAPES[args.shape]
    layers = args.layers or max(1, round(args.scale * shape.layers))
    shape = shape.grown(args.times) if args.times else replace(shape, layers=layers)
    try:
        make(args.folder, shape, args.deltas, args.shards, args.seed, args.threads, sparse=args.sparse)
    except FileExistsError as error:
        sys.exit(f"{error.filename} exists: remove it, or choose another folder")
    made = {"layers": shape.layers, "tensors": len(shape.tensors()), "parameters": shape.n_elements}
    print(json.dumps({"folder": args.folder.name, "deltas": args.deltas, **made, "n_bytes": 2 * shape.n_elements}))


if __name__ == "__main__":
    main()
