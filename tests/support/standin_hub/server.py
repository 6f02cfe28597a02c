"""One HTTP/1.1 host: finds the route of a request, delays it, lets it fail where the faults say so, and answers."""

import contextlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_CHUNK = 1 << 20
PAGE = b"<!DOCTYPE html><html><body>Please accept the terms of this network.</body></html>"


class Refusal(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, code: str = "", message: str = "", headers: Mapping[str, str] = {}):
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers


class Gone(Exception):
    """The connection ends here."""


class Request:
    """One request, and the means to answer it."""

    def __init__(self, handler: "Handler"):
        self.handler = handler
        self.host: str = handler.server.role
        self.method: str = handler.command
        self.target: str = handler.path
        parts = urlsplit(handler.path)
        self.path = parts.path
        self.query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.headers = handler.headers
        self.authorization: str | None = self.headers.get("Authorization")
        self.range: str | None = self.headers.get("Range")
        self.length = int(self.headers.get("Content-Length") or 0)
        self.chunked = "chunked" in (self.headers.get("Transfer-Encoding") or "")
        self.fault: str | None = None
        self.status = 0
        self.sent = 0  # bytes of the body that went out
        self.taken = 0  # bytes of the request's body that were read
        self._body: bytes | None = None

    # --- what came --------------------------------------------------------------------------------------------------

    def body(self) -> bytes:
        """The request's body, whole."""
        if self._body is None:
            self._body = b"".join(self.pieces())
        return self._body

    def pieces(self):
        """The request's body, piece by piece; may be read once."""
        source = self.handler.rfile
        if self.chunked:
            while n := int(source.readline().split(b";")[0], 16):
                yield source.read(n)
                source.readline()
            source.readline()
            return
        while self.taken < self.length:
            piece = source.read(min(_CHUNK, self.length - self.taken))
            if not piece:
                raise Gone
            self.taken += len(piece)
            yield piece

    def json(self) -> Any:
        """The request's body as JSON."""
        return json.loads(self.body() or b"null")

    # --- what goes --------------------------------------------------------------------------------------------------

    def start(self, status: int, headers: Mapping[str, str], n_bytes: int | None) -> None:
        """Send status and headers; a length of None ends the body by closing."""
        handler = self.handler
        self.status = status
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if n_bytes is None:
            handler.close_connection = True
            handler.send_header("Connection", "close")
        else:
            handler.send_header("Content-Length", str(n_bytes))
        handler.end_headers()

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        """Send an answer whose body is in memory."""
        self.start(status, headers, len(body))
        if self.method != "HEAD":
            self.write(memoryview(body), cut=self.fault == "close")

    def answer_json(self, content: Any, status: int = 200, headers: Mapping[str, str] = {}) -> None:
        """Send JSON."""
        self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json", **headers})

    def write(self, body: memoryview, *, cut: bool = False) -> None:
        """Send bytes of the body; cut: only half of them, and no more after."""
        self.handler.wfile.write(body[: len(body) // 2] if cut else body)
        self.sent += len(body)
        if cut:
            raise Gone

    def send_file(self, path: Any, first: int, last: int, *, cut: bool = False) -> None:
        """Send bytes [first, last) of a file, without passing them through Python; cut: only half of them."""
        last = first + (last - first) // 2 if cut else last
        self.handler.wfile.flush()
        with open(path, "rb") as file:
            while first < last:
                # A socket with a timeout or none: sendfile waits for room by itself on a blocking socket.
                n = os.sendfile(self.handler.connection.fileno(), file.fileno(), first, min(last - first, 1 << 22))
                if n == 0:
                    raise Gone
                first, self.sent = first + n, self.sent + n
        if cut:
            raise Gone


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _do(self) -> None:
        request = Request(self)
        hub = self.server.hub
        hub.begin()
        try:
            if hub.latency:
                time.sleep(hub.latency)
            request.fault = hub.fault(request)
            if not self._befall(request):
                self._route(request)
        except Refusal as refusal:
            named = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            body = json.dumps({"error": refusal.message or refusal.code}).encode()
            headers = {name: value for name, value in {**named, **refusal.headers}.items() if value}
            request.answer(refusal.status, body, {"Content-Type": "application/json", **headers})
        except (Gone, BrokenPipeError, ConnectionResetError):
            self._hang_up()
        finally:
            if request.taken < request.length and not self.close_connection:
                self._drain(request)
            hub.note(request)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _do

    def _befall(self, request: Request) -> bool:
        """Whether a fault has already answered the request."""
        kind = request.fault
        if kind == "reset":
            raise Gone
        if kind == "html":
            request.answer(200, PAGE, {"Content-Type": "text/html; charset=utf-8"})
            return True
        if kind and kind.isdigit():
            wait = {"Retry-After": str(self.server.hub.faults.retry_after)} if kind == "429" else {}
            raise Refusal(int(kind), message="injected", headers=wait)
        return False

    def _route(self, request: Request) -> None:
        for role, method, pattern, function in self.server.hub.routes:
            if role == request.host and (method == request.method or (method, request.method) == ("GET", "HEAD")):
                found = pattern.fullmatch(request.path)
                if found:
                    function(self.server.hub, request, *(unquote(part or "") for part in found.groups()))
                    return
        raise Refusal(404, message=f"no route for {request.method} {request.path}")

    def _drain(self, request: Request) -> None:
        try:
            for _ in request.pieces():
                pass
        except (Gone, OSError):
            self.close_connection = True

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """One host of a Hub. role: "hub" or "storage"."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub: Any, role: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub, self.role = hub, role

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is no news; what the routes raise is kept."""
        self.hub.errors.append(repr(sys.exc_info()[1]))


Route = tuple[str, str, re.Pattern, Callable]
