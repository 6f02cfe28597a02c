"""Tiny checkpoints and rows for the trainers: the running sums of expo.toy, and how two models differ."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from expo import toy

TINY = toy.Size(width=32, layers=2)
# 12 -> 12=, 13 -> 13<eos>
CHAT = "{% for m in messages %}{{ m['content'] }}{{ '=' if m['role'] == 'user' else eos_token }}{% endfor %}"
EXACT = {"precision": "float32", "warmup": 0.0, "log_every": 1}  # settings under which runs can be compared


def save_model(folder: Path, *, size: toy.Size = TINY, seed: int = 0, chat: bool = False) -> Path:
    """A tiny Llama as an ordinary checkpoint folder."""
    tokenizer = toy.build_tokenizer()
    if chat:
        tokenizer.chat_template = CHAT
    toy.save(toy.build_model(size, seed), tokenizer, folder)
    return folder


def questions(n: int, *, terms: tuple[int, ...] = (3, 5), seed: int = 0) -> list[dict]:
    """n rows of prompt and completion, of mixed lengths."""
    each = -(-n // len(terms))
    rows = [example._asdict() for length in terms for example in toy.draw(length, each, "train", seed)]
    return sorted(rows, key=lambda row: row["prompt"][::-1])[:n]


def preferences(n: int, *, seed: int = 0) -> list[dict]:
    """n pairs: the truth against a shorter, wrong completion."""
    return [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": "7" + row["completion"][1:-1]}
        for row in questions(n, seed=seed)
    ]


def write_rows(path: Path, rows: list[dict]) -> Path:
    """Rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every stored tensor by name."""
    return load_file(folder / "model.safetensors")


def distance(one: Path, other: Path) -> float:
    """The largest difference between two checkpoints' weights."""
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    return max(float((left[name].double() - right[name].double()).abs().max()) for name in left)


def logs(folder: Path) -> list[dict]:
    """The lines of a run's metrics."""
    return [json.loads(line) for line in (folder / "runs" / "metrics.jsonl").read_text().splitlines()]
