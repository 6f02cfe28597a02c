"""A killed run continues when its command is repeated, and ends with the bytes of a run that nothing disturbed."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from crash import (
    Child,
    Counter,
    Steps,
    die_at,
    forked,
    journal_lines,
    killed_in_mid_stream,
    pair_of,
    partial_of,
    small_pair,
    tree,
)

from expo.errors import Interrupted, OutputError
from expo.ops import SEGMENT

N_SEGMENTS = 13  # of the long pair


@pytest.fixture(scope="module")
def undisturbed(long, tmp_path_factory):
    """The files that a run of the long pair writes when nothing happens to it."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    long.write(output, threads=2)
    return tree(output)


@pytest.fixture
def no_fsync(monkeypatch):
    """A kill, other than a loss of power, takes nothing from the kernel."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


# --- kill -9 at any moment -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def n_steps(long, tmp_path_factory):
    """How many steps a run of the long pair takes."""
    output = tmp_path_factory.mktemp("steps") / "out"

    def counted():
        steps = Steps()
        long.write(output)
        return 2 * len(steps.names)

    return forked(counted).value


def killed_near(step, call):
    """kill -9 a call from outside soon after it came to a step; each step takes a little while."""
    reached = Counter()

    def slowed():
        def act(step, name):
            reached.value = step
            time.sleep(0.0002)

        Steps(act)
        call()
        reached.value = sys.maxsize
        signal.pause()

    child = Child(slowed)
    until = time.monotonic() + 120
    while reached.value < step and time.monotonic() < until:
        time.sleep(0.0003)
    return child.kill()


@pytest.mark.parametrize("seed", range(50))
def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(seed, long, undisturbed, n_steps, tmp_path, no_fsync):
    output = tmp_path / "out"
    moment = random.Random(seed)
    step = round(n_steps * (seed + moment.random()) / 50)
    threads = moment.choice([(1, 2), (2, 1), (2, 3), (1, 1)])
    ended = killed_near(step, lambda: long.write(output, threads=threads[0]))
    assert ended.signal == signal.SIGKILL, ended.err
    assert not output.exists() or tree(output) == undisturbed
    recorded = len(journal_lines(output))
    if not forgotten(output):
        report = long.write(output, threads=threads[1])
        assert report.segments_resumed == (0 if (report.seconds == 0) else recorded)
    assert tree(output) == undisturbed
    shutil.rmtree(output)
    assert not (partial_of(output) / "run.json").exists()


def forgotten(output):
    """True where the run was so near its end that nothing was left to do but to say so."""
    return output.exists() and not (partial_of(output) / "run.json").exists()


def test_a_second_and_a_third_kill_lose_nothing_either(long, undisturbed, tmp_path, no_fsync):
    output = tmp_path / "out"
    for more in (2, 3, 4):
        killed_in_mid_stream(long, output, segments=more)
    assert len(journal_lines(output)) == 2 + 3 + 4
    assert long.write(output, threads=2).segments_resumed == 9
    assert tree(output) == undisturbed


@pytest.mark.parametrize("step", range(0, 8))
def test_a_run_killed_before_it_wrote_a_tensor_starts_again(step, small, tmp_path, no_fsync):
    output = tmp_path / "out"
    assert forked(lambda: [Steps(die_at(2 * step)), small.write(output)]).signal == signal.SIGKILL
    small.write(output)
    assert output.is_dir() and not partial_of(output).exists()


def test_ctrl_c_waits_for_the_segments_in_flight(small, tmp_path, no_fsync):
    """No thread writes on into files that are closed, or computes on while the interpreter ends."""
    reached = Counter()

    def slow():
        begun, ended = [], []

        def act(step, name):
            if threading.current_thread() is not threading.main_thread():
                begun.append(name)
                reached.value = len(begun)
                time.sleep(0.1)
                ended.append(name)

        Steps(act)
        try:
            small.write(tmp_path / "out", threads=1)
        except Interrupted:
            return begun, ended

    child = Child(slow)
    until = time.monotonic() + 120
    while reached.value < 3 and time.monotonic() < until:
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGINT)
    begun, ended = child.wait().value
    assert begun == ended and begun[-1] == "write", "the segment is journalled"
    assert not (tmp_path / "out").exists()


# --- What is kept, and what is done again ----------------------------------------------------------------------------


@pytest.mark.parametrize("segments", [1, 4, N_SEGMENTS])
@pytest.mark.parametrize("threads", [1, 2])
def test_finished_segments_are_kept(segments, threads, long, undisturbed, tmp_path, no_fsync):
    output = tmp_path / "out"
    killed_in_mid_stream(long, output, segments=segments)
    assert len(journal_lines(output)) == segments
    assert long.write(output, threads=threads).segments_resumed == segments
    assert tree(output) == undisturbed


def test_a_kept_segment_is_not_written_again(long, tmp_path, no_fsync, monkeypatch):
    output = tmp_path / "out"
    killed_in_mid_stream(long, output, segments=N_SEGMENTS)
    tensors = []
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: tensors.append(at) or real(fd, data, at))
    long.write(output)
    assert set(tensors) == {0}, "only headers and the number of the process are written"


def damaged(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("where", ["first", "last"])
def test_a_segment_that_changed_on_the_disk_is_done_again(where, long, undisturbed, tmp_path, no_fsync):
    output = tmp_path / "out"
    killed_in_mid_stream(long, output, segments=3)
    shard = partial_of(output) / "files" / "model-00001-of-00002.safetensors"
    header = 8 + int.from_bytes(shard.read_bytes()[:8], "little")
    damaged(shard, header if where == "first" else header + 2 * SEGMENT - 1)
    assert long.write(output).segments_resumed == 2
    assert tree(output) == undisturbed


def test_a_header_that_changed_on_the_disk_is_written_again(long, undisturbed, tmp_path, no_fsync):
    output = tmp_path / "out"
    killed_in_mid_stream(long, output, segments=3)
    damaged(partial_of(output) / "files" / "model-00001-of-00002.safetensors", 20)
    assert long.write(output).segments_resumed == 3
    assert tree(output) == undisturbed


@pytest.mark.parametrize("share", [0, 0.001, 0.9, 10])
def test_a_weight_file_of_another_length_is_done_again_where_it_must(share, long, undisturbed, tmp_path, no_fsync):
    output = tmp_path / "out"
    killed_in_mid_stream(long, output, segments=N_SEGMENTS)
    shard = partial_of(output) / "files" / "model-00001-of-00002.safetensors"
    os.truncate(shard, int(shard.stat().st_size * share))
    kept = long.write(output).segments_resumed
    assert kept == N_SEGMENTS if share > 1 else kept < N_SEGMENTS
    assert tree(output) == undisturbed


def test_a_weight_file_that_is_gone_is_written_again(long, undisturbed, tmp_path, no_fsync):
    output = tmp_path / "out"
    killed_in_mid_stream(long, output, segments=N_SEGMENTS)
    shutil.rmtree(partial_of(output) / "files")
    assert long.write(output).segments_resumed == 0
    assert tree(output) == undisturbed


def test_small_files_of_an_earlier_try_are_written_anew(small, tmp_path, no_fsync):
    output = tmp_path / "out"
    killed_in_mid_stream(small, output)
    (partial_of(output) / "files" / "config.json").write_text("half")
    (partial_of(output) / "files" / "gone").mkdir()
    (partial_of(output) / "files" / "gone" / "vocab.txt").write_text("of a side file that was removed since")
    small.write(output)
    small.write(tmp_path / "again")
    assert tree(output) == tree(tmp_path / "again")


# --- Inputs that changed meanwhile -----------------------------------------------------------------------------------


def change_time(path):
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def change_size(path):
    stat = path.stat()
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    path.write_bytes((length + 8).to_bytes(8, "little") + raw[8 : 8 + length] + b" " * 8 + raw[8 + length :])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def change_header(path):
    stat = path.stat()
    path.write_bytes(path.read_bytes().replace(b'"format":"pt"', b'"format":"np"'))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("change", [change_time, change_size, change_header])
@pytest.mark.parametrize("role", ["sft", "dpo"])
def test_a_run_does_not_continue_with_an_input_that_changed(change, role, tmp_path, no_fsync):
    pair, output = small_pair(tmp_path), tmp_path / "out"
    killed_in_mid_stream(pair, output)
    before = tree(partial_of(output))
    change(getattr(pair, role) / "model-00002-of-00002.safetensors")
    with pytest.raises(OutputError, match="other inputs"):
        pair.write(output)
    assert tree(partial_of(output)).items() >= {k: v for k, v in before.items() if k != "lock"}.items()
    assert not output.exists()


def test_a_config_that_changed_never_mixes_two_results(tmp_path, no_fsync):
    """Whether the head is tied decides the noise of its rounding, and so its bytes."""
    shapes = {"lm_head.weight": (16, 8), "model.embed_tokens.weight": (16, 8)}
    pair, output = pair_of(tmp_path, shapes), tmp_path / "out"
    options = {"rounding": "stochastic", "tied": "keep"}
    killed_in_mid_stream(pair, output, **options)
    config = pair.dpo / "config.json"
    config.write_text(config.read_text().replace('"tie_word_embeddings": false', '"tie_word_embeddings": true'))
    pair.write(tmp_path / "new", **options)
    with contextlib.suppress(OutputError):
        pair.write(output, **options)
        assert tree(output) == tree(tmp_path / "new")


# --- The real command line -------------------------------------------------------------------------------------------


class CommandLine:
    """`expo extrapolate` as a user runs it, stopped when it has journalled so many segments."""

    def __init__(self, pair, output, *, threads):
        command = [sys.executable, "-m", "expo", *pair.argv(output, *SLOWLY, "--threads", str(threads))]
        # A shell that runs tests in the background hides Ctrl-C from them.
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # two threads wait for each other on a busy core
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.output = output

    def stopped(self, with_signal, segments):
        """Send a signal once `segments` are journalled; returns exit code and what it printed."""
        until = time.monotonic() + 300
        while len(journal_lines(self.output)) < segments and self.process.poll() is None and time.monotonic() < until:
            time.sleep(0.001)
        self.process.send_signal(with_signal)
        return self.ended()

    def ended(self):
        out, err = self.process.communicate(timeout=300)
        return self.process.returncode, out, err


SLOWLY = ("--dtype", "float32", "--rounding", "stochastic")


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """One command, interrupted by Ctrl-C, killed three times, then left alone: [(code, out, err, segments)]."""
    tmp = tmp_path_factory.mktemp("history")
    shapes = {f"model.layers.{i}.mlp.up_proj.weight": (1024, 1024) for i in range(12)}
    pair, output = pair_of(tmp, shapes), tmp / "out"
    pair.write(tmp / "undisturbed", threads=2, dtype="float32", rounding="stochastic")
    seen = []
    for with_signal, threads in [(signal.SIGINT, 1), *[(signal.SIGKILL, n) for n in (2, 1, 2)]]:
        more = len(journal_lines(output)) + 1
        result = CommandLine(pair, output, threads=threads).stopped(with_signal, more)
        seen.append((*result, len(journal_lines(output)), output.exists()))
    seen.append((*CommandLine(pair, output, threads=1).ended(), 0, output.exists()))
    return seen, output, tree(tmp / "undisturbed")


def test_ctrl_c_exits_130_says_so_and_keeps_what_is_written(history):
    code, out, err, segments, published = history[0][0]
    assert code == 130, err
    assert "interrupted" in err and "the same command continues" in err and "Traceback" not in err
    assert out == ""
    assert segments >= 1 and not published


def test_a_command_line_killed_three_times_ends_with_the_same_bytes(history):
    seen, output, wanted = history
    killed = seen[1:4]
    assert [code for code, *_ in killed] == [-signal.SIGKILL] * 3, [err for _, _, err, *_ in killed]
    assert not any(published for *_, published in killed)
    code, out, err, _, published = seen[4]
    assert code == 0 and published, err
    assert f"continued: {killed[-1][3]} segments of an earlier run were kept" in out
    assert tree(output) == wanted
    assert not partial_of(output).exists()


def test_a_command_line_continues_after_ctrl_c_with_what_was_kept(history):
    seen, _, _ = history
    segments = [count for *_, count, _ in seen[:4]]
    assert segments == sorted(segments) and segments[0] < segments[1], "no later run begins anew"
