"""Float8 checkpoints with scales, written and read back by numpy and torch alone."""

import json
from pathlib import Path

import numpy as np
import torch
from architectures import tensors_of
from pico import LLAMA, llama_shapes, write_checkpoint

from expo.checkpoint import open_checkpoint

BLOCKS = {"block": (128, 128), "uneven": (48, 32), "per-channel": (1, None), "per-tensor": (None, None)}
CONFIG = {**LLAMA, "hidden_size": 200, "intermediate_size": 300, "torch_dtype": "bfloat16"}


def sides(shape, block):
    """Rows and columns of a block of a matrix."""
    return tuple(size or n for size, n in zip(block, shape, strict=True))


def expanded(scales: np.ndarray, shape: tuple[int, int], block: tuple[int, int]) -> np.ndarray:
    """The scale of each element."""
    rows, columns = sides(shape, block)
    return scales.repeat(rows, 0)[: shape[0]].repeat(columns, 1)[:, : shape[1]]


def numbers(weight: torch.Tensor, scales: torch.Tensor, block) -> np.ndarray:
    """The float32 numbers that float8 values and scales stand for: one product each."""
    grid = tuple(-(-n // size) for n, size in zip(weight.shape, sides(weight.shape, block), strict=True))
    wide = scales.float().numpy().reshape(grid)
    return weight.float().numpy() * expanded(wide, tuple(weight.shape), block)


def quantised(values: np.ndarray, block) -> tuple[torch.Tensor, torch.Tensor]:
    """(float8, float32 scales): each block's largest magnitude becomes 448."""
    rows, columns = sides(values.shape, block)
    grid = tuple(-(-n // size) for n, size in zip(values.shape, (rows, columns), strict=True))
    padded = np.zeros((grid[0] * rows, grid[1] * columns))
    padded[: values.shape[0], : values.shape[1]] = np.abs(values)
    largest = padded.reshape(grid[0], rows, grid[1], columns).max((1, 3))
    scales = np.where(largest > 0, largest / 448, 1.0).astype(np.float32)
    quotients = np.clip(values / expanded(scales.astype(np.float64), values.shape, block), -448, 448)
    return torch.from_numpy(quotients).to(torch.float8_e4m3fn), torch.from_numpy(scales)


def steps_apart(one: torch.Tensor, other: torch.Tensor) -> int:
    """The most steps of float8 between two tensors."""

    def order(values):
        codes = values.view(torch.uint8).int()
        return torch.where(codes < 128, codes, 128 - codes)

    return int((order(one) - order(other)).abs().max())


def write_float8(folder: Path, seed: int, kind: str, *, suffix: str = "_scale_inv", scale_type=torch.float32, **more):
    """A Llama whose projections are float8, scales in another shard; returns the float32 numbers by name."""
    block = BLOCKS[kind]
    generator = np.random.default_rng(seed)
    weights, scales, wanted = {}, {}, {}
    for name, shape in llama_shapes(CONFIG).items():
        values = generator.normal(0, 0.05, shape)
        if "proj" in name:
            weight, scale = quantised(values, block)
            scale = scale.to(scale_type)
            wanted[name] = numbers(weight, scale, block)
            weights[name] = weight
            scales[name + suffix] = scale.view(()) if kind == "per-tensor" else scale
        else:
            weights[name] = torch.from_numpy(values).to(torch.bfloat16)
            wanted[name] = weights[name].float().numpy()
    stated = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    if None not in block and kind != "per-channel":
        stated["weight_block_size"] = list(block)
    config = {**CONFIG, "quantization_config": stated | more}
    write_checkpoint(folder, weights | scales, shards=[[*weights], [*scales]], config=config)
    return wanted


def damaged(folder, name, values):
    """Overwrite the beginning of a tensor in its file."""
    checkpoint = open_checkpoint(folder, stored=True)
    spec = checkpoint.tensors[name]
    with open(checkpoint.files[spec.file].path, "r+b") as file:
        file.seek(spec.offset)
        file.write(values)


def rewritten(folder, change):
    """A checkpoint's tensors changed, all in one file."""
    tensors = tensors_of(folder)
    config = json.loads((folder / "config.json").read_text())
    change(tensors)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    write_checkpoint(folder, tensors, config=config)
