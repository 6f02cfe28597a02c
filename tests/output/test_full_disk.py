"""A file system that refuses bytes ends a run with one clear error; with more room the same command finishes it."""

import contextlib
import errno
import os
import resource
import shutil
import subprocess

import pytest
from crash import (
    Steps,
    command_line,
    forked,
    journal_lines,
    partial_of,
    small_pair,
    tree,
)

from expo.errors import DiskFull, OutputError

N_SEGMENTS = 13  # of the long pair
MIB = 2**20


@pytest.fixture(scope="module")
def undisturbed(long, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    long.write(output)
    return tree(output)


@pytest.fixture
def no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def limited(n_bytes):
    """No file of this process may grow beyond so many bytes: writing there is refused with EFBIG."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def late():
    """Make files grow as they are written, as on a file system that cannot reserve their size."""
    os.ftruncate = lambda fd, size: None


def full_disk(ended, output):
    """The command ended as it must on a full disk."""
    assert (ended.code, ended.signal) == (1, 0), ended.err
    assert "Traceback" not in ended.err
    assert "error: no room for more bytes" in ended.err and "repeat the command to continue" in ended.err
    assert str(output) in ended.err
    assert not output.exists()
    return True


# --- A limit on the size of files ------------------------------------------------------------------------------------


def test_a_limit_below_a_weight_file_stops_the_command_before_it_streams(long, undisturbed, tmp_path, no_fsync):
    output = tmp_path / "out"
    ended = forked(lambda: [limited(MIB), command_line(*long.argv(output))])
    assert full_disk(ended, output)
    long.write(output)
    assert tree(output) == undisturbed


@pytest.mark.parametrize("threads", [1, 2])
def test_a_limit_that_shows_in_mid_stream_keeps_what_is_written(threads, long, undisturbed, tmp_path, no_fsync):
    output = tmp_path / "out"
    run = long.argv(output, "--threads", str(threads))
    # In the second of the first tensor's two segments, and in the middle of one write.
    ended = forked(lambda: [late(), limited(2 * MIB + 100_001), command_line(*run)])
    assert full_disk(ended, output)
    kept = len(journal_lines(output))
    assert kept >= 1
    again = forked(lambda: [late(), limited(2 * MIB + 100_001), command_line(*run)])
    assert full_disk(again, output), "a command that is repeated without more room says so again"
    kept = len(journal_lines(output))
    assert 1 <= kept < N_SEGMENTS
    ended = forked(lambda: command_line(*run))
    assert ended.code == 0, ended.err
    assert "segments of an earlier run were kept" in ended.out
    assert tree(output) == undisturbed


def test_a_limit_that_only_a_side_file_meets_keeps_every_segment(tmp_path, no_fsync):
    pair = small_pair(tmp_path, side_files={"tokenizer.json": b"x" * 200_000})
    output = tmp_path / "out"
    ended = forked(lambda: [limited(150_000), command_line(*pair.argv(output))])
    assert full_disk(ended, output)
    assert pair.write(output).segments_resumed == 5
    assert (output / "tokenizer.json").stat().st_size == 200_000


# --- A file system without room --------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A function that mounts an empty file system of so many bytes, and one that makes it larger."""
    where = tmp_path / "disk"
    where.mkdir()

    def mount(n_bytes, how="size={},mode=700"):
        if os.path.ismount(where):
            how = "remount," + how
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", how.format(n_bytes), "tmpfs", str(where)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return where

    if not shutil.which("mount"):
        pytest.skip("there is no mount command")
    try:
        yield mount
    finally:
        if os.path.ismount(where):
            subprocess.run(["umount", "-l", str(where)], check=True)


def filled(folder):
    """Leave no byte of a file system free."""
    with contextlib.suppress(OSError), open(folder / "ballast", "ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(long, disk):
    folder = disk(3 * MIB)
    ended = forked(lambda: command_line(*long.argv(folder / "out")))
    assert ended.code == 1 and "Traceback" not in ended.err
    assert "free, and the output needs" in ended.err
    assert os.listdir(folder) == []


@pytest.mark.parametrize("moment", ["write", "pwrite", "fsync", "copyfileobj", "write_text"])
def test_a_disk_that_fills_up_during_the_run_is_no_loss(moment, long, undisturbed, disk):
    """Filled by another program when the run comes to its third such call."""
    folder = disk(12 * MIB)
    output = folder / "out"

    def unlucky():
        seen = []

        def act(step, name):
            if name == moment and step % 2 == 0:
                seen.append(name)
                if len(seen) == 3:
                    filled(folder)

        Steps(act)
        command_line(*long.argv(output, "--threads", "1"))

    assert full_disk(forked(unlucky), output)
    kept = len(journal_lines(output))
    again = forked(lambda: command_line(*long.argv(output)))
    assert again.code == 1 and "Traceback" not in again.err
    assert "Nothing was written" not in again.err, "part of the output is there, and is kept"
    assert len(journal_lines(output)) >= kept
    (folder / "ballast").unlink()
    ended = forked(lambda: command_line(*long.argv(output)))
    assert ended.code == 0, ended.err
    assert tree(output) == undisturbed
    assert os.listdir(folder) == ["out"]


def test_a_disk_without_room_for_the_side_files_is_no_loss(tmp_path, disk):
    pair = small_pair(tmp_path, side_files={"tokenizer.json": b"x" * 2 * MIB})
    folder = disk(MIB)
    ended = forked(lambda: command_line(*pair.argv(folder / "out")))
    assert ended.code == 1 and "Traceback" not in ended.err and "error: " in ended.err
    assert not (folder / "out").exists()
    disk(4 * MIB)
    ended = forked(lambda: command_line(*pair.argv(folder / "out")))
    assert ended.code == 0, ended.err
    assert (folder / "out" / "tokenizer.json").read_bytes() == b"x" * 2 * MIB


def test_a_disk_without_room_for_another_file_is_an_error_in_words(tmp_path, disk):
    """Every number of files that is too few: the first that is refused may be any."""
    pair, ends = small_pair(tmp_path), []
    for n_files in range(2, 40):
        folder = disk(n_files, "size=4m,mode=700,nr_inodes={}")
        ended = forked(lambda folder=folder: command_line(*pair.argv(folder / "out")))
        ends.append(ended.code)
        assert ended.code in (0, 1) and "Traceback" not in ended.err, (n_files, ended.err)
        if ended.code == 0:
            break
    assert ends[-1] == 0 and 1 in ends


def test_an_output_that_is_a_mount_point_is_refused_before_it_is_computed(tmp_path, disk):
    """It cannot be exchanged for another folder, as one learns only when all is done."""
    pair, folder = small_pair(tmp_path), disk(4 * MIB)
    with pytest.raises(OutputError):
        pair.write(folder, overwrite=True)
    assert not partial_of(folder).exists()


# --- Any call refused ------------------------------------------------------------------------------------------------

WRITES = {"mkdir", "pwrite", "write", "ftruncate", "fsync", "rename", "copyfileobj", "write_text", "open", "exchange"}


def test_any_call_may_be_refused_for_lack_of_room_and_the_same_command_finishes(tmp_path, no_fsync):
    pair = small_pair(tmp_path)
    pair.write(tmp_path / "undisturbed")
    pair.write(tmp_path / "old", alpha=2.0)
    wanted, old = tree(tmp_path / "undisturbed"), tree(tmp_path / "old")
    wrong: list[tuple] = []  # what ended in another error than DiskFull

    def refused(output, wanted):
        def act(step, name):
            if step == wanted:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        steps = Steps(act)
        pair.write(output, overwrite=True)
        return steps.names

    shutil.copytree(tmp_path / "old", tmp_path / "traced")
    names = forked(lambda: refused(tmp_path / "traced", None)).value
    # One of several equal calls in a row stands for all.
    calls = [i for i, name in enumerate(names) if name in WRITES and name != names[i - 1]]
    assert len(calls) > 30
    for i in calls:
        output = tmp_path / f"out{i}"
        shutil.copytree(tmp_path / "old", output)
        ended = forked(lambda output=output, i=i: refused(output, 2 * i))
        assert tree(output) in (old, wanted)
        if ended.code and ended.error[0] != "DiskFull":  # a folder that exists already need not be made
            wrong.append((i, names[i], ended.error[0], ended.err.splitlines()[-6:]))
        pair.write(output, overwrite=True)
        assert tree(output) == wanted
        assert not partial_of(output).exists()
    assert not wrong, f"{len(wrong)} calls end in a traceback or another error, such as {wrong[0]}"


def test_the_error_of_a_full_disk_is_one_that_callers_can_tell(long, tmp_path, no_fsync):
    ended = forked(lambda: [limited(MIB), long.write(tmp_path / "out")])
    assert ended.error[:2] == ("DiskFull", "OutputError")
    assert issubclass(DiskFull, OutputError)
