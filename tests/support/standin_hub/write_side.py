"""What the Hub answers to a writer: create, branch, preupload, LFS batch (basic and multipart), commit, pull requests.

A large file counts for the repository that it was uploaded to, and for no other. `hub.received` holds every body that
came in, whole or cut off.
"""

import base64
import datetime
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from standin_hub.card_rules import card_errors
from standin_hub.read_side import commit_at
from standin_hub.repositories import LARGE, LARGE_FROM, Blob, Repository
from standin_hub.server import Gone, Refusal, Request

_ID = r"([^/]+/[^/]+)"


@dataclass
class Upload:
    """One body of a large file that came: whole, or as far as it came."""

    repo_id: str
    sha256: str
    n_bytes: int
    whole: bool


@dataclass
class Uploads:
    """What was uploaded and not necessarily committed. multipart_from: bytes from which on files go in parts."""

    multipart_from: int | None = None
    part_size: int = 1 << 16
    received: list[Upload] = field(default_factory=list)
    arrived: dict[str, set[str]] = field(default_factory=dict)  # repository -> large files that it has
    pulls: list[dict[str, Any]] = field(default_factory=list)
    by_xet: Callable[[Any, str, int], Blob | None] | None = None  # finds what hf_xet uploaded
    lock: threading.Lock = field(default_factory=threading.Lock)

    def forget(self, repo_id: str) -> None:
        """Drop what was uploaded to a repository: its storage was tidied up before a commit came."""
        self.arrived.pop(repo_id, None)


def add_routes(hub: Any) -> None:
    """Everything that a writer asks for."""
    hub.uploads = Uploads()
    hub.route("POST", "/api/repos/create", create)
    hub.route("POST", "/api/validate-yaml", validate_yaml)
    hub.route("GET", rf"/api/models/{_ID}/auth-check/write", lambda h, r, i: (writer(h, r, i), r.answer_json({})))
    hub.route("POST", rf"/api/models/{_ID}/branch/([^/]+)", branch)
    hub.route("POST", rf"/api/models/{_ID}/preupload/([^/]+)", preupload)
    hub.route("POST", rf"/{_ID}\.git/info/lfs/objects/batch", batch)
    hub.route("POST", rf"/{_ID}\.git/info/lfs/verify", verify)
    hub.route("POST", r"/complete/([0-9a-f]{64})", complete)
    hub.route("PUT", r"/uploads/([0-9a-f]{64})(?:/(\d+))?", put, role="storage")
    hub.route("POST", rf"/api/models/{_ID}/commit/([^/]+)", commit)
    hub.route("GET", rf"/api/models/{_ID}/discussions", discussions)


def writer(hub: Any, request: Request, repo_id: str) -> Repository:
    """The repository, if the request's token may change it."""
    user, found = hub.user(request), hub.repository(request, repo_id)
    if user is None:
        raise Refusal(401, "RepoNotFound", "Repository not found")
    if not (user.may_write and _owns(user, repo_id)):
        raise Refusal(403, message="Forbidden: you must use a write token to upload to a repository")
    return found


def _owns(user: Any, repo_id: str) -> bool:
    return repo_id in user.granted or repo_id.split("/")[0] in (user.name, *user.orgs)


