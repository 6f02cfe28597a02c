"""A stand-in for an OpenAI-compatible server: a function decides every reply, and every request is kept."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StandIn(ThreadingHTTPServer):
    """reply(route, body, number of the request) -> (status, headers, bytes or JSON value)."""

    daemon_threads = True

    def __init__(self, reply: Callable[[str, dict, int], tuple[int, dict, Any]]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = reply
        self.requests: list[tuple[str, dict, dict]] = []  # route, headers, body
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), body))
            number = len(self.server.requests)
        status, headers, said = self.server.reply(self.path, body, number)
        raw = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(reply: Callable[[str, dict, int], tuple[int, dict, Any]]) -> Iterator[StandIn]:
    """The stand-in, answering on a port of its own."""
    server = StandIn(reply)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(*texts: str, finish: str = "stop") -> dict[str, Any]:
    """A reply of /v1/completions."""
    choices = [{"index": i, "text": text, "finish_reason": finish} for i, text in enumerate(texts)]
    return {"object": "text_completion", "choices": choices, "usage": {"completion_tokens": 3 * len(texts)}}


def chat(*texts: str) -> dict[str, Any]:
    """A reply of /v1/chat/completions."""
    choices = [{"index": i, "message": {"role": "assistant", "content": text}} for i, text in enumerate(texts)]
    return {"choices": choices}
