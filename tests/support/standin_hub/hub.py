"""The Hub itself: its repositories, users and faults, its two hosts, and the record of all requests."""

import hashlib
import hmac
import re
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from standin_hub import read_side, storage, write_side
from standin_hub.faults import Faults
from standin_hub.repositories import Blob, Objects, Repository
from standin_hub.server import Refusal, Request, Route, Server

TOKEN = "hf_" + "StandInTokenOfNoWorth" + "0123456789"  # of the user that every Hub starts with


@dataclass
class User:
    """An account."""

    name: str
    may_write: bool = True
    granted: set[str] = field(default_factory=set)  # gated and foreign private repositories that it may read
    orgs: tuple[str, ...] = ()  # it may write to


@dataclass(frozen=True)
class Asked:
    """One request that came."""

    host: str
    method: str
    path: str
    range: str | None
    authorization: str | None
    status: int
    fault: str | None
    n_bytes: int  # of the answer's body
    length: int  # of the request's body
    target: str  # path and query
    header_text: str  # every header of the request


class Hub(AbstractContextManager):
    """A Hub whose objects lie in a folder; a context manager that starts and stops both hosts.

    latency: seconds that each request waits for its answer. ttl: seconds that a signed URL is good for.
    """

    def __init__(self, folder: Path, *, latency: float = 0.0, ttl: float = 3600.0):
        self.objects = Objects(Path(folder) / "objects")
        self.folder = Path(folder)
        self.latency, self.ttl = latency, ttl
        self.repositories: dict[str, Repository] = {}
        self.users: dict[str, User] = {TOKEN: User("tester")}
        self.faults = Faults()
        self.noted: list[Asked] = []
        self.under_way = 0  # requests that are not noted yet
        self.errors: list[str] = []  # of the server itself
        self.routes: list[Route] = []
        self.secret = b"of this run"
        self._turn = threading.Condition()
        for side in (storage, read_side, write_side):
            side.add_routes(self)

    # --- repositories -----------------------------------------------------------------------------------------------

    def add(
        self, repo_id: str, folder: Path | None = None, *, private: bool = False, gated: bool = False
    ) -> Repository:
        """A new repository; its first commit holds a folder's files."""
        repository = self.repositories[repo_id] = Repository(repo_id, private, gated)
        repository.commit(self.objects.add_folder(folder) if folder else {}, message="initial commit")
        return repository

    def blob(self, content: bytes | Path, *, is_large: bool = True) -> Blob:
        """A content that a commit can hold."""
        if isinstance(content, bytes):
            return self.objects.add_bytes(content, is_large=is_large)
        return self.objects.add_file(content, is_large=is_large)

    # --- who may what -----------------------------------------------------------------------------------------------

    def user(self, request: Request) -> User | None:
        """Whose request it is; a token that nobody has is refused."""
        if request.authorization is None:
            return None
        found = self.users.get(request.authorization.removeprefix("Bearer "))
        if found is None:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        return found

    def repository(self, request: Request, repo_id: str, *, files: bool = False, write: bool = False) -> Repository:
        """A repository that the request may see; files: may also download from; write: may change."""
        user, found = self.user(request), self.repositories.get(repo_id)
        owns = user is not None and repo_id.split("/")[0] in (user.name, *user.orgs)
        granted = owns or (user is not None and repo_id in user.granted)
        if found is None or (found.private and not granted):
            raise Refusal(404 if user else 401, "RepoNotFound", "Repository not found")
        if files and found.gated and not granted:
            message = f"Access to model {repo_id} is restricted."
            raise Refusal(403 if user else 401, "GatedRepo", message)
        if write and not (user and user.may_write and (owns or granted or not found.private)):
            raise Refusal(403 if user else 401, message="Forbidden: this token may not write here")
        return found

    # --- hosts ------------------------------------------------------------------------------------------------------

    def route(self, method: str, pattern: str, function: Callable[..., Any], *, role: str = "hub") -> None:
        """Answer requests whose path (still quoted) matches with function(hub, request, *unquoted groups).

        Later routes come first, so that a file can replace one.
        """
        self.routes.insert(0, (role, method, re.compile(pattern), function))

    def __enter__(self) -> Self:
        self._servers = [Server(self, role) for role in ("hub", "storage")]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def url(self) -> str:
        """The Hub's address: what HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def storage_url(self) -> str:
        """The address of the host that keeps large files: another name, so that clients drop their token."""
        return f"http://localhost:{self._servers[1].server_port}"

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """What a process needs to use this Hub and no other: variables for its environment."""
        names = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "XDG_STATE_HOME": str(Path(home) / "state"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_TOKEN": token or "",
        }
        return {**names, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}

    # --- signed URLs ------------------------------------------------------------------------------------------------

    def sign(self, path: str, **query: str) -> str:
        """A URL on storage that is good for a while."""
        until = f"{time.time() + self.ttl:.3f}"
        more = "".join(f"&{name}={quote(value)}" for name, value in query.items())
        return f"{self.storage_url}{path}?X-Expires={until}&X-Signature={self._signature(path, until)}{more}"

    def check_signature(self, request: Request) -> None:
        """Refuse a URL that was not signed, or has expired; and a token, which S3 does not take beside a signature."""
        if request.authorization:
            raise Refusal(400, message="Only one auth mechanism allowed")
        until = request.query.get("X-Expires", "0")
        good = hmac.compare_digest(self._signature(request.path, until), request.query.get("X-Signature", ""))
        if not good or float(until) < time.time():
            raise Refusal(403, message="Request has expired")

    def _signature(self, path: str, until: str) -> str:
        return hmac.new(self.secret, f"{path} {until}".encode(), hashlib.sha256).hexdigest()

    # --- what happened ----------------------------------------------------------------------------------------------

    def fault(self, request: Request) -> str | None:
        """What befalls a request."""
        return self.faults.next(request)

    @property
    def asked(self) -> list[Asked]:
        """Every request so far; a client has its answer a little before the request is noted, which is waited for."""
        with self._turn:
            self._turn.wait_for(lambda: not self.under_way, timeout=2)
            return self.noted

    def begin(self) -> None:
        """Count a request that came."""
        with self._turn:
            self.under_way += 1

    def note(self, request: Request) -> None:
        """Keep a request that was answered."""
        row = Asked(
            request.host,
            request.method,
            request.path,
            request.range,
            request.authorization,
            request.status,
            request.fault,
            request.sent,
            request.length,
            request.target,
            str(request.headers),
        )
        with self._turn:
            self.noted.append(row)
            self.under_way -= 1
            self._turn.notify_all()
