"""Which bytes something was made from: short hashes of files and of checkpoint folders."""

import os
from pathlib import Path
from typing import Any

import xxhash

_BLOCK = 1 << 20
_WHOLE = 64 << 20  # larger files are hashed by their ends and by blocks in between
_SAMPLED = 32


def hash_of(path: str | Path) -> str:
    """xxh3-128 of a file's bytes, as hexadecimal digits; of a folder: of its files' names and hashes.

    Weight files larger than 64 MiB are hashed by size, first and last MiB and 32 blocks between: training moves them
    all, and a pipeline must not read 140 GB to learn that nothing changed.
    """
    path = Path(path)
    if not path.is_dir():
        return _hash_file(path)
    whole = xxhash.xxh3_128()
    for file in sorted(path.rglob("*")):
        parts = file.relative_to(path).parts
        # `runs` is where trainers note times and losses; a checkpoint trained again to the same weights is the same.
        if file.is_file() and "runs" not in parts and not any(part.startswith(".") for part in parts):
            whole.update(f"{file.relative_to(path)}\0{_hash_file(file)}\n".encode())
    return whole.hexdigest()


def _hash_file(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _WHOLE:
            while block := file.read(_BLOCK):
                digest.update(block)
            return digest.hexdigest()
        digest.update(str(size).encode())
        for number in range(_SAMPLED + 2):
            file.seek((size - _BLOCK) * number // (_SAMPLED + 1))
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def text_hash(*texts: str) -> bytes:
    """16 bytes that stand for some texts in their order."""
    return xxhash.xxh3_128_digest("\0".join(texts).encode("utf-8", "surrogatepass"))


def pick(candidates: list[Any], count: int, *key: object) -> list[Any]:
    """`count` of the candidates, drawn by a hash of `key` and of each one's position; in the order of the draw.

    A draw belongs to its key alone (seed, question, purpose): neither other questions nor Python's version move it.
    """

    order = sorted(range(len(candidates)), key=lambda number: text_hash(*map(str, key), str(number)))
    return [candidates[number] for number in order[:count]]
