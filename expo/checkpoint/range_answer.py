"""Is an answer to a range request the range that was asked for? Knows HTTP's rules; no address, no retry."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fault:
    """Why a request gave less than it should; another may do better."""

    what: str
    status: int = 0
    wait: float = 0.0  # seconds that the server asks for
    is_nonsense: bool = False  # an answer that HTTP does not allow, or that no Hub gives
    remedy: str = ""
    total: int | None = None  # the file's size, where the server states another


def check_answer(response: Any, at: int, n_bytes: int, total: int) -> Fault | None:
    """What is wrong with status and headers of the answer to bytes [at, at + n_bytes) of a file of `total` bytes."""
    status, headers = response.status_code, response.headers
    if status not in (200, 206):
        may_pass = status in (408, 429) or status >= 500
        return Fault(f"status {status}", status=status, wait=wait_asked(headers), is_nonsense=not may_pass)
    if "html" in headers.get("content-type", ""):
        remedy = "Check the network (a login page, a proxy?) and HF_ENDPOINT"
        return Fault("a web page instead of the file's bytes", is_nonsense=True, remedy=remedy)
    if headers.get("content-encoding", "identity") != "identity":
        return Fault(f"bytes in the encoding {headers['content-encoding']!r}", is_nonsense=True)
    if status == 200:
        if (at, n_bytes) == (0, total) and headers.get("content-length") == str(total):
            return None
        return Fault("the whole file instead of a range of it (Range was ignored)", is_nonsense=True)
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", headers.get("content-range", "").strip())
    if not found:
        return Fault("a range without a Content-Range", is_nonsense=True)
    if found[3] not in ("*", str(total)):
        return Fault("another size", total=int(found[3]))
    if int(found[1]) != at or not at <= int(found[2]) < at + n_bytes:
        return Fault(f"bytes {found[1]} to {found[2]} instead of {at} to {at + n_bytes - 1}", is_nonsense=True)
    return None


def take_body(answer: Any, out: memoryview, broken: tuple[type[Exception], ...]) -> tuple[int, Fault | None]:
    """Read an answer's body into `out`: how many bytes came, and what broke it off, by one of the errors named."""
    done = 0
    try:
        while done < len(out) and (n_bytes := answer.read_into(out[done:])):
            done += n_bytes
        if done == len(out) and answer.read_into(memoryview(bytearray(1))):
            return 0, Fault("more bytes than were asked for", is_nonsense=True)
    except broken as error:
        return done, Fault(f"the connection broke off: {type(error).__name__}")
    return done, None


def wait_asked(headers: Mapping[str, str]) -> float:
    """The seconds that a server asks to wait: by Retry-After, or until its limit of requests counts anew."""
    if (headers.get("retry-after") or "").strip().isdigit():
        return float(headers["retry-after"])
    found = re.search(r";\s*r=0\s*;\s*t=(\d+)", headers.get("ratelimit") or "")
    return float(found[1]) if found else 0.0
