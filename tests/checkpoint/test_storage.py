"""Connections to the storage: kept while they are good, none where a proxy is named or none comes about."""

import socket
from contextlib import closing

import pytest

from expo.checkpoint import storage
from expo.checkpoint.storage import Connections, answer_to


@pytest.fixture
def listening(monkeypatch):
    """A socket that takes connections, and its address."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server, f"http://127.0.0.1:{server.getsockname()[1]}/objects/1?signed=yes"


def test_a_connection_is_kept_until_the_other_side_ends_it(listening):
    server, address = listening
    held = Connections()
    first = held.take(address)
    other, _ = server.accept()
    held.give_back(address, first)
    assert held.take(address) is first
    held.give_back(address, first)
    other.close()
    second = held.take(address)
    assert second is not first and second.sock is not None and first.sock is None
    second.close()


def test_where_a_proxy_is_named_the_session_is_asked(listening, monkeypatch):
    _, address = listening
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert Connections().take(address) is None
    monkeypatch.setenv("no_proxy", "example.org,127.0.0.1")
    with closing(Connections().take(address)) as taken:
        assert taken.sock is not None


def test_where_no_connection_comes_about_the_session_is_asked_from_then_on():
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
    held = Connections()
    assert held.take(address) is None and held.closed == {address[:-1]}


def test_ranges_of_one_host_come_over_one_connection_and_bear_no_token(read_from, monkeypatch):
    held = Connections()
    monkeypatch.setattr(storage, "_CONNECTIONS", held)
    blob = read_from.blob(bytes(range(256)) * 100)
    address = read_from.sign(f"/objects/{blob.sha256}")
    for at in (0, 1_000, 20_000):
        with answer_to(address, {"Range": f"bytes={at}-{at + 99}"}, of_hub=False) as answer:
            out = bytearray(100)
            assert answer.status_code == 206 and answer.read_into(memoryview(out)) == 100
            assert out == (bytes(range(256)) * 100)[at : at + 100] and answer.read_into(memoryview(out)) == 0
        assert [len(kept) for kept in held.idle.values()] == [1]
    assert [asked.authorization for asked in read_from.asked] == [None] * 3
    with answer_to(address, {}, of_hub=False):
        pass  # what is left of a body is not read as the next answer
    assert [len(kept) for kept in held.idle.values()] == [0]
