"""An unfinished folder belongs to one run at a time and to one recipe; whatever else lies there is left alone."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import time

import pytest
import torch
from crash import (
    Child,
    Counter,
    Steps,
    command_line,
    forked,
    journal_lines,
    killed_in_mid_stream,
    pair_of,
    partial_of,
    small_pair,
    tree,
)
from pico import write_checkpoint
from safetensors.torch import load_file

from expo.errors import NonFinite, OutputError
from expo.output.partial import Partial


@pytest.fixture(scope="module")
def undisturbed(small, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    small.write(output)
    return tree(output)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """A kill, other than a loss of power, takes nothing from the kernel."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def without_lock(folder):
    return {name: content for name, content in tree(folder).items() if name != "lock"}


# --- One run at a time -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def held(pair, output):
    """A run that waits in mid-stream until the block ends; then it goes on to its end."""
    reached, go_on = Counter(), Counter()

    def waiting():
        def act(step, name):
            if name == "write":
                reached.value = 1
                while not go_on.value:
                    time.sleep(0.001)

        Steps(act)
        pair.write(output)

    child = Child(waiting)
    until = time.monotonic() + 30
    while not reached.value and time.monotonic() < until:
        time.sleep(0.001)
    try:
        yield child
    finally:
        go_on.value = 1
        ended = child.wait()
    assert ended.code == 0, ended.err


def test_a_second_run_in_the_same_folder_is_refused_and_learns_which_process_holds_it(small, undisturbed, tmp_path):
    output = tmp_path / "out"
    with held(small, output) as child:
        before = tree(partial_of(output))
        with pytest.raises(OutputError, match=rf"in use by process {child.pid}\b"):
            small.write(output)
        assert tree(partial_of(output)) == before
    assert tree(output) == undisturbed


def test_the_command_line_says_who_holds_the_folder_and_exits_1(small, undisturbed, tmp_path):
    output = tmp_path / "out"
    with held(small, output) as child:
        ended = forked(lambda: command_line(*small.argv(output)))
        assert ended.code == 1 and "Traceback" not in ended.err
        assert f"in use by process {child.pid}" in ended.err
    assert tree(output) == undisturbed


def test_the_number_of_a_run_that_was_killed_holds_nothing(small, undisturbed, tmp_path):
    output = tmp_path / "out"
    killed_in_mid_stream(small, output)
    assert (partial_of(output) / "lock").read_text().strip().isdigit()
    small.write(output)
    assert tree(output) == undisturbed


def test_a_lock_that_was_removed_while_it_was_awaited_holds_nothing(tmp_path, monkeypatch):
    """The second run opens the lock of an earlier one, which tidies up; the first makes a new one and holds it."""
    first, second = Partial(tmp_path / "out"), Partial(tmp_path / "out")
    real, removed = fcntl.flock, []

    def flock(fd, how):
        if not removed:
            removed.append(True)
            (tmp_path / "out.partial" / "lock").unlink()
            first.open("same", "a run")
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OutputError, match="in use by process"):
        second.open("same", "a run")
    first.release()


# --- One recipe ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"alpha": 0.5},
        {"dtype": "float32"},
        {"rounding": "stochastic"},
        {"arithmetic": "reference"},
        {"seed": 1},
        {"shard_size": 300},
        {"saturate": True},
        {"vocabulary": "keep-base"},
        {"on_mismatch": "copy"},
    ],
    ids=str,
)
def test_another_recipes_folder_is_refused_and_says_how_to_drop_it(other, small, undisturbed, tmp_path):
    output = tmp_path / "out"
    killed_in_mid_stream(small, output, segments=2)
    before = without_lock(partial_of(output))
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="belongs to another run") as refused:
            small.write(output, overwrite=overwrite, **other)
        assert f"rm -r '{partial_of(output)}'" in str(refused.value)
    assert without_lock(partial_of(output)) == before
    assert small.write(output).segments_resumed == 2
    assert tree(output) == undisturbed


def test_other_inputs_of_the_same_recipe_are_another_run(small, tmp_path):
    output = tmp_path / "out"
    other = small_pair(tmp_path / "other")
    killed_in_mid_stream(small, output)
    with pytest.raises(OutputError, match="belongs to another run"):
        other.write(output)


def test_what_changes_no_byte_continues(small, undisturbed, tmp_path):
    output = tmp_path / "out"
    killed_in_mid_stream(small, output, segments=2)
    report = small.write(output, threads=3, max_header=2**20, overwrite=True, progress=lambda n: None)
    assert report.segments_resumed == 2
    assert tree(output) == undisturbed


def test_a_run_that_let_nan_pass_is_not_continued_by_one_that_does_not(tmp_path):
    pair, output = pair_of(tmp_path, {"a": (8, 16), "b": (16, 16)}, shards=1), tmp_path / "out"
    tensors = load_file(pair.dpo / "model.safetensors")
    tensors["a"][0, 0] = float("nan")
    write_checkpoint(pair.dpo, tensors)
    killed_in_mid_stream(pair, output, segments=2, allow_non_finite=True)
    with pytest.raises((NonFinite, OutputError)):
        pair.write(output)
    assert not output.exists()


