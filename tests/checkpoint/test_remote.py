"""A range of a file on the Hub arrives bit by bit as it is, or one error says why not; the token stays with the Hub."""

import re

import numpy as np
import pytest
from standin_hub import Faults
from standin_hub.hub import TOKEN

from expo.checkpoint import storage
from expo.checkpoint.remote import RemoteFile
from expo.errors import ChangedFile, HubAccessDenied, HubBadAnswer, HubError, HubRepositoryNotFound, HubUnreachable

N = 300_000
CONTENT = np.random.default_rng(0).bytes(N)


def remote(hub, repo_id="org/m", *, is_large=True, **options) -> RemoteFile:
    """A file of a new repository, as a listing would give it."""
    repository = hub.add(repo_id, **options)
    blob = hub.blob(CONTENT, is_large=is_large)
    commit = repository.commit({"model.safetensors": blob})
    return RemoteFile(repo_id, commit.sha, "model.safetensors", N, blob.etag)


def read(file: RemoteFile, at: int = 1_000, n_bytes: int = 200_000) -> bytes:
    out = bytearray(n_bytes)
    file.read_into(memoryview(out), at)
    return bytes(out)


@pytest.mark.parametrize("is_large", [True, False], ids=["in storage", "in git"])
def test_a_range_is_the_files_bytes(read_from, is_large):
    file = remote(read_from, is_large=is_large)
    assert read(file) == CONTENT[1_000:201_000]
    assert read(file, 0, N) == CONTENT
    assert read(file, N - 1, 1) == CONTENT[-1:]


@pytest.mark.parametrize(
    "kind", ["500", "503", "429", "408", "reset", "close", "html", "whole", "excess", "other", "short"]
)
@pytest.mark.parametrize("has_proxy", [False, True], ids=["own connections", "the session"])
def test_what_fails_now_and_then_changes_no_byte(read_from, kind, has_proxy, monkeypatch):
    monkeypatch.setattr(storage, "_has_proxy", lambda where: has_proxy)
    file = remote(read_from)
    read_from.faults = Faults(2, [kind])
    for at in range(0, N, 50_000):
        assert read(file, at, 50_000) == CONTENT[at : at + 50_000]
    assert len(read_from.faults.failed) >= 3


def test_a_range_that_breaks_off_goes_on_where_it_broke(read_from):
    file = remote(read_from)
    read_from.faults = Faults(1, ["close"], host="storage", limit=2)
    assert read(file, 0, 200_000) == CONTENT[:200_000]
    ranges = [asked.range for asked in read_from.asked if asked.host == "storage"]
    assert ranges == ["bytes=0-199999", "bytes=100000-199999", "bytes=150000-199999"]


@pytest.mark.parametrize(
    "kind, error, words",
    [
        ("html", HubBadAnswer, ["a web page", "HF_ENDPOINT", "--stream"]),
        ("whole", HubBadAnswer, ["Range was ignored", "--stream"]),
        ("excess", HubBadAnswer, ["more bytes than were asked for", "--stream"]),
        ("other", HubBadAnswer, ["bytes 1001 to", "--stream"]),
        ("reset", HubUnreachable, ["connection", "continues"]),
        ("500", HubUnreachable, ["status 500", "continues"]),
        ("429", HubError, ["status 429", "wait some minutes"]),
        ("404", HubBadAnswer, ["status 404", "--stream"]),
        ("resized", ChangedFile, ["changed after it was listed", f"{N + 8} bytes"]),
    ],
)
def test_what_always_fails_is_one_error_with_repository_and_remedy(read_from, kind, error, words):
    file = remote(read_from)
    read_from.faults = Faults(1, [kind], host="storage")
    with pytest.raises(error) as caught:
        read(file)
    said = str(caught.value)
    assert said.startswith(f"org/m@{file.revision}/model.safetensors: ") and "\n" in said
    assert all(word in said for word in words), said
    assert "http" not in said.replace("https://huggingface.co", "") and TOKEN not in said
    assert len(read_from.asked) < 12


def test_a_hub_that_answers_html_is_named(read_from):
    file = remote(read_from)
    read_from.faults = Faults(1, ["html"], host="hub")
    with pytest.raises(HubBadAnswer, match=r"(?s)org/m@.*does not|not as the Hub does.*login page"):
        read(file)


def test_a_signed_address_serves_all_ranges_and_is_asked_for_again_when_it_has_expired(read_from):
    file = remote(read_from)
    for at in range(0, N, 30_000):
        read(file, at, 30_000)
    heads = [asked for asked in read_from.asked if asked.host == "hub"]
    assert [asked.method for asked in heads] == ["HEAD"]
    read_from.secret = b"another"  # every address signed so far is refused from now on
    assert read(file) == CONTENT[1_000:201_000]
    assert [asked.status for asked in read_from.asked[-3:]] == [403, 302, 206]
    assert [asked.method for asked in read_from.asked if asked.host == "hub"] == ["HEAD", "HEAD"]


def test_the_token_goes_to_the_hub_and_nowhere_else(read_from):
    file = remote(read_from)
    read_from.faults = Faults(3, ["500", "close", "reset"])
    for at in range(0, N, 30_000):
        read(file, at, 30_000)
    seen = {asked.host: set() for asked in read_from.asked}
    for asked in read_from.asked:
        seen[asked.host].add(asked.authorization)
        assert asked.host == "hub" or TOKEN not in asked.header_text + asked.target
    assert seen == {"hub": {f"Bearer {TOKEN}"}, "storage": {None}}


def test_another_content_under_the_same_commit_is_an_error(read_from):
    file = remote(read_from)
    read(file, 0, 1_000)
    read_from.repositories["org/m"].swap("model.safetensors", read_from.blob(CONTENT[:-1] + b"?"))
    assert read(file, 0, 1_000) == CONTENT[:1_000]  # the address is still that of the listed content
    read_from.secret = b"another"
    with pytest.raises(ChangedFile, match=r"(?s)org/m@.*ETag .* when it was listed.*again"):
        read(file)


def test_a_file_that_was_cut_is_an_error(read_from):
    file = remote(read_from)
    read(file, 0, 1_000)
    read_from.objects.path(file.etag).write_bytes(CONTENT[:500])
    with pytest.raises(ChangedFile, match="no byte 1000 any more"):
        read(file)


@pytest.mark.parametrize(
    "options, token, error, words",
    [
        (
            {"gated": True},
            TOKEN,
            HubAccessDenied,
            ["no access", "Ask for it at http://127.0.0.1:", "/org/m, then ", "hf auth login"],
        ),
        ({"gated": True}, None, HubAccessDenied, ["gated, and no token is set", "hf auth login"]),
        ({"private": True}, None, HubRepositoryNotFound, ["private", "hf auth login"]),
        ({}, "hf_" + "x" * 30, HubAccessDenied, ["does not know this token"]),
    ],
    ids=["gated", "gated without a token", "private without a token", "unknown token"],
)
def test_a_refusal_is_told_at_once(read_from, monkeypatch, options, token, error, words):
    monkeypatch.setenv("HF_TOKEN", token or "")
    file = remote(read_from, **options)
    with pytest.raises(error) as caught:
        read(file)
    assert all(word in str(caught.value) for word in ["org/m", *words]), caught.value
    assert not token or token not in str(caught.value)
    assert len(read_from.asked) == 1


def test_a_commit_that_is_gone_is_an_error(read_from):
    file = remote(read_from)
    del read_from.repositories["org/m"].commits[file.revision]
    with pytest.raises(HubError, match=re.escape(f"org/m: no branch, tag or commit '{file.revision}'")):
        read(file)
