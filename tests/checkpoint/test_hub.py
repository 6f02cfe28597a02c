"""A Hub id becomes one pinned commit with only needed files; a refusal is one sentence, without a token."""

import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
import torch
from pico import write_checkpoint

SHA = "0123456789abcdef0123456789abcdef01234567"
OLD = "89abcdef0123456789abcdef0123456789abcdef"
TOKEN = "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"
T = {"a": torch.ones(2), "b": torch.zeros(2)}
WANTED = [
    "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    "model.safetensors.index.json", "sub/[1].txt", "tokenizer.model",
]  # fmt: skip
CARD = "README.md"  # names the base model
UNWANTED = [".gitattributes", "m.gguf", "original/consolidated.00.pth", "pytorch_model.bin", "tf_model.h5"]

# Resolves each id of its command line and prints what came of it.
SCRIPT = """if True:
    import json, sys, time
    from expo.errors import ExpoError
    from expo.checkpoint.index import open_checkpoint
    found = {}
    for text in sys.argv[1:]:
        import huggingface_hub
        started = time.monotonic()
        try:
            opened = open_checkpoint(text)
            source = opened.source
            row = dict(weights=source.weights, sides=source.side_files, label=source.label, folder=str(source.folder),
                       tensors=list(opened.tensors))
        except ExpoError as error:
            row = dict(error=type(error).__name__, text=str(error))
        found[text] = row | dict(seconds=time.monotonic() - started)
    print(json.dumps(found))
"""


