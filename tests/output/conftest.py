"""The pairs that crash tests run on: one of a few segments, one of many."""

import pytest
from crash import long_pair, small_pair


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_pair(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return long_pair(tmp_path_factory.mktemp("long"))
