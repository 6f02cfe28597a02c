"""Ctrl-C while libraries load ends the command with 130 and one word; afterwards it is the command's own again."""

import signal
import subprocess
import sys

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