def test_a_run_that_data_forbids_leaves_nothing_to_continue(tmp_path):
    pair, output = pair_of(tmp_path, {"a": (8, 16), "b": (16, 16)}, shards=1), tmp_path / "out"
    tensors = load_file(pair.dpo / "model.safetensors")
    tensors["b"][3, 4] = torch.inf
    write_checkpoint(pair.dpo, tensors)
    with pytest.raises(NonFinite):
        pair.write(output)
    assert not output.exists() and not partial_of(output).exists()


def test_the_folder_says_whose_run_it_is(small, tmp_path):
    output = tmp_path / "out"
    killed_in_mid_stream(small, output)
    said = json.loads((partial_of(output) / "run.json").read_text())["run"]
    assert "extrapolate" in said and "alpha 0.3" in said and "sft" in said and "dpo" in said


# --- What is no run --------------------------------------------------------------------------------------------------

FOREIGN = {
    "a file": {"notes.txt": "mine"},
    "a sub-folder": {"thesis/notes.txt": "mine"},
    "a file called lock": {"lock": "four digits: 4711"},
    "a folder called files": {"files/notes.txt": "mine"},
    "a folder called old": {"old/notes.txt": "mine"},
    "a file called done": {"done": "the dishes"},
    "a diary": {"journal-2024": "mine", "journal-2025.txt": "mine"},
    "another program's run.json": {"run.json": '{"name": "mine"}', "log.txt": "mine"},
    "a checkpoint": {"config.json": "{}", "model.safetensors": "mine"},
}


@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN)
def test_a_folder_with_a_users_files_is_refused_and_untouched(files, small, tmp_path):
    output = tmp_path / "out"
    for name, content in files.items():
        path = partial_of(output) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    before = tree(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"out\.partial"):
            small.write(output, overwrite=overwrite)
        assert tree(tmp_path) == before


def test_a_file_in_the_folders_place_is_refused_and_untouched(small, tmp_path):
    output = tmp_path / "out"
    partial_of(output).write_text("mine")
    with pytest.raises(OutputError, match=r"out\.partial"):
        small.write(output)
    assert partial_of(output).read_text() == "mine"


def test_an_input_in_the_folders_place_is_refused_and_untouched(small, tmp_path):
    pair = small_pair(tmp_path)
    pair.dpo.rename(tmp_path / "out.partial")
    before = tree(tmp_path)
    with pytest.raises(OutputError):
        pair._replace(dpo=tmp_path / "out.partial").write(tmp_path / "out")
    assert tree(tmp_path) == before


def test_an_empty_folder_is_taken(small, undisturbed, tmp_path):
    output = tmp_path / "out"
    partial_of(output).mkdir()
    small.write(output)
    assert tree(output) == undisturbed
    assert not partial_of(output).exists()


@pytest.mark.parametrize("content", [b"", b"{", b'{"run": 1}', b"[]", b"\xff\xfe", b"null"])
def test_a_torn_record_of_whose_run_it_is_never_mixes_two_runs(content, small, undisturbed, tmp_path):
    output = tmp_path / "out"
    killed_in_mid_stream(small, output, alpha=0.9)
    (partial_of(output) / "run.json").write_bytes(content)
    with contextlib.suppress(OutputError):
        small.write(output)
        assert tree(output) == undisturbed


# --- A folder that cannot be written ---------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EIO])
def test_a_folder_that_cannot_be_made_is_an_error_in_words(code, small, tmp_path):
    def refused():
        def act(step, name):
            if step == 0:
                raise OSError(code, os.strerror(code))

        Steps(act)
        small.write(tmp_path / "out")

    ended = forked(refused)
    assert "OutputError" in ended.error, ended.err
    assert os.strerror(code) in ended.text


def test_a_kill_while_the_folder_is_dropped_leaves_what_the_same_command_can_drop(tmp_path):
    pair, output = pair_of(tmp_path, {"a": (8, 16), "b": (16, 16)}, shards=1), tmp_path / "out"
    tensors = load_file(pair.dpo / "model.safetensors")
    tensors["b"][3, 4] = torch.inf
    write_checkpoint(pair.dpo, tensors)

    def doomed(wanted):
        def act(step, name):
            if name in ("unlink", "rmdir") and step % 2 == 0:
                seen.append(name)
                if len(seen) == wanted:
                    os.kill(os.getpid(), signal.SIGKILL)

        seen = []
        Steps(act)
        pair.write(output)

    for wanted in range(1, 20):
        ended = forked(lambda wanted=wanted: doomed(wanted))
        if ended.signal == 0:
            break
        with pytest.raises(NonFinite):
            pair.write(output)
        assert not output.exists() and not partial_of(output).exists(), wanted
    assert wanted > 4, "the folder was dropped in several steps"


def test_nothing_is_journalled_twice(small, tmp_path):
    output = tmp_path / "out"
    for segments in (2, 1):
        killed_in_mid_stream(small, output, segments=segments)
    lines = journal_lines(output)
    assert len(lines) == len(set(lines)) == 3
