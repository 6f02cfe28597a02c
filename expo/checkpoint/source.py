"""From what the user wrote (a folder, a file, a Hub id) to where the bytes are, pinned. Reads names, not tensors."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from expo.checkpoint.adapters import resolve_adapter, split_adapters
from expo.checkpoint.contents import TRAINER_FOLDER, check_whole, choose_weights, is_side_file
from expo.checkpoint.files import DEFAULT_MAX_HEADER, check_inside
from expo.checkpoint.pipelines import list_of, listed_folders, unlisted_weights, weights_in
from expo.checkpoint.remote import RemoteFile
from expo.checkpoint.spec import Source, folder_of
from expo.checkpoint.views.unquantised import named_base
from expo.checkpoint.weight_map import read_weight_map
from expo.errors import AdapterNotModel, MissingSource, NotACheckpoint, UnreadableFile, UnsupportedFormat, nearest

HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(.+))?")


def resolve(text: str | Path, *, max_header: int = DEFAULT_MAX_HEADER, stream: bool = False) -> Source:
    """Where a checkpoint is: a local path that exists, else a Hub id `org/name[@revision]`; adapters behind a +.

    A Hub id downloads what the model needs into huggingface_hub's cache, and is pinned to one commit. stream: weights
    in safetensors stay on the Hub, and are read there.
    BASE+ADAPTER+... names adapters of the base, each a folder or a Hub id; a path that exists with its + is a path.
    Raises a SourceError that says what was looked for and what to do.
    """
    if isinstance(text, str) and len(parts := split_adapters(text)) > 1:
        source = _resolve_model(parts[0], max_header, stream)
        adapters = tuple(resolve_adapter(part) for part in parts[1:])
        return replace(source, text=text, adapters=adapters)
    return _resolve_model(text, max_header, stream)


def _resolve_model(text: str | Path, max_header: int, stream: bool) -> Source:
    spelled = str(text)
    path = Path(spelled).expanduser() if spelled.strip() else None
    if path is not None and os.path.isdir(path):
        return from_folder(spelled, path, max_header=max_header)
    if path is not None and os.path.exists(path):
        return _from_file(spelled, path, max_header)
    hub = HUB_ID.fullmatch(spelled)
    if isinstance(text, Path) or hub is None or (hub[2] is None and looks_local(path)):
        raise _missing(spelled, path)
    from expo.checkpoint.hub import fetch  # loads huggingface_hub

    return fetch(spelled, hub[1], hub[2], max_header=max_header, stream=stream)


def from_folder(
    text: str,
    folder: Path,
    *,
    repo_id: str | None = None,
    revision: str | None = None,
    max_header: int,
    remote: Mapping[str, RemoteFile] = MappingProxyType({}),
) -> Source:
    """The source in a folder on this machine, which may be a repository's snapshot.

    remote: weight files that belong to it and stay on the Hub.
    """
    folder = folder.absolute()
    top = {*_files_at(folder), *remote}
    listed = list_of(top)
    first = _first(top, text, folder, repo_id, may_lack=listed is not None)  # before a walk, perhaps of a whole disk
    names = list_files(folder)
    sides = tuple(name for name in names if is_side_file(name))
    _check_files(folder, tuple(name for name in (first, *sides) if name and name not in remote))
    weights, index = _shards(folder, first, max_header) if first else ((), None)
    folders, notes = _folders(folder, listed, sorted({*names, *remote}), max_header, remote) if listed else ((), ())
    if not first and not folders:
        raise NotACheckpoint(f"{text}: none of the folders that {listed} lists holds weights.")
    own = {name: remote[name] for name in weights if name in remote}
    return Source(text, folder, weights, index, sides, repo_id, revision, folders=folders, remote=own, notes=notes)


def _first(names: set[str], text: str, folder: Path, repo_id: str | None, *, may_lack: bool) -> str | None:
    """The weight file or index in a model's own folder. may_lack: None where it has none, for its sub-folders may."""
    try:
        return choose_weights(names, text)
    except NotACheckpoint:
        if not may_lack:
            raise
        return None
    except UnsupportedFormat as error:
        if base := named_base(Source(text, folder, (), None, (), repo_id), {}):
            raise UnsupportedFormat(str(error).partition("\n")[0], f"Use its unquantised base: {base}") from None
        raise


