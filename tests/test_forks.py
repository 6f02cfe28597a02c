"""Work in a fork: its answer, its errors, and its end."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from expo import forks
from expo.errors import PlanError
from expo.forks import NoAnswer, answer


@pytest.fixture(autouse=True)
def no_other_threads(monkeypatch):
    """Test runners have threads of their own, which hold no lock that these forks need."""
    monkeypatch.setattr(forks, "is_safe", lambda: True)


def test_an_answer_comes_from_another_process_and_known_objects_in_it_are_this_ones():
    mine, other = {"a": 1}, {"b": 2}
    pid, here, there = answer(lambda: (os.getpid(), mine, other), [mine])
    assert pid != os.getpid()
    assert here is mine
    assert there == other and there is not other


def test_what_a_fork_imports_is_not_imported_here():
    name = "xml.dom.expatbuilder"
    sys.modules.pop(name, None)
    assert answer(lambda: __import__(name) is not None and name in sys.modules, [])
    assert name not in sys.modules


def test_an_error_raised_on_purpose_is_raised_here():
    def fails():
        raise PlanError(["one", "two"])

    with pytest.raises(PlanError) as error:
        answer(fails, [])
    assert str(error.value) == str(PlanError(["one", "two"]))


@pytest.mark.parametrize(
    "end",
    [
        lambda: 1 / 0,
        lambda: os._exit(3),
        lambda: os.kill(os.getpid(), signal.SIGKILL),
        lambda: lambda: "not to be pickled",
    ],
)
def test_any_other_end_is_no_answer(end):
    with pytest.raises(NoAnswer):
        answer(end, [])


@pytest.mark.parametrize("refused", ["fork", "memfd_create"])
def test_a_system_that_refuses_gives_no_answer(refused, monkeypatch):
    def refuse(*_):
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(os, refused, refuse)
    with pytest.raises(NoAnswer):
        answer(lambda: 1, [])


def test_memory_that_a_fork_holds_counts_with_this_process():
    held = []

    def grows():
        held.append(b"x" * (64 * 2**20))

    before = forks.status_bytes("VmRSS")
    answer(grows, [])
    assert not held
    assert before + 60 * 2**20 < forks.most_bytes() < before + 500 * 2**20


def test_another_thread_means_no_fork(monkeypatch):
    monkeypatch.undo()
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(NoAnswer):
            answer(lambda: 1, [])
    finally:
        done.set()
        thread.join()


def test_a_process_that_is_deaf_to_the_ends_of_its_children_makes_none(monkeypatch):
    """A parent may leave SIGCHLD ignored; the system then forgets how a child ended."""
    monkeypatch.undo()
    code = """
        from expo.forks import NoAnswer, answer, is_safe
        assert not is_safe()
        try:
            answer(lambda: 1, [])
        except NoAnswer:
            print("none")
    """
    ignoring = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True,
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    )  # fmt: skip
    assert ignoring.stdout == "none\n"


def test_an_interrupt_ends_the_fork_too(tmp_path):
    """Ctrl-C reaches the process that waits; the one it waits for is gone when that raises."""
    code = """
        import os, sys, time
        from expo.forks import answer
        def sleeps():
            open(sys.argv[1], "w").write(str(os.getpid()))
            time.sleep(60)
        try:
            answer(sleeps, [])
        except KeyboardInterrupt:
            sys.exit(7)
    """
    told = tmp_path / "pid"
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(told)])
    until = time.monotonic() + 60
    while not (told.exists() and told.read_text()) and time.monotonic() < until:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    assert child.wait(30) == 7
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)