def resolve_all(cache, *ids, **environment):
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment = {
        "PYTHONPATH": os.getcwd(), "HF_HOME": str(cache), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **environment,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *ids], env=kept | environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return json.loads(done.stdout)


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as a download asks for: one good repository, and one for each refusal."""

    files: dict[str, bytes]
    asked: list[str]

    def do_GET(self):
        path = urlsplit(self.path).path
        self.asked.append(f"{self.command} {path}")
        for name, status, code in [
            ("org/gated", 403, "GatedRepo"), ("org/absent", 401, "RepoNotFound"), ("org/gone", 404, "RepoNotFound"),
            ("org/down", 503, None), ("org/busy", 429, None),
        ]:  # fmt: skip
            if name in path:
                return self.answer(status, headers={"X-Error-Code": code, "X-Error-Message": f"secret {TOKEN}"})
        if path in (
            "/api/models/org/good",
            f"/api/models/org/good/revision/{SHA}",
            "/api/models/org/good/revision/main",
        ):
            siblings = [{"rfilename": name} for name in self.files]
            return self.answer(200, json.dumps({"id": "org/good", "sha": SHA, "siblings": siblings}).encode())
        if path == f"/api/models/org/good/tree/{SHA}":
            rows = [{"type": "file", "path": n, "size": len(raw), "oid": "0"} for n, raw in self.files.items()]
            return self.answer(200, json.dumps(rows).encode())
        name = path.removeprefix(f"/org/good/resolve/{SHA}/").replace("%5B", "[").replace("%5D", "]")
        if name in self.files:
            etag = '"' + name.replace("/", "_") + '"'
            return self.answer(200, self.files[name], {"X-Repo-Commit": SHA, "ETag": etag})
        return self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})

    do_HEAD = do_GET

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """An address, the list of requests, and a cache that the good repository was downloaded into."""
    folder = write_checkpoint(
        tmp_path_factory.mktemp("hub") / "m",
        T,
        shards=2,
        config={},
        side_files=dict.fromkeys([*WANTED[4:], CARD, *UNWANTED], "x"),
    )
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert sorted(files) == sorted([*WANTED, CARD, *UNWANTED])
    handler = type("OneHub", (Hub,), {"files": files, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked, tmp_path_factory.mktemp("cache")
    server.shutdown()


@pytest.fixture(scope="module")
def answers(hub):
    address, _, cache = hub
    ids = ["good", "good@main", f"good@{SHA}", "good@v9", "gated", "absent", "gone", "down", "busy", "na--me"]
    found = resolve_all(cache, *(f"org/{name}" for name in ids), HF_ENDPOINT=address)
    return {name.removeprefix("org/"): row for name, row in found.items()}


@pytest.mark.parametrize("text", ["good", "good@main", f"good@{SHA}"])
def test_a_repository_is_pinned_to_its_commit_and_opened(answers, text):
    row = answers[text]
    assert row.get("label") == f"org/good@{SHA}", row
    assert row["tensors"] == ["a", "b"]
    assert sorted(row["weights"] + row["sides"] + ["model.safetensors.index.json"]) == WANTED


def test_only_needed_files_are_downloaded_and_once(hub, answers):
    got = [
        line.removeprefix(f"GET /org/good/resolve/{SHA}/") for line in hub[1] if line.startswith("GET /org/good/res")
    ]
    assert sorted(name.replace("%5B", "[").replace("%5D", "]") for name in got) == [CARD, *WANTED]


@pytest.mark.parametrize(
    "text, error, words",
    [
        ("good@v9", "HubRevisionNotFound", ["org/good", "'v9'"]),
        ("gated", "HubAccessDenied", ["org/gated", "hf auth login", "/org/gated, then"]),
        ("absent", "HubRepositoryNotFound", ["org/absent", "spelling"]),
        ("gone", "HubRepositoryNotFound", ["org/gone"]),
        ("down", "HubUnreachable", ["org/down", "503"]),
        ("busy", "HubError", ["org/busy", "rate"]),
        ("na--me", "HubRepositoryNotFound", ["org/na--me"]),
    ],
)
def test_each_refusal_is_one_error_with_a_way_out(answers, text, error, words):
    row = answers[text]
    assert row.get("error") == error, row
    assert "\n" in row["text"] and all(word in row["text"] for word in words), row


def test_a_cached_model_opens_offline_and_an_absent_one_says_so(hub, answers):
    found = resolve_all(hub[2], "org/good", f"org/good@{SHA}", "org/other", f"org/good@{OLD}", HF_HUB_OFFLINE="1")
    assert found["org/good"] == {**answers["good"], "seconds": found["org/good"]["seconds"]}
    assert found[f"org/good@{SHA}"]["label"] == f"org/good@{SHA}"
    for absent in ("org/other", f"org/good@{OLD}"):
        assert found[absent]["error"] == "HubNotCached", found
        assert absent in found[absent]["text"] and "hf download" in found[absent]["text"]


def test_a_cached_model_opens_when_no_connection_does(hub, answers):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        found = resolve_all(hub[2], "org/good", "org/other", HF_ENDPOINT=address)
    assert found["org/good"]["label"] == f"org/good@{SHA}"
    assert found["org/other"]["error"] == "HubUnreachable"
    assert found["org/other"]["seconds"] < 2


def test_a_host_that_drops_packets_is_reported_within_two_seconds(tmp_path):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        waiting = []
        for _ in range(3):  # fill the queue: further attempts get no answer
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(deaf.getsockname())
        found = resolve_all(tmp_path, "org/name", HF_ENDPOINT=f"http://127.0.0.1:{deaf.getsockname()[1]}")["org/name"]
        for one in waiting:
            one.close()
    assert found["error"] == "HubUnreachable" and found["seconds"] < 2, found


@pytest.mark.parametrize("files", [["config.json"], WANTED[:2] + WANTED[3:4]], ids=["no weights", "one of two shards"])
def test_a_half_cached_model_is_not_a_checkpoint_offline(tmp_path, files):
    repo = tmp_path / "hub" / "models--org--name"
    whole = write_checkpoint(repo / "snapshots" / SHA, T, shards=2, config={})
    for path in whole.iterdir():
        if path.name not in files:
            path.unlink()
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(SHA)
    found = resolve_all(tmp_path, "org/name", HF_HUB_OFFLINE="1")["org/name"]
    assert found["error"] == "HubNotCached", found


def test_a_wholly_cached_model_needs_no_listing_offline(tmp_path):
    repo = tmp_path / "hub" / "models--org--name"
    write_checkpoint(repo / "snapshots" / SHA, T, config={})
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(SHA)
    found = resolve_all(tmp_path, "org/name", HF_HUB_OFFLINE="1")["org/name"]
    assert found["label"] == f"org/name@{SHA}" and found["tensors"] == ["a", "b"]
