"""A repository's model, pinned to one commit: in huggingface_hub's cache, or its weights left where they are."""

import glob
import re
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from expo.checkpoint.adapters import CONFIG, SIDE_FILES, WEIGHTS, adapter_in_folder, choose_adapter
from expo.checkpoint.contents import WEIGHT_SUFFIXES, choose_weights, is_side_file
from expo.checkpoint.hub_errors import keep_addresses_unsaid, patiently, translated
from expo.checkpoint.model_card import CARD
from expo.checkpoint.pipelines import list_of, listed_folders, weights_in
from expo.checkpoint.remote import RemoteFile
from expo.checkpoint.source import from_folder
from expo.checkpoint.spec import Source
from expo.checkpoint.weight_map import read_weight_map
from expo.errors import (
    AmbiguousWeights,
    HubError,
    HubNotCached,
    HubUnreachable,
    MissingShard,
    NotACheckpoint,
    NotAnAdapter,
    UnreadableFile,
)

PATIENCE_S = 1.3  # to open a connection; an unreachable Hub is reported within 2 s
ANSWER_S = 15.0  # to answer over an open connection
TIMEOUT = (PATIENCE_S, ANSWER_S, ANSWER_S, ANSWER_S)  # connect, read, write, pool


def fetch(text: str, repo_id: str, revision: str | None, *, max_header: int, stream: bool = False) -> Source:
    """The source of a Hub repository: only its chosen weights and side files are downloaded.

    stream: safetensors files that the cache does not hold yet stay on the Hub.
    Without a connection the cached snapshot serves, if it is whole. Raises a HubError.
    """
    try:
        commit, names = _listing(repo_id, revision, details=stream)
    except HubUnreachable as error:
        return _from_cache(text, repo_id, revision, error, max_header)
    wanted = {*filter(is_side_file, names), *({"README.md", "expo.json"} & set(names))}  # what it was made from
    for first in _firsts(names, text, repo_id, commit):
        wanted |= {first, *_shards_of(first, names, repo_id, commit, max_header)}
    remote = _left_there(repo_id, commit, {name: names[name] for name in wanted}) if stream else {}
    wanted -= set(remote)
    # Asked for by its name, the revision is also noted in the cache, where it is found again without a connection.
    folder = _download(repo_id, revision or "main", wanted)
    if folder.name != commit:  # the branch moved on meanwhile
        folder = _download(repo_id, commit, wanted)
    found = from_folder(text, folder, repo_id=repo_id, revision=commit, max_header=max_header, remote=remote)
    pickled = any(name.endswith(".bin") for name in found.weights)
    note = f"{repo_id}: a .bin cannot be read by ranges; it was downloaded whole."
    return replace(found, notes=(*found.notes, note)) if stream and pickled else found


def _left_there(repo_id: str, commit: str, wanted: Mapping[str, Any]) -> dict[str, RemoteFile]:
    """The files that stay on the Hub: in safetensors, and not in the cache. wanted: name -> what the Hub lists."""
    from huggingface_hub import try_to_load_from_cache

    there = {}
    for name, listed in sorted(wanted.items()):
        if name.endswith(".safetensors") and not isinstance(
            try_to_load_from_cache(repo_id, name, revision=commit), str
        ):
            if listed.size is None:
                raise HubError(f"{repo_id}@{commit}: the Hub states no size of {name}.", "Leave out --stream.")
            etag = listed.lfs.sha256 if listed.lfs else listed.blob_id
            there[name] = RemoteFile(repo_id, commit, name, listed.size, etag)
    return there


def _firsts(names: list[str], text: str, repo_id: str, commit: str) -> list[str]:
    """The weight file or index that the model starts from, and those of its sub-folders."""
    listed = list_of(names)
    found = []
    try:
        found.append(choose_weights(names, text))
    except AmbiguousWeights as error:
        remedy = f"Run `hf download {repo_id}` and pass the file that you mean."
        raise AmbiguousWeights(str(error).split("\n")[0], remedy) from None
    except NotACheckpoint:
        if listed is None:
            raise
    if listed:
        for folder in listed_folders(_download(repo_id, commit, {listed}) / listed):
            if first := weights_in(folder, names, text):
                found.append(f"{folder}/{first}")
    return found


def _shards_of(first: str, names: list[str], repo_id: str, commit: str, max_header: int) -> set[str]:
    """The shards that an index lists; none for a weight file."""
    if not first.endswith(".json"):
        return set()
    folder = _download(repo_id, commit, {first})
    around = first.rpartition("/")[0]
    listed = read_weight_map(folder / first, max_header=max_header).values()
    shards = {f"{around}/{name}" if around else name for name in listed}
    absent = sorted(shards - set(names))
    if absent:
        raise MissingShard(f"{repo_id}@{commit}/{first}", f"lists shards that are not there: {absent[:5]}.")
    return shards


def fetch_adapter(text: str, repo_id: str, revision: str | None) -> Source:
    """The source of an adapter in a Hub repository: its weights and its config are downloaded. Raises a HubError."""
    try:
        commit, names = _listing(repo_id, revision)
    except HubUnreachable as cause:
        return _adapter_from_cache(text, repo_id, revision, cause)
    wanted = {choose_adapter(names, text), CONFIG, *({*SIDE_FILES, CARD} & set(names))}
    folder = _download(repo_id, revision or "main", wanted)
    if folder.name != commit:  # the branch moved on meanwhile
        folder = _download(repo_id, commit, wanted)
    return adapter_in_folder(text, folder, repo_id=repo_id, revision=commit)


