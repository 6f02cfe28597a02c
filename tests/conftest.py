"""Fixtures of several files: pairs that are good, tensors that must not be read, and a command that must refuse."""

import time

import pytest
from engine import command, tree
from pico import pico_pair
from standin_hub.fixtures import read_from, standin  # noqa: F401  (fixtures)

from expo.checkpoint import Shards


@pytest.fixture
def home(tmp_path):
    """A folder with a good pair, sft and dpo, of two shards each."""
    pico_pair(tmp_path)
    return tmp_path


@pytest.fixture
def unreadable(monkeypatch):
    """Reading any tensor fails the test."""

    def read_into(self, out, spec, start=0):
        raise AssertionError(f"{spec.name} was read")

    monkeypatch.setattr(Shards, "read_into", read_into)


@pytest.fixture
def refused(home, capsys, unreadable):
    """Run `expo extrapolate` on the pair with some options; it must refuse, and say all of `words`."""

    def check(*words, sft="sft", dpo="dpo", out="out", more=(), code=1):
        before = tree(home)
        began = time.process_time()
        options = ["--sft", home / sft, "--dpo", home / dpo, "-o", home / out, *more]
        found, stdout, stderr = command(capsys, "extrapolate", *options)
        assert time.process_time() - began < 2
        assert found == code, stderr
        assert stdout == "" and stderr.lower().count("error: ") == 1, stderr
        for word in words:
            assert word in stderr, stderr
        assert tree(home) == before
        return stderr

    return check


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """tied or not -> a pair of tiny models that transformers has saved."""
    import torch
    from live import save_pair

    home = tmp_path_factory.mktemp("pairs")
    return {tied: save_pair(home / str(tied), tied=tied, dtype=torch.bfloat16) for tied in (True, False)}


@pytest.fixture
def pair(pairs):
    """The tied one of them."""
    return pairs[True]
