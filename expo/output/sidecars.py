"""The files beside the weights: every one arrives byte for byte, except the fields that must change."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import xxhash

_FLOAT_DTYPES = r"(?:float64|float32|float16|bfloat16|float8_e4m3fn|float8_e5m2)"


def copy_side_files(
    names: Iterable[str], source: Path, target: Path, *, dtype: str | None, do_sample: bool
) -> dict[str, str]:
    """Copy side files from `source` to `target`; returns name -> xxh3-128 of what was written.

    dtype: torch's name of the element type that config.json must now state; None leaves it.
    do_sample: True switches sampling on in generation_config.json, as the ExPO authors' script does.
    """
    hashes = {}
    for name in names:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(source / name, "rb") as old, open(path, "wb") as new:
            shutil.copyfileobj(old, new, 1 << 20)
        if name == "config.json" and dtype:
            path.write_text(with_dtype(path.read_text(encoding="utf-8"), dtype), encoding="utf-8")
        if name == "generation_config.json" and do_sample:
            path.write_text(with_sampling(path.read_text(encoding="utf-8")), encoding="utf-8")
        hashes[name] = hash_file(path)
    return hashes


def with_dtype(config: str, dtype: str) -> str:
    """The text of config.json with each stated float type replaced; every other byte stays."""
    return re.sub(rf'("(?:torch_)?dtype"\s*:\s*"){_FLOAT_DTYPES}"', rf'\g<1>{dtype}"', config)


def with_sampling(config: str) -> str:
    """The text of generation_config.json with do_sample true; every other byte stays."""
    changed, n = re.subn(r'("do_sample"\s*:\s*)(?:true|false|null)', r"\g<1>true", config)
    if n:
        return changed
    comma = "" if re.fullmatch(r"\s*\{\s*\}\s*", config) else ","
    return re.sub(r"\{", '{\n  "do_sample": true' + comma, config, count=1)


def hash_file(path: Path) -> str:
    """xxh3-128 of a file's bytes, hex."""
    state = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            state.update(chunk)
    return state.hexdigest()
