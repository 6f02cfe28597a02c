"""Xet uploads for a stand-in Hub: the real hf_xet writes into a folder, by its own stand-in for the storage service.

That service is part of hf_xet for its makers' tests and no stable interface; one process at a time may use its folder.
"""

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from standin_hub import write_side
from standin_hub.repositories import Blob
from standin_hub.server import Request

_ID = r"([^/]+/[^/]+)"
_ROW = 48  # bytes of each record in a shard's table of files
_VERIFIED, _WITH_SHA256 = 1 << 31, 1 << 30


def serve_xet(hub: Any) -> Path:
    """Have a Hub answer what hf_xet asks; returns the folder that it uploads to."""
    hub.xet = hub.folder / "xet"
    hub.xet.mkdir(parents=True)
    hub.uploads.by_xet = large_blob
    hub.route("GET", rf"/api/models/{_ID}/xet-(write|read)-token/([^/]+)", token)
    return hub.xet


def token(hub: Any, request: Request, repo_id: str, kind: str, revision: str) -> None:
    """Where hf_xet may write or read, and until when."""
    if kind == "write" and request.query.get("create_pr") != "1":
        write_side.writer(hub, request, repo_id)
    until, where = int(time.time()) + 3600, f"local://{hub.xet}"
    headers = {"X-Xet-Cas-Url": where, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(until)}
    request.answer_json({"casUrl": where, "accessToken": "xet", "exp": until}, headers=headers)


def uploaded(folder: Path) -> dict[str, str]:
    """SHA-256 -> xet's own hash of every file that was uploaded whole."""
    return {sha256: own for path in folder.rglob("*.mdb") for own, sha256 in _files(path.read_bytes())}


def large_blob(hub: Any, sha256: str, n_bytes: int) -> Blob | None:
    """A file that hf_xet uploaded; its bytes are in xet's folder only."""
    return Blob(sha256, n_bytes, hub.objects.path(sha256), True) if sha256 in uploaded(hub.xet) else None


def _files(shard: bytes) -> Iterator[tuple[str, str]]:
    """(xet's hash, SHA-256) of the files in a shard's table."""
    at = _ROW
    while (own := shard[at : at + 32]) != b"\xff" * 32 and len(own) == 32:
        flags, n = struct.unpack_from("<II", shard, at + 32)
        at += _ROW * (1 + n + (n if flags & _VERIFIED else 0))
        if flags & _WITH_SHA256:
            yield _hex(own), _hex(shard[at : at + 32])
            at += _ROW


def _hex(words: bytes) -> str:
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", words))
