"""Worker processes: the same bytes as threads, errors that arrive whole, and nobody left behind."""

import json
import os
import resource
import signal
import time

import pytest
import torch
from pico import llama_tensors, nudged, write_checkpoint

import expo
from expo.errors import DiskFull, ExpoError, Interrupted, NonFinite
from expo.stream import workers

ROWS = 40_000  # an embedding of a few segments


@pytest.fixture
def forked(monkeypatch):
    """Every run with more than one worker forks; says how many forks there were."""
    forks = []
    fork = os.fork

    def counted():
        pid = fork()
        if pid:
            forks.append(pid)
        return pid

    monkeypatch.setattr(workers, "FORK_ABOVE", 0)
    # Other tests leave a thread behind (a progress bar's), which holds no lock that a worker needs.
    monkeypatch.setattr(workers, "is_safe", lambda: True)
    monkeypatch.setattr(os, "fork", counted)
    return forks


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    tensors = llama_tensors(dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    tensors["big.weight"] = torch.randn((ROWS, 64), generator=generator).to(torch.bfloat16)
    sft = write_checkpoint(folder / "sft", tensors, shards=2)
    return {"sft": sft, "dpo": write_checkpoint(folder / "dpo", nudged(tensors), shards=2)}


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_processes_write_what_one_thread_writes(pair, tmp_path, forked, n, rounding):
    one = expo.extrapolate(**pair, output=tmp_path / "one", threads=1, rounding=rounding)
    assert not forked
    told = []
    many = expo.extrapolate(**pair, output=tmp_path / "many", threads=n, rounding=rounding, progress=told.append)
    assert len(forked) == n
    assert files(tmp_path / "one") == files(tmp_path / "many")
    assert (one.effective_alpha, one.groups, one.hashes) == (many.effective_alpha, many.groups, many.hashes)
    assert 0 < sum(told) <= many.n_bytes_written


def test_an_error_in_a_worker_is_the_callers_error(pair, tmp_path, forked):
    tensors = llama_tensors(dtype=torch.bfloat16)
    tensors["model.norm.weight"][3] = float("nan")
    sft = write_checkpoint(tmp_path / "sft", tensors)
    dpo = write_checkpoint(tmp_path / "dpo", llama_tensors(dtype=torch.bfloat16))
    with pytest.raises(NonFinite, match=r"model\.norm\.weight\[3\] is nan in sft \(sft\)"):
        expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out", threads=2)
    assert len(forked) == 2
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_an_error_of_any_length_arrives(pair, tmp_path, forked):
    name = "\U0001f600" * 20_000
    broken = torch.tensor([1.0, float("nan")])
    sft = write_checkpoint(tmp_path / "sft", {name: broken})
    dpo = write_checkpoint(tmp_path / "dpo", {name: torch.ones(2)})
    with pytest.raises(NonFinite):
        expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out", threads=2)


def test_a_full_disk_in_a_worker_can_be_continued(pair, tmp_path, forked):
    expo.extrapolate(**pair, output=tmp_path / "whole", threads=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(DiskFull, match="repeat the command"):
            expo.extrapolate(**pair, output=tmp_path / "out", threads=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    expo.extrapolate(**pair, output=tmp_path / "out", threads=2)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def slowly(monkeypatch, seconds):
    """Every tile takes a while, so that something can happen meanwhile."""
    from expo.output.folder import FolderSink

    write = FolderSink.write

    def slow(self, *arguments):
        time.sleep(seconds)
        write(self, *arguments)

    monkeypatch.setattr(FolderSink, "write", slow)


def child_run(pair, output):
    """A fork of this process that runs with two workers; returns its number."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            expo.extrapolate(**pair, output=output, threads=2)
        except Interrupted:
            os._exit(130)
        finally:
            os._exit(1)
    return pid


def workers_of(pid):
    listed = os.popen(f"ps -o pid= --ppid {pid}").read().split()
    return [int(word) for word in listed]


def wait_for(condition, seconds=30):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("did not happen in time")


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_when_the_run_is_killed_its_workers_end_and_the_same_call_continues(pair, tmp_path, forked, monkeypatch):
    expo.extrapolate(**pair, output=tmp_path / "whole", threads=1)
    with monkeypatch.context() as slow:
        slowly(slow, 0.02)
        pid = child_run(pair, tmp_path / "out")
        busy = wait_for(lambda: len(workers_of(pid)) == 2 and workers_of(pid))
        wait_for((tmp_path / "out.partial" / "journal-0").exists)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        wait_for(lambda: not any(map(alive, busy)))
    expo.extrapolate(**pair, output=tmp_path / "out", threads=2)
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()


def test_ctrl_c_stops_the_workers_after_their_segments(pair, tmp_path, forked, monkeypatch):
    slowly(monkeypatch, 0.02)
    pid = child_run(pair, tmp_path / "out")
    busy = wait_for(lambda: len(workers_of(pid)) == 2 and workers_of(pid))
    for each in (pid, *busy):
        os.kill(each, signal.SIGINT)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert not any(map(alive, busy))
    assert (tmp_path / "out.partial" / "run.json").exists()


def test_a_worker_that_is_killed_ends_the_run_in_words(pair, tmp_path, forked, monkeypatch):
    original = workers._work

    def killed(work, board, k, *rest):
        if k == 1:
            wait_for(lambda: (tmp_path / "out.partial" / "journal-0").read_bytes().count(b"\n"))
            os.kill(os.getpid(), signal.SIGKILL)
        return original(work, board, k, *rest)

    with monkeypatch.context() as broken:
        broken.setattr(workers, "_work", killed)
        with pytest.raises(ExpoError, match=r"ended by signal 9.*the same command continues"):
            expo.extrapolate(**pair, output=tmp_path / "out", threads=2)
    report = expo.extrapolate(**pair, output=tmp_path / "out", threads=2)
    assert report.segments_resumed > 0
    assert json.loads((tmp_path / "out" / "expo.json").read_text())["tensors"] == report.hashes
