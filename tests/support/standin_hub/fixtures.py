"""pytest's fixture of a Hub."""

import pytest

from standin_hub.hub import Hub


@pytest.fixture
def standin(tmp_path):
    """A Hub without repositories, started."""
    with Hub(tmp_path / "hub") as started:
        yield started
