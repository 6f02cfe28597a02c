"""Which requests fail, and how: every n-th of those that match, in the ways given, one after the other."""

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

# What a request can meet. The first five befall any request, the others one for a file's bytes.
KINDS = (
    "500",  # and any other status from 400 to 599, as its number
    "429",  # with Retry-After
    "reset",  # the connection closes before an answer
    "close",  # the connection closes in the middle of the body
    "html",  # status 200 and a page in HTML, as captive portals answer
    "whole",  # Range is ignored: status 200 and the whole file
    "excess",  # more bytes than the range has, the end marked by closing
    "other",  # a range other than the one asked for
    "short",  # a range that starts right and ends early, which HTTP allows
    "resized",  # a Content-Range whose total is another
)


@dataclass
class Faults:
    """every: 4 fails one matching request in four, 1 all of them, 0 none.

    kinds: taken in turn. host: "hub", "storage" or None for both. where: which requests count, besides.
    limit: how many fail at most.
    """

    every: int = 0
    kinds: Sequence[str] = ("500",)
    host: str | None = None
    where: Callable[[Any], bool] = lambda request: True
    limit: int | None = None
    retry_after: int = 0  # seconds that a 429 asks to wait
    seen: int = 0
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._turn = itertools.cycle(self.kinds)

    def next(self, request: Any) -> str | None:
        """What befalls this request, if anything."""
        if not self.every or (self.host and self.host != request.host) or not self.where(request):
            return None
        with self._lock:
            self.seen += 1
            if self.seen % self.every or (self.limit is not None and len(self.failed) >= self.limit):
                return None
            kind = next(self._turn)
            self.failed.append(f"{kind} {request.method} {request.path}")
            return kind
