"""A Hub that this process's huggingface_hub talks to, and a folder to publish."""

import pytest
from hub_client import fast_retries, use
from sharded import sharded


@pytest.fixture
def hub(standin, tmp_path, monkeypatch):
    """A stand-in Hub; `tester` is logged in, and retries do not wait."""
    use(standin, monkeypatch, tmp_path / "home")
    fast_retries(monkeypatch)
    return standin


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A checkpoint of three shards."""
    return sharded(tmp_path_factory.mktemp("push") / "out", n_shards=3, n_elements=2_000)


@pytest.fixture(scope="session")
def other(tmp_path_factory):
    """Another one, of two shards."""
    return sharded(tmp_path_factory.mktemp("push") / "other", n_shards=2, n_elements=2_000, seed=1)
