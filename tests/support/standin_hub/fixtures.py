"""pytest's fixtures of a Hub."""

import pytest

from standin_hub.hub import Hub


@pytest.fixture
def standin(tmp_path):
    """A Hub without repositories, started."""
    with Hub(tmp_path / "hub") as started:
        yield started


@pytest.fixture
def read_from(standin, tmp_path, monkeypatch):
    """A Hub that this process reads from, as `tester`; it does not wait before it tries again."""
    from hub_client import fast_retries, use

    from expo.checkpoint import remote

    use(standin, monkeypatch, tmp_path / "home")
    fast_retries(monkeypatch)
    monkeypatch.setattr(remote, "WAITS", (0.0,) * len(remote.WAITS))
    monkeypatch.setattr(remote, "WAITS_AFTER_NONSENSE", (0.0,) * len(remote.WAITS_AFTER_NONSENSE))
    return standin