def _adapter_from_cache(text: str, repo_id: str, revision: str | None, cause: HubUnreachable) -> Source:
    """The source of an adapter in a cached snapshot."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for weights in WEIGHTS:
        wanted = [weights, CONFIG]
        with suppress(LocalEntryNotFoundError, NotAnAdapter, UnreadableFile):
            with translated(repo_id, revision, LocalEntryNotFoundError):
                found = snapshot_download(repo_id, revision=revision, local_files_only=True, allow_patterns=wanted)
            return adapter_in_folder(text, Path(found), repo_id=repo_id, revision=Path(found).name)
    problem = f"{cause}\nThe cache does not hold the adapter {text}."
    remedy = f"With a connection: `hf download {repo_id}{f' --revision {revision}' if revision else ''}`."
    raise (HubNotCached if "HF_HUB_OFFLINE" in str(cause) else HubUnreachable)(problem, remedy)


def _listing(repo_id: str, revision: str | None, *, details: bool = False) -> tuple[str, dict[str, Any]]:
    """The commit's 40 hex digits, and its files by name. details: with their sizes and hashes."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise HubUnreachable(f"{repo_id}: HF_HUB_OFFLINE is set.")
    _probe(constants.ENDPOINT)
    keep_addresses_unsaid()
    from huggingface_hub import HfApi

    asked = {"revision": revision, "files_metadata": details, "timeout": TIMEOUT}
    found = patiently(lambda: HfApi().model_info(repo_id, **asked), repo_id, revision)
    if not re.fullmatch(r"[0-9a-f]{40}", found.sha or ""):
        raise HubError(f"{repo_id}: the Hub named no commit for {revision or 'main'}.")
    return found.sha, {file.rfilename: file for file in found.siblings or []}


def _download(repo_id: str, revision: str, names: set[str]) -> Path:
    """The snapshot's folder in the cache, with at least these files."""
    from huggingface_hub import snapshot_download

    asked = {"revision": revision, "allow_patterns": sorted(glob.escape(name) for name in names)}
    return Path(patiently(lambda: snapshot_download(repo_id, **asked), repo_id, revision))


def _from_cache(text: str, repo_id: str, revision: str | None, cause: HubUnreachable, max_header: int) -> Source:
    """The source in a cached snapshot, which must be whole as far as its files and its cached listing tell."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    ignored = [f"*{suffix}" for suffix in WEIGHT_SUFFIXES] + [".*", "*/.*", "README.md", "checkpoint-*/*"]
    try:
        with translated(repo_id, revision, LocalEntryNotFoundError):
            folder = Path(snapshot_download(repo_id, revision=revision, local_files_only=True, ignore_patterns=ignored))
        source = from_folder(text, folder, repo_id=repo_id, revision=folder.name, max_header=max_header)
        _check_folders(repo_id, source)
        absent = [
            name for part in (source, *source.folders) for name in part.weights if not (part.folder / name).exists()
        ]
    except (LocalEntryNotFoundError, NotACheckpoint, UnreadableFile):
        absent = ["files"]
    if absent:
        problem = f"{cause}\nThe cache does not hold the whole of {text}: {', '.join(absent[:5])} missing."
        remedy = f"With a connection: `hf download {repo_id}{f' --revision {revision}' if revision else ''}`."
        raise (HubNotCached if "HF_HUB_OFFLINE" in str(cause) else HubUnreachable)(problem, remedy) from None
    return source


def _check_folders(repo_id: str, source: Source) -> None:
    """LocalEntryNotFoundError where the cached listing has weights in a sub-folder, and the snapshot has none."""
    from huggingface_hub import snapshot_download

    listed = list_of(source.side_files)
    known = {part.folder.name for part in source.folders}
    empty = [name for name in listed_folders(source.folder / listed) if name not in known] if listed else []
    if empty:
        patterns = [f"{glob.escape(name)}/*{suffix}" for name in empty for suffix in (".safetensors", ".bin")]
        snapshot_download(repo_id, revision=source.revision, local_files_only=True, allow_patterns=patterns)


def _probe(endpoint: str) -> None:
    """Fail soon where no connection opens: a name server or a firewall that drops packets costs a minute else."""
    address = urlsplit(endpoint)
    if {address.scheme, "all"} & getproxies().keys() and not proxy_bypass(address.hostname):
        return
    failure: list[OSError] = []

    def connect() -> None:
        try:
            port = address.port or (443 if address.scheme == "https" else 80)
            socket.create_connection((address.hostname, port), timeout=PATIENCE_S).close()
        except OSError as error:
            failure.append(error)

    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    deadline = time.monotonic() + PATIENCE_S
    import huggingface_hub.hf_api  # noqa: F401  (half a second, while the connection opens)

    attempt.join(max(0.0, deadline - time.monotonic()))
    if attempt.is_alive() or failure:
        reason = (failure and failure[0].strerror) or "no answer"
        raise HubUnreachable(f"{address.hostname}: the Hub cannot be reached ({reason}).")
