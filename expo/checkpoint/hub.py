"""Fetch a repository's model into huggingface_hub's cache, pinned to one commit; tokens stay inside that library."""

import glob
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from expo.checkpoint.adapters import CONFIG, SIDE_FILES, WEIGHTS, adapter_in_folder, choose_adapter
from expo.checkpoint.contents import WEIGHT_SUFFIXES, choose_weights, is_side_file
from expo.checkpoint.pipelines import list_of, listed_folders, weights_in
from expo.checkpoint.source import from_folder
from expo.checkpoint.spec import Source
from expo.checkpoint.weight_map import read_weight_map
from expo.errors import (
    AmbiguousWeights,
    HubAccessDenied,
    HubError,
    HubNotCached,
    HubRepositoryNotFound,
    HubRevisionNotFound,
    HubUnreachable,
    MissingShard,
    NotACheckpoint,
    NotAnAdapter,
    UnreadableFile,
)

PATIENCE_S = 1.3  # to open a connection; an unreachable Hub is reported within 2 s
ANSWER_S = 15.0  # to answer over an open connection


def fetch(text: str, repo_id: str, revision: str | None, *, max_header: int) -> Source:
    """The source of a Hub repository: only its chosen weights and side files are downloaded.

    Without a connection the cached snapshot serves, if it is whole. Raises a HubError.
    """
    try:
        commit, names = _listing(repo_id, revision)
    except HubUnreachable as error:
        return _from_cache(text, repo_id, revision, error, max_header)
    wanted = {*filter(is_side_file, names), *({"README.md"} & set(names))}  # the card names its base model
    for first in _firsts(names, text, repo_id, commit):
        wanted |= {first, *_shards_of(first, names, repo_id, commit, max_header)}
    # Asked for by its name, the revision is also noted in the cache, where it is found again without a connection.
    folder = _download(repo_id, revision or "main", wanted)
    if folder.name != commit:  # the branch moved on meanwhile
        folder = _download(repo_id, commit, wanted)
    return from_folder(text, folder, repo_id=repo_id, revision=commit, max_header=max_header)


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
    wanted = {choose_adapter(names, text), CONFIG, *(set(SIDE_FILES) & set(names))}
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
            with _translated(repo_id, revision, LocalEntryNotFoundError):
                found = snapshot_download(repo_id, revision=revision, local_files_only=True, allow_patterns=wanted)
            return adapter_in_folder(text, Path(found), repo_id=repo_id, revision=Path(found).name)
    problem = f"{cause}\nThe cache does not hold the adapter {text}."
    remedy = f"With a connection: `hf download {repo_id}{f' --revision {revision}' if revision else ''}`."
    raise (HubNotCached if "HF_HUB_OFFLINE" in str(cause) else HubUnreachable)(problem, remedy)


def _listing(repo_id: str, revision: str | None) -> tuple[str, list[str]]:
    """The commit's 40 hex digits and the names of its files."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise HubUnreachable(f"{repo_id}: HF_HUB_OFFLINE is set.")
    _probe(constants.ENDPOINT)
    from huggingface_hub import HfApi

    with _translated(repo_id, revision):
        # connect, read, write, pool
        timeout = (PATIENCE_S, ANSWER_S, ANSWER_S, ANSWER_S)
        found = HfApi().model_info(repo_id, revision=revision, timeout=timeout)
    if not re.fullmatch(r"[0-9a-f]{40}", found.sha or ""):
        raise HubError(f"{repo_id}: the Hub named no commit for {revision or 'main'}.")
    return found.sha, [file.rfilename for file in found.siblings or []]


def _download(repo_id: str, revision: str, names: set[str]) -> Path:
    """The snapshot's folder in the cache, with at least these files."""
    from huggingface_hub import snapshot_download

    patterns = sorted(glob.escape(name) for name in names)
    with _translated(repo_id, revision):
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns))


def _from_cache(text: str, repo_id: str, revision: str | None, cause: HubUnreachable, max_header: int) -> Source:
    """The source in a cached snapshot, which must be whole as far as its files and its cached listing tell."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    ignored = [f"*{suffix}" for suffix in WEIGHT_SUFFIXES] + [".*", "*/.*", "README.md", "checkpoint-*/*"]
    try:
        with _translated(repo_id, revision, LocalEntryNotFoundError):
            folder = Path(snapshot_download(repo_id, revision=revision, local_files_only=True, ignore_patterns=ignored))
        source = from_folder(text, folder, repo_id=repo_id, revision=folder.name, max_header=max_header)
        absent = [name for name in source.weights if not (folder / name).exists()]
    except (LocalEntryNotFoundError, NotACheckpoint, UnreadableFile):
        absent = ["files"]
    if absent:
        problem = f"{cause}\nThe cache does not hold the whole of {text}: {', '.join(absent[:5])} missing."
        remedy = f"With a connection: `hf download {repo_id}{f' --revision {revision}' if revision else ''}`."
        raise (HubNotCached if "HF_HUB_OFFLINE" in str(cause) else HubUnreachable)(problem, remedy) from None
    return source


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


@contextmanager
def _translated(repo_id: str, revision: str | None, *passed: type[Exception]) -> Iterator[None]:
    """Turn huggingface_hub's errors into one class each; their texts may hold headers and are not repeated."""
    try:
        yield
    except passed:
        raise
    except Exception as error:
        _raise_as_ours(error, repo_id, revision)


def _raise_as_ours(error: Exception, repo_id: str, revision: str | None) -> NoReturn:
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repo_id}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        raise HubRevisionNotFound(
            f"{repo_id}: no branch, tag or commit {revision!r}.", f"See {page}/tree/main for those there are."
        ) from None
    if isinstance(error, errors.GatedRepoError) or status == 403:
        raise HubAccessDenied(
            f"{repo_id}: this account has no access.", f"Ask for it at {page}, then run `hf auth login`."
        ) from None
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        raise HubRepositoryNotFound(
            f"{repo_id}: no such model on the Hub, or a private one.",
            "Check the spelling; for a private one run `hf auth login`, for a folder write ./ before its name.",
        ) from None
    if isinstance(error, errors.HFValidationError):
        raise HubRepositoryNotFound(f"{repo_id}: not a valid Hub id.", "A Hub id is org/name.") from None
    if status == 429:
        raise HubError(f"{repo_id}: the Hub limits the rate of requests.", "Wait some minutes, and log in.") from None
    if status is not None and status < 500:
        raise HubError(f"{repo_id}: the Hub answered with status {status}.", "Try again later.") from None
    if isinstance(error, OSError) and error.errno is not None and status is None:
        raise HubError(f"{repo_id}: download stopped: {os.strerror(error.errno)}.", "Run it again to go on.") from None
    reason = f"status {status}" if status else type(error).__name__
    raise HubUnreachable(f"{repo_id}: the Hub cannot be reached ({reason}).", "Check the connection.") from None