def create(hub: Any, request: Request) -> None:
    """A new repository, with the .gitattributes that each has from the start."""
    user, asked = hub.user(request), request.json()
    if user is None:
        raise Refusal(401, message="Invalid username or password.")
    repo_id = f"{asked.get('organization') or user.name}/{asked['name']}"
    url = f"{hub.url}/{repo_id}"
    if not (user.may_write and _owns(user, repo_id)):
        raise Refusal(403, message=f"You don't have the rights to create a model under {repo_id.split('/')[0]}")
    if repo_id in hub.repositories:
        request.answer_json({"error": "You already created this model repo", "url": url}, 409)
        return
    made = hub.add(repo_id, private=asked.get("visibility") == "private")
    attributes = hub.blob(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", is_large=False)
    made.commit({".gitattributes": attributes}, message="initial commit")
    request.answer_json({"url": url, "name": repo_id, "id": "0" * 24})


def validate_yaml(hub: Any, request: Request) -> None:
    """What is wrong with a card's metadata."""
    errors = card_errors(request.json()["content"])
    request.answer_json({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)


def branch(hub: Any, request: Request, repo_id: str, name: str) -> None:
    """A new branch."""
    repository = writer(hub, request, repo_id)
    if name in repository.refs:
        raise Refusal(409, message="Reference already exists")
    start = commit_at(repository, (request.json() or {}).get("startingPoint") or "main")
    repository.refs[name] = start.sha
    request.answer_json({})


def preupload(hub: Any, request: Request, repo_id: str, revision: str) -> None:
    """Which files are large, and what the repository holds under their names."""
    pull = request.query.get("create_pr") == "1"
    repository = hub.repository(request, repo_id) if pull else writer(hub, request, repo_id)
    held, rows = commit_at(repository, revision).files, []
    for asked in request.json()["files"]:
        large = asked["path"].endswith(LARGE) or asked["size"] >= LARGE_FROM
        blob = held.get(asked["path"])
        row = {"path": asked["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        base64.b64decode(asked["sample"], validate=True)
        rows.append(row | ({"oid": blob.etag} if blob else {}))
    request.answer_json({"files": rows})


# --- large files ------------------------------------------------------------------------------------------------------


def batch(hub: Any, request: Request, repo_id: str) -> None:
    """Where each large file goes; nothing for those that are there."""
    user = hub.user(request)
    if user is None or not user.may_write:
        raise Refusal(403, message="Forbidden")
    hub.repository(request, repo_id)
    asked, rows = request.json(), []
    for item in asked["objects"]:
        row = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] not in hub.uploads.arrived.get(repo_id, ()):
            row["actions"] = _actions(hub, repo_id, item["oid"], item["size"])
        rows.append(row)
    request.answer_json({"transfer": "multipart", "objects": rows})


def _actions(hub: Any, repo_id: str, sha256: str, n_bytes: int) -> dict[str, Any]:
    uploads = hub.uploads
    actions = {"verify": {"href": f"{hub.url}/{repo_id}.git/info/lfs/verify"}}
    if uploads.multipart_from is None or n_bytes < uploads.multipart_from:
        return {"upload": {"href": hub.sign(f"/uploads/{sha256}", repo=repo_id)}, **actions}
    n_parts = -(-n_bytes // uploads.part_size)
    header = {"chunk_size": str(uploads.part_size)}
    for number in range(1, n_parts + 1):
        header[f"{number:05}"] = hub.sign(f"/uploads/{sha256}/{number}", repo=repo_id)
    done = hub.sign(f"/complete/{sha256}", repo=repo_id, parts=str(n_parts))
    return {"upload": {"href": done.replace(hub.storage_url, hub.url), "header": header}, **actions}


def put(hub: Any, request: Request, sha256: str, part: str) -> None:
    """The bytes of a large file, or of one part of it; the fault "drop" closes after half of them."""
    hub.check_signature(request)
    repo_id, n_bytes, whole = request.query["repo"], 0, False
    path = _part(hub, sha256, part)
    try:
        with open(path.with_suffix(".new"), "wb") as file:
            for piece in request.pieces():
                file.write(piece)
                n_bytes += len(piece)
                if request.fault == "drop" and 2 * n_bytes >= request.length:
                    raise Gone
        whole = True
    finally:
        with hub.uploads.lock:
            hub.uploads.received.append(Upload(repo_id, sha256, n_bytes, whole))
    os.replace(path.with_suffix(".new"), path)
    if not part:
        _accept(hub, repo_id, sha256, [path])
    request.answer(200, headers={"ETag": f'"{sha256[:8]}-{part or 0}"'})


def complete(hub: Any, request: Request, sha256: str) -> None:
    """All parts are there: make one file of them."""
    hub.check_signature(request)
    n_parts, parts = int(request.query["parts"]), request.json()["parts"]
    numbers = [part["partNumber"] for part in parts]
    tags = [part["etag"] for part in parts]
    if numbers != list(range(1, n_parts + 1)) or tags != [f'"{sha256[:8]}-{number}"' for number in numbers]:
        raise Refusal(400, message="the parts are not those that were uploaded")
    _accept(hub, request.query["repo"], sha256, [_part(hub, sha256, str(number)) for number in numbers])
    request.answer_json({})


def _part(hub: Any, sha256: str, part: str) -> Path:
    folder = hub.folder / "parts"
    folder.mkdir(exist_ok=True)
    return folder / f"{sha256}.{part or 0}"


def _accept(hub: Any, repo_id: str, sha256: str, parts: list[Path]) -> None:
    whole = parts[0]
    if len(parts) > 1:
        whole = parts[0].with_suffix(".whole")
        with open(whole, "wb") as file:
            for part in parts:
                with open(part, "rb") as piece:
                    shutil.copyfileobj(piece, file, 1 << 20)
                part.unlink()
    with open(whole, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise Refusal(400, message="the content is not what its hash says")
    os.replace(whole, hub.objects.path(sha256))
    with hub.uploads.lock:
        hub.uploads.arrived.setdefault(repo_id, set()).add(sha256)


def verify(hub: Any, request: Request, repo_id: str) -> None:
    """Whether a large file arrived with its size."""
    hub.user(request)
    asked = request.json()
    path = hub.objects.path(asked["oid"])
    if not path.exists() or path.stat().st_size != asked["size"]:
        raise Refusal(404, message="not found")
    request.answer_json({"message": "ok"})


# --- commits ----------------------------------------------------------------------------------------------------------


def commit(hub: Any, request: Request, repo_id: str, revision: str) -> None:
    """One commit on a branch, or as a pull request."""
    pull = request.query.get("create_pr") == "1"
    repository = hub.repository(request, repo_id) if pull else writer(hub, request, repo_id)
    lines = [json.loads(line) for line in request.body().splitlines()]
    header, rows = lines[0]["value"], lines[1:]
    with repository.lock:
        parent = header.get("parentCommit")
        if parent and not pull and commit_at(repository, revision).sha != parent:
            raise Refusal(412, message="The repository was updated: refresh, and try again")
        files, deleted = _changes(hub, repo_id, repository, revision, rows)
        ref = _open_pull(hub, repository, header, parent or revision) if pull else revision
        made = repository.commit(files, deleted=deleted, message=header["summary"], branch=ref)
    answer = {"success": True, "commitOid": made.sha, "commitUrl": f"{hub.url}/{repo_id}/commit/{made.sha}"}
    number = ref.rsplit("/", 1)[-1]
    request.answer_json(answer | ({"pullRequestUrl": f"{hub.url}/{repo_id}/discussions/{number}"} if pull else {}))


def _changes(hub: Any, repo_id: str, repository: Repository, revision: str, rows: list[dict[str, Any]]):
    files, deleted = {}, []
    held = {blob.sha256 for old in repository.commits.values() for blob in old.files.values()}
    for row in rows:
        key, value = row["key"], row["value"]
        if key == "file":
            files[value["path"]] = hub.blob(base64.b64decode(value["content"]), is_large=False)
        elif key == "lfsFile":
            files[value["path"]] = _large(hub, repo_id, value, held)
        elif key == "deletedFile":
            if value["path"] not in commit_at(repository, revision).files:
                raise Refusal(404, "EntryNotFound", "A file with this name doesn't exist")
            deleted.append(value["path"])
        else:
            raise Refusal(400, message=f"unknown operation {key}")
    if not files and not deleted:
        raise Refusal(400, message="nothing to commit")
    return files, deleted


def _large(hub: Any, repo_id: str, value: dict[str, Any], held: set[str]) -> Blob:
    """A large file that the repository has, by LFS or by xet."""
    if value["oid"] in hub.uploads.arrived.get(repo_id, set()) | held and hub.objects.path(value["oid"]).exists():
        return hub.blob(hub.objects.path(value["oid"]), is_large=True)
    if hub.uploads.by_xet and (found := hub.uploads.by_xet(hub, value["oid"], value["size"])):
        return found
    raise Refusal(400, message=f"LFS pointer of {value['path']} pointed to a file that does not exist")


def _open_pull(hub: Any, repository: Repository, header: dict[str, Any], start: str) -> str:
    number = len([pull for pull in hub.uploads.pulls if pull["repo"]["name"] == repository.id]) + 1
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    hub.uploads.pulls.append(
        {
            "num": number,
            "title": header["summary"],
            "author": {"name": "tester"},
            "createdAt": now,
            "status": "open",
            "isPullRequest": True,
            "repo": {"name": repository.id, "type": "model"},
        }
    )
    repository.refs[f"refs/pr/{number}"] = commit_at(repository, start).sha
    return f"refs/pr/{number}"


def discussions(hub: Any, request: Request, repo_id: str) -> None:
    """The pull requests of a repository."""
    hub.repository(request, repo_id)
    found = [pull for pull in hub.uploads.pulls if pull["repo"]["name"] == repo_id]
    request.answer_json({"discussions": found, "count": len(found), "start": 0})
