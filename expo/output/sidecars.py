"""The files beside the weights: every one arrives byte for byte, except the fields that must change."""

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import xxhash

from expo.errors import OutputError
from expo.output.json_edit import members, without
from expo.output.layers import PickedLayers, with_layers

_FLOAT_DTYPES = r"(?:float64|float32|float16|bfloat16|float8_e4m3fn|float8_e5m2)"


def copy_side_files(
    names: Iterable[str],
    source: Path,
    target: Path,
    *,
    dtype: str | None,
    do_sample: bool,
    picked: Sequence[PickedLayers] = (),
    dropped: Sequence[str] = (),
    configs: Sequence[str] = ("config.json",),
) -> dict[str, str]:
    """Copy side files from `source` to `target`; returns name -> xxh3-128 of what was written.

    dtype: torch's name of the element type that config.json must now state; None leaves it.
    picked: layers that the output has instead of the donor's.
    dropped: keys that config.json, and the objects in it, must no longer have.
    configs: the files that say what the weights are; a model made of sub-folders has one in each.
    do_sample: True switches sampling on in generation_config.json, as the ExPO authors' script does.
    """
    hashes = {}
    for name in names:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened(source / name) as old, open(path, "wb") as new:
            shutil.copyfileobj(old, new, 1 << 20)
        if name in configs and dtype:
            _edit(path, lambda text: with_dtype(text, dtype))
        if name == "config.json" and picked:
            _edit(path, lambda text: with_layers(text.encode("latin-1").decode(), picked).encode().decode("latin-1"))
        if name in configs and dropped:
            _edit(path, lambda text: without_keys(text, dropped))
        if name == "generation_config.json" and do_sample:
            _edit(path, with_sampling)
        hashes[name] = hash_file(path)
    return hashes


def _opened(path: Path):
    try:
        return open(path, "rb")
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}. It was there when the run was planned.") from error


def _edit(path: Path, change: Callable[[str], str]) -> None:
    # As bytes: text mode would turn every \r\n into \n. Latin-1 gives back the bytes that are no UTF-8.
    path.write_bytes(change(path.read_bytes().decode("latin-1")).encode("latin-1"))


def with_dtype(config: str, dtype: str) -> str:
    """The text of config.json with each stated float type replaced; every other byte stays."""
    return re.sub(rf'("(?:torch_)?dtype"\s*:\s*"){_FLOAT_DTYPES}"', rf'\g<1>{dtype}"', config)


def without_keys(config: str, keys: Sequence[str]) -> str:
    """The text of config.json without some keys, wherever they stand; every other byte stays."""
    while found := next((member.path for member in members(config) if member.path[-1] in keys), None):
        config = without(config, found)
    return config


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
