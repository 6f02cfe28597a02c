"""Decide from file names alone which weights make a model and which other files belong to it. Opens nothing."""

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from expo.errors import AdapterNotModel, AmbiguousWeights, NotACheckpoint, ShardsWithoutIndex, UnsupportedFormat

# In the order of preference; where both of a row are present, nothing says which is meant.
PREFERRED = [
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
]
OTHER_FORMATS = {
    ".gguf": "GGUF",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
    ".tflite": "TensorFlow Lite",
    ".npz": "NumPy",
    ".pth": "a pickle (.pth)",
    ".pt": "a pickle (.pt)",
    ".ckpt": "a training checkpoint (.ckpt)",
}
WEIGHT_SUFFIXES = (".safetensors", ".bin", *OTHER_FORMATS, ".onnx_data", ".ot", ".mlmodel", ".pdparams")
WEIGHT_INDEX = re.compile(r"\.(safetensors|bin|pt|pth|h5|msgpack)\.index(\.[^.]+)?\.json$")
NUMBERED = re.compile(r"-(\d{3,})-of-(\d{3,})\b")
TRAINER_FOLDER = re.compile(r"(checkpoint-\d+|global_step\d+|runs|wandb|__pycache__)$")
TRAINER_FILE = re.compile(
    r"(trainer_state\.json|training_args\.bin|(optimizer|scheduler|scaler|rng_state|random_states)[-_.\d]*\.\w+"
    r"|events\.out\.tfevents\..*|zero_to_fp32\.py|latest)$"
)
NOT_CARRIED = {"README.md", "expo.json"}  # the new model gets its own


def choose_weights(names: Iterable[str], where: str) -> str:
    """The one weight file or index that a folder's model starts from.

    names: paths inside the folder; where: what errors call the folder. Raises a SourceError where none or several fit.
    """
    top = sorted(name for name in names if "/" not in name)
    safe, pickled = ([name for name in row if name in top] for row in PREFERRED)
    if len(safe) == 2:
        raise _several(safe, where)
    if safe:
        return safe[0]
    adapter = next((name for name in top if name.startswith("adapter_model.")), None)
    if adapter:
        raise AdapterNotModel(
            f"{where}: an adapter ({adapter}), not a whole model.",
            f"Name its base before it: BASE+{where}",
        )
    for found in _candidates(top, pickled, where):
        if len(found) > 1:
            raise _several(found, where)
        if found:
            return found[0]
    raise _nothing(top, where)


def check_whole(name: str, where: str) -> None:
    """Refuse one numbered shard of several: alone it is half a model."""
    number = NUMBERED.search(name)
    if number and int(number[2]) > 1:
        raise ShardsWithoutIndex(
            f"{where}: {name} is one shard of {int(number[2])}.",
            "Pass the folder or the *.index.json that lists them all; if the index is lost, download it again.",
        )


def is_side_file(name: str) -> bool:
    """True for a file that a copy of the model needs beside the weights: config, tokenizer, code, license, ..."""
    *folders, file = PurePosixPath(name).parts
    if any(part.startswith(".") for part in (*folders, file)):
        return False
    if any(TRAINER_FOLDER.match(part) for part in folders) or TRAINER_FILE.match(file):
        return False
    if name in NOT_CARRIED or WEIGHT_INDEX.search(file):
        return False
    return not file.lower().endswith(WEIGHT_SUFFIXES)


def _candidates(top: list[str], pickled: list[str], where: str) -> Iterator[list[str]]:
    yield _others(top, ".safetensors", where)
    yield pickled
    yield _others(top, ".bin", where)


def _others(top: list[str], suffix: str, where: str) -> list[str]:
    """Weights under another name than transformers gives them: an index, else single files."""
    indexes = [name for name in top if name.endswith(f"{suffix}.index.json")]
    if indexes:
        return indexes
    files = [name for name in top if name.endswith(suffix) and not TRAINER_FILE.match(name)]
    if files and all(NUMBERED.search(name) for name in files):
        check_whole(files[0], where)
    return files


def _several(found: list[str], where: str) -> AmbiguousWeights:
    return AmbiguousWeights(
        f"{where}: holds several sets of weights: {', '.join(found[:6])}{', ...' if len(found) > 6 else ''}.",
        f"Pass the one you mean, e.g. {where}/{found[0]}.",
    )


def _nothing(top: list[str], where: str) -> NotACheckpoint | UnsupportedFormat:
    for suffix, kind in OTHER_FORMATS.items():
        held = [name for name in top if name.lower().endswith(suffix)]
        if held:
            return UnsupportedFormat(
                f"{where}: its weights are {kind} ({held[0]}), which expo does not read.",
                "Use the model's safetensors files.",
            )
    looked_for = ", ".join(name for row in PREFERRED for name in row)
    return NotACheckpoint(f"{where}: not a checkpoint. Looked for {looked_for}, or one other *.safetensors.")
