"""Ctrl-C while libraries load ends the command with 130 and one word; afterwards it is the command's own again."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from expo import launcher
from expo.cli import main

CODE = """
import os, signal, time
from expo.cli.main import loading
before = signal.getsignal(signal.SIGINT)
with loading():
    {inside}
assert signal.getsignal(signal.SIGINT) is before
"""


def run(inside: str) -> subprocess.CompletedProcess:
    code = CODE.format(inside=inside)
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_ctrl_c_while_a_library_loads_ends_with_130_and_one_word():
    done = run("os.kill(os.getpid(), signal.SIGINT); time.sleep(20)")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_the_handler_is_put_back_when_the_library_is_there():
    done = run("assert signal.getsignal(signal.SIGINT) is not before")
    assert (done.returncode, done.stderr) == (0, "")


RANKS = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}


@pytest.mark.parametrize(
    "words, together",
    [
        (["merge", "r.yaml", "out"], True),
        (["train", "sft"], True),
        (["train", "dpo", "--dry-run"], True),
        (["extrapolate", "--against=org/name"], False),
        (["verify", "out", "--recompute"], False),
        (["demo"], False),
        ([], False),
    ],
)
def test_what_is_not_shared_the_first_process_does_as_the_only_one(monkeypatch, words, together):
    for name, value in (RANKS | {"SLURM_STEP_NUM_TASKS": "2", "TORCHELASTIC_RUN_ID": "x"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["expo", *words])
    with keep_handlers(), main.one_voice():
        assert launcher.place().size == (2 if together else 1)
        if not together:
            launcher.check_rendezvous()
            assert "LOCAL_RANK" not in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    if not together:
        with pytest.raises(SystemExit) as stop, main.one_voice():
            pass
        assert stop.value.code == 0


@contextlib.contextmanager
def keep_handlers():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
