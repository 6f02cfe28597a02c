"""Requests for ranges and their answers: from storage behind the Hub over connections of our own, else by the session.

huggingface_hub's session passes what comes through five buffers, at ten times the processor's time of a socket that is
received from straight into the reader's memory. So that is what happens where nothing lies between: no proxy in the
environment, and a connection that comes about. Else, and for the Hub itself, the session is asked. Knows no token.
"""

import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from importlib import import_module
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

CONNECT_S, ANSWER_S = 10.0, 30.0  # to open a connection; between two pieces of an answer
_PIECE = 256 * 1024  # bytes received at a time: what a connection that breaks off loses at most


@cache
def transport() -> ModuleType:
    """httpx or httpx2, whichever huggingface_hub was built on."""
    from huggingface_hub.errors import HfHubHTTPError

    error = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    return import_module(error.__module__.partition(".")[0])


class SessionAnswer:
    """What huggingface_hub's session answers."""

    def __init__(self, response: Any):
        self.response = response
        self.status_code, self.headers = response.status_code, response.headers
        self._pieces, self._rest = response.iter_raw(), memoryview(b"")

    def read_into(self, out: memoryview) -> int:
        """Fill the first bytes of `out`; 0 at the body's end. Raises an HTTPError or an OSError where it breaks off."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        n_bytes = min(len(out), len(self._rest))
        out[:n_bytes], self._rest = self._rest[:n_bytes], self._rest[n_bytes:]
        return n_bytes


class OwnAnswer:
    """What comes over a connection of our own."""

    def __init__(self, response: HTTPResponse):
        self.response = response
        self.status_code, self.headers = response.status, response.headers

    def read_into(self, out: memoryview) -> int:
        """Fill the first bytes of `out`; 0 at the body's end. Raises an OSError where it breaks off."""
        n_bytes = self.response.readinto(out[:_PIECE])
        if n_bytes == 0 and self.response.length:
            raise ConnectionAbortedError("the body ends early")
        return n_bytes

    @property
    def leaves_open(self) -> bool:
        """Whether the connection may be used again: all of the body has come."""
        return self.response.isclosed() and not self.response.will_close


class Connections:
    """Connections that are kept open between requests. Safe from any thread; a fork begins with none."""

    def __init__(self) -> None:
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self.lock = threading.Lock()
        self.idle: dict[str, list[HTTPConnection]] = {}  # by scheme and host
        self.closed: set[str] = set()  # where no connection comes about: a firewall, a certificate of one's own

    def take(self, address: str) -> HTTPConnection | None:
        """An open connection for an address; None where the session is to be asked."""
        where = urlsplit(address)
        origin = f"{where.scheme}://{where.netloc}"
        if origin in self.closed or _has_proxy(where):
            return None
        while kept := self._kept(origin):
            if not _is_readable(kept):  # else it has ended meanwhile
                return kept
            kept.close()
        secure = {"context": _context()} if where.scheme == "https" else {}
        kind = HTTPSConnection if secure else HTTPConnection
        made = kind(where.hostname, where.port, timeout=CONNECT_S, **secure)
        try:
            made.connect()
        except OSError:
            self.closed.add(origin)
            return None
        made.sock.settimeout(ANSWER_S)
        return made

    def _kept(self, origin: str) -> HTTPConnection | None:
        with self.lock:
            kept = self.idle.get(origin)
            return kept.pop() if kept else None

    def give_back(self, address: str, connection: HTTPConnection) -> None:
        """Keep a connection for the next request."""
        where = urlsplit(address)
        with self.lock:
            self.idle.setdefault(f"{where.scheme}://{where.netloc}", []).append(connection)


_CONNECTIONS = Connections()


@contextmanager
def answer_to(address: str, headers: dict[str, str], *, of_hub: bool) -> Iterator[SessionAnswer | OwnAnswer]:
    """The answer to a GET request. of_hub: the address is the Hub's own.

    Raises an HTTPError of `transport()`, or HTTPException or OSError of the standard library.
    """
    from huggingface_hub import get_session

    own = None if of_hub else _CONNECTIONS.take(address)
    if own is None:
        timeout = (CONNECT_S, ANSWER_S, ANSWER_S, None)
        with get_session().stream("GET", address, headers=headers, timeout=timeout, follow_redirects=False) as response:
            yield SessionAnswer(response)
        return
    answer = None
    try:
        own.request("GET", "/" + address.split("/", 3)[3], headers=headers)
        answer = OwnAnswer(own.getresponse())
        yield answer
    finally:
        if answer and answer.leaves_open:
            _CONNECTIONS.give_back(address, own)
        else:
            own.close()


@cache
def _context() -> Any:
    """The certificates that the session trusts too."""
    context = transport().create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _has_proxy(where: Any) -> bool:
    proxies = getproxies()
    return bool(proxies.get(where.scheme) or proxies.get("all")) and not proxy_bypass(where.hostname)


def _is_readable(connection: HTTPConnection) -> bool:
    """Whether something has come over a connection that nothing was asked of: mostly its end."""
    waiting = select.poll()
    waiting.register(connection.sock, select.POLLIN)
    return bool(waiting.poll(0))
