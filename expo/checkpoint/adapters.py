"""Read BASE+ADAPTER+...: where each part is. Nothing of the adapters themselves but the names of their files."""

import os
from pathlib import Path

from expo.checkpoint.files import check_inside
from expo.checkpoint.spec import Source
from expo.errors import MissingSource, NotAnAdapter, UnreadableFile, nearest

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # in the order of preference
SIDE_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")  # compared with the base's


def split_adapters(text: str) -> list[str]:
    """BASE+ADAPTER+... as its parts. A + inside a path that exists stays: the longest such path is one part."""
    pieces = text.split("+")
    parts = []
    while pieces:
        n = next((n for n in range(len(pieces), 0, -1) if _exists("+".join(pieces[:n]))), 1)
        parts.append("+".join(pieces[:n]))
        pieces = pieces[n:]
    return parts


def resolve_adapter(text: str) -> Source:
    """Where one adapter is: a folder, its weight file, or a Hub id `org/name[@revision]`.

    Raises NotAnAdapter, MissingSource or a HubError.
    """
    from expo.checkpoint.source import HUB_ID, looks_local

    path = Path(text).expanduser()
    if text.strip() and os.path.isdir(path):
        return adapter_in_folder(text, path)
    if text.strip() and os.path.isfile(path):
        return adapter_in_folder(text, path.parent, only=path.name)
    hub = HUB_ID.fullmatch(text)
    if hub is None or (hub[2] is None and looks_local(path)):
        siblings = sorted(str(path.parent / name) for name in os.listdir(path.parent)) if path.parent.is_dir() else []
        raise MissingSource(
            f"{text or 'the name behind the last +'}: no such adapter.{nearest(str(path), siblings)}",
            "An adapter is a folder or a Hub id, behind its base and a +.",
        )
    from expo.checkpoint.hub import fetch_adapter  # loads huggingface_hub

    return fetch_adapter(text, hub[1], hub[2])


def adapter_in_folder(
    text: str, folder: Path, *, only: str | None = None, repo_id: str | None = None, revision: str | None = None
) -> Source:
    """The adapter in a folder on this machine, which may be a repository's snapshot. only: its weights' name."""
    folder = folder.absolute()
    weights = choose_adapter(sorted(os.listdir(folder)) if only is None else [only, CONFIG], text)
    for name in (CONFIG, weights):
        check_inside(folder, name)
        if not os.path.isfile(folder / name):
            raise UnreadableFile(f"{folder / name}: not there, or not a regular file.", "Restore or download it.")
    return Source(text, folder, (weights,), None, (CONFIG,), repo_id, revision)


def choose_adapter(names: list[str], where: str) -> str:
    """The file of an adapter's weights among a folder's names; raises NotAnAdapter."""
    weights = next((name for name in WEIGHTS if name in names), None)
    if weights is None or CONFIG not in names:
        lost = CONFIG if weights else WEIGHTS[0]
        raise NotAnAdapter(f"{where}: not an adapter: it has no {lost}.")
    return weights


def _exists(path: str) -> bool:
    return bool(path.strip()) and os.path.exists(Path(path).expanduser())
