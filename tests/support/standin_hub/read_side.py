"""What the Hub answers about repositories: information, trees, and files, large ones by a redirect to storage."""

from typing import Any
from urllib.parse import parse_qs

from standin_hub.repositories import Blob, Commit, Repository
from standin_hub.server import Refusal, Request
from standin_hub.storage import send

_ID = r"([^/]+/[^/]+)"


def add_routes(hub: Any) -> None:
    """Everything that a reader asks the Hub itself for."""
    hub.route("GET", rf"/{_ID}/resolve/([^/]+)/(.+)", resolve)
    hub.route("GET", rf"/api/models/{_ID}", model_info)
    hub.route("GET", rf"/api/models/{_ID}/revision/([^/]+)", model_info)
    hub.route("GET", rf"/api/models/{_ID}/tree/([^/]+)(?:/(.+))?", tree)
    hub.route("POST", rf"/api/models/{_ID}/paths-info/([^/]+)", paths_info)
    hub.route("GET", rf"/api/models/{_ID}/refs", refs)
    hub.route("GET", rf"/api/models/{_ID}/auth-check", auth_check)
    hub.route("GET", "/api/whoami-v2", whoami)


def commit_at(repository: Repository, revision: str) -> Commit:
    """The commit of a revision; refuses one that is not there."""
    found = repository.at(revision)
    if found is None:
        raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return found


def model_info(hub: Any, request: Request, repo_id: str, revision: str = "main") -> None:
    """A repository at one revision, with the names of its files."""
    repository = hub.repository(request, repo_id)
    commit = commit_at(repository, revision)
    details = "blobs" in request.query
    siblings = [{"rfilename": name, **(entry(blob) if details else {})} for name, blob in commit.files.items()]
    request.answer_json(
        {
            "_id": "0" * 24,
            "id": repo_id,
            "modelId": repo_id,
            "author": repo_id.split("/")[0],
            "sha": commit.sha,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": siblings,
        }
    )


def entry(blob: Blob) -> dict[str, Any]:
    """A file's details as model_info gives them."""
    lfs = {"sha256": blob.sha256, "size": blob.n_bytes, "pointerSize": 134}
    return {"size": blob.n_bytes, "blobId": blob.oid, **({"lfs": lfs} if blob.is_large else {})}


def row(name: str, blob: Blob) -> dict[str, Any]:
    """A file's details as trees give them."""
    lfs = {"oid": blob.sha256, "size": blob.n_bytes, "pointerSize": 134}
    found = {"type": "file", "path": name, "size": blob.n_bytes, "oid": blob.oid}
    return found | ({"lfs": lfs} if blob.is_large else {})


def tree(hub: Any, request: Request, repo_id: str, revision: str, folder: str) -> None:
    """The files of a revision, below a folder or all."""
    commit = commit_at(hub.repository(request, repo_id), revision)
    inside = [(name, blob) for name, blob in commit.files.items() if not folder or name.startswith(folder + "/")]
    if request.query.get("recursive", "").lower() not in ("true", "1"):
        depth = folder.count("/") + 1 if folder else 0
        inside = [(name, blob) for name, blob in inside if name.count("/") == depth]
    request.answer_json([row(name, blob) for name, blob in inside])


def paths_info(hub: Any, request: Request, repo_id: str, revision: str) -> None:
    """Details of some files."""
    commit = commit_at(hub.repository(request, repo_id), revision)
    body = request.body()
    is_json = "json" in (request.headers.get("Content-Type") or "")
    asked = request.json()["paths"] if is_json else parse_qs(body.decode()).get("paths", [])
    names = [asked] if isinstance(asked, str) else asked
    request.answer_json([row(name, commit.files[name]) for name in names if name in commit.files])


def refs(hub: Any, request: Request, repo_id: str) -> None:
    """Branches and pull requests."""
    repository = hub.repository(request, repo_id)

    def listed(names: list[str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": name, "targetCommit": repository.refs[name]} for name in names]

    pulls = [name for name in repository.refs if name.startswith("refs/pr/")]
    branches = [name for name in repository.refs if name not in pulls]
    request.answer_json({"branches": listed(branches), "tags": [], "converts": [], "pullRequests": listed(pulls)})


def auth_check(hub: Any, request: Request, repo_id: str) -> None:
    """Whether the files may be read."""
    hub.repository(request, repo_id, files=True)
    request.answer_json({})


def whoami(hub: Any, request: Request) -> None:
    """The account of a token."""
    user = hub.user(request)
    if user is None:
        raise Refusal(401, message="Invalid username or password.")
    role = "write" if user.may_write else "read"
    token = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
    orgs = [{"type": "org", "name": name, "roleInOrg": "write"} for name in user.orgs]
    request.answer_json({"type": "user", "name": user.name, "fullname": user.name, "orgs": orgs, "auth": token})


def resolve(hub: Any, request: Request, repo_id: str, revision: str, name: str) -> None:
    """A file: its bytes, or for a large one where storage has them."""
    commit = commit_at(hub.repository(request, repo_id, files=True), revision)
    blob = commit.files.get(name)
    if blob is None:
        raise Refusal(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit.sha})
    headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    if blob.is_large:
        linked = {"X-Linked-Size": str(blob.n_bytes), "X-Linked-ETag": f'"{blob.etag}"'}
        location = hub.sign(f"/objects/{blob.sha256}")
        request.answer(302, b"Found. Redirecting", {**headers, **linked, "Location": location})
    else:
        send(request, blob, {**headers, "ETag": f'"{blob.etag}"'})