def _folders(
    folder: Path, listed: str, names: list[str], max_header: int, remote: Mapping[str, RemoteFile]
) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    """The sub-folders of a model that hold weights, and what there is to say of others."""
    found = []
    named = listed_folders(folder / listed)
    for name in named:
        if first := weights_in(name, names, str(folder)):
            inside = folder / name
            _check_files(inside, () if f"{name}/{first}" in remote else (first,))
            weights, index = _shards(inside, first, max_header)
            own = {file: remote[f"{name}/{file}"] for file in weights if f"{name}/{file}" in remote}
            beside = [file.removeprefix(f"{name}/") for file in names if folder_of(file) == name and is_side_file(file)]
            found.append(Source(str(inside), inside, weights, index, tuple(beside), remote=own))
    others = unlisted_weights(names, named)
    said = (
        f"{folder.name}: {listed} does not list {', '.join(others)}, whose weights are not written." if others else ""
    )
    return tuple(found), (said,) if said else ()


def _files_at(folder: Path) -> list[str]:
    """The names of the files in the folder itself."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if not entry.is_dir()]
    except OSError as error:
        raise UnreadableFile(f"{folder}: cannot be listed: {error.strerror}.", "Check its permissions.") from error


def list_files(folder: Path) -> list[str]:
    """Every file below a folder as a sorted path inside it; hidden and trainers' folders are not entered."""
    names = []

    def refuse(error: OSError) -> None:
        raise UnreadableFile(f"{error.filename}: cannot be listed: {error.strerror}.", "Check its permissions.")

    for here, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not TRAINER_FOLDER.match(name))
        inside = Path(here).relative_to(folder)
        for name in folders:
            check_inside(folder, str(inside / name))
        names += [(inside / name).as_posix() for name in files]
    return sorted(names)


def _from_file(text: str, path: Path, max_header: int) -> Source:
    path = path.absolute()
    folder, name = path.parent, path.name
    if not name.endswith((".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json")):
        raise UnsupportedFormat(
            f"{text}: not a weight file that expo reads.",
            "Pass a folder, a .safetensors or .bin file, a *.safetensors.index.json, or a Hub id.",
        )
    if name.startswith("adapter_model."):
        raise AdapterNotModel(f"{text}: an adapter's weights, not a whole model.", f"Name its base: BASE+{text}")
    check_whole(name, text)
    weights, index = _shards(folder, name, max_header)
    sides: tuple[str, ...] = ()
    if os.path.isfile(folder / "config.json"):
        sides = tuple(name for name in list_files(folder) if is_side_file(name))
        _check_files(folder, sides)
    return Source(text, folder, weights, index, sides)


def _shards(folder: Path, first: str, max_header: int) -> tuple[tuple[str, ...], str | None]:
    """The weight files that a file or an index stands for, and the index."""
    if not first.endswith(".json"):
        return (first,), None
    listed = read_weight_map(folder / first, max_header=max_header)
    return tuple(sorted(set(listed.values()))), first


def _check_files(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        check_inside(folder, name)
        if not os.path.isfile(folder / name):
            raise UnreadableFile(f"{folder / name}: a broken link, or not a regular file.", "Restore or remove it.")


def looks_local(path: Path) -> bool:
    """True where a first part exists here, so that a mistyped folder is not looked up on the Hub."""
    return os.path.isdir(path.parent) or path.suffix in {".safetensors", ".bin", ".json", ".gguf", ".pt"}


def _missing(text: str, path: Path | None) -> MissingSource | NotACheckpoint:
    if path is None:
        return MissingSource("The name of a checkpoint is empty.", "Pass a folder, a weight file or a Hub id.")
    siblings: list[str] = []
    if os.path.isdir(path.parent):
        siblings = [str(path.parent / name) for name in os.listdir(path.parent) if not name.startswith(".")]
    remedy = "A Hub id is org/name or org/name@revision."
    if os.path.islink(path):
        remedy = f"It is a link to {os.readlink(path)}, which does not exist."
    return MissingSource(f"{text}: no such file or folder.{nearest(str(path), siblings)}", remedy)
