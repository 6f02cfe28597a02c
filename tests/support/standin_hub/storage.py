"""The host behind the redirects: bytes of large files for whoever has a signed URL, by ranges."""

import re
from collections.abc import Mapping
from typing import Any

from standin_hub.repositories import Blob
from standin_hub.server import Refusal, Request


def add_routes(hub: Any) -> None:
    """What storage answers."""
    hub.route("GET", r"/objects/([0-9a-f]{64})", get_object, role="storage")


def get_object(hub: Any, request: Request, sha256: str) -> None:
    """The bytes of one large file."""
    hub.check_signature(request)
    path = hub.objects.path(sha256)
    if not path.exists():
        raise Refusal(404, message="no such object")
    blob = Blob(sha256, path.stat().st_size, path, True)
    send(request, blob, {"ETag": f'"{sha256[:32]}"', "Accept-Ranges": "bytes"})


def send(request: Request, blob: Blob, headers: Mapping[str, str]) -> None:
    """A blob's bytes, or the range of them that was asked for; with the fault that was chosen, if any."""
    headers = {"Content-Type": "application/octet-stream", **headers}
    fault, total = request.fault, blob.n_bytes
    span = None if fault == "whole" else _span(request, total)
    first, last = span or (0, total)
    if fault == "other":
        first, last = (first + 1, last) if last - first > 1 else (first, last)
    if fault == "short":
        last = first + max(1, (last - first) // 2)
    if span:
        shown = total + 8 if fault == "resized" else total
        headers |= {"Content-Range": f"bytes {first}-{last - 1}/{shown}"}
    excess = fault == "excess" and request.method != "HEAD"
    request.start(206 if span else 200, headers, None if excess else last - first)
    if request.method == "HEAD":
        return
    request.send_file(blob.path, first, last, cut=fault == "close")
    if excess:
        request.write(memoryview(b"\xee" * 5_000))


def _span(request: Request, total: int) -> tuple[int, int] | None:
    """The bytes [first, last) that the Range header names; None without one."""
    if not request.range:
        return None
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", request.range.strip())
    if not found or found[1] == found[2] == "":
        return None
    if not found[1]:
        return max(0, total - int(found[2])), total
    first, last = int(found[1]), min(int(found[2]) + 1 if found[2] else total, total)
    if first >= total or first >= last:
        raise Refusal(416, headers={"Content-Range": f"bytes */{total}"})
    return first, last
