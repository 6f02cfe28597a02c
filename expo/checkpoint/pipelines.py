"""Models made of sub-folders: which of them hold weights, by the file that lists them. Reads names and that file only.

sentence-transformers lists its modules in modules.json, diffusers its parts in model_index.json. Tensors of a
sub-folder are called FOLDER/name inside expo, and by their own names in its files.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from expo.checkpoint.contents import TRAINER_FILE, choose_weights
from expo.checkpoint.files import read_small
from expo.checkpoint.spec import folder_of
from expo.checkpoint.strict_json import parse_value, shown
from expo.errors import MalformedJson, NotACheckpoint

LISTS = ("modules.json", "model_index.json")
_FIRST = (
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
)  # beside them, variants such as .fp16
_MOST = 1 << 20  # bytes of such a list


def list_of(names: Iterable[str]) -> str | None:
    """The file among a folder's that lists its sub-folders."""
    held = set(names)
    return next((name for name in LISTS if name in held), None)


def listed_folders(path: Path) -> list[str]:
    """The sub-folders that a list names, each once, in its order; raises MalformedJson."""
    content = parse_value(read_small(path, _MOST), path, what="list of sub-folders")
    if isinstance(content, list):
        found = [row.get("path") for row in content if isinstance(row, dict)]
    elif isinstance(content, dict):
        found = [name for name, value in content.items() if isinstance(value, list) and any(value)]
    else:
        raise MalformedJson(path, "neither a list of modules nor an object of parts.")
    plain = (name.removeprefix("./").rstrip("/") for name in found if isinstance(name, str))
    named = list(dict.fromkeys(name for name in plain if name))
    if outside := next((name for name in named if not _is_plain(name)), None):
        raise MalformedJson(path, f"{shown(outside)} is no folder right below it, where its parts lie.")
    return named


def unlisted_weights(names: Iterable[str], listed: Iterable[str]) -> list[str]:
    """Sub-folders with safetensors that no list names, so that they are not written. names: every file of the model."""
    found = (name.partition("/")[0] for name in names if name.endswith(".safetensors") and "/" in name)
    known = set(listed)
    return list(dict.fromkeys(folder for folder in found if folder not in known))


def weights_in(folder: str, names: Iterable[str], where: str) -> str | None:
    """The weight file or index of a sub-folder, as a path inside of it; None where it holds no weights.

    names: every file of the model. Raises a SourceError where several fit, or where the folder has no config.json.
    """
    inside = [name[len(folder) + 1 :] for name in names if name.startswith(folder + "/")]
    held = [name for name in inside if "/" not in name and not TRAINER_FILE.match(name)]
    if not any(name.endswith((".safetensors", ".bin")) for name in held):
        return None
    if "config.json" not in held:
        raise NotACheckpoint(
            f"{where}/{folder}: holds weights and no config.json, so nothing says what they are.",
            "Download the model again, whole.",
        )
    return next((name for name in _FIRST if name in held), None) or choose_weights(held, f"{where}/{folder}")


def own_name(name: str, file: str) -> str:
    """What a tensor is called in its file."""
    folder = folder_of(file)
    return name.removeprefix(folder + "/") if folder else name


def by_folder(files: Sequence[str]) -> dict[str, list[str]]:
    """Files of one model by the folder that they lie in; "" for the model's own."""
    found: dict[str, list[str]] = {}
    for file in files:
        found.setdefault(folder_of(file), []).append(file)
    return found


def _is_plain(name: str) -> bool:
    return bool(name) and "/" not in name and "\\" not in name and "\0" not in name and not name.startswith(".")
