"""An output appears, or replaces an older one, whole or not at all, whatever step a kill lands on."""

import os
import shutil
import signal

import pytest
from crash import (
    Steps,
    command_line,
    die_at,
    forked,
    partial_of,
    tree,
    without_exchange,
)

from expo.errors import OutputError
from expo.output import partial


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """A kill, other than a loss of power, takes nothing from the kernel."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(scope="module")
def new(small, tmp_path_factory):
    """An undisturbed run's files."""
    output = tmp_path_factory.mktemp("new") / "out"
    small.write(output)
    return output


def moments_of(small, output, *prepare, **options):
    """The steps of publishing at which a kill leaves different states: {step: the call's name}.

    Right after one call is right before the next, and nothing changes from one fsync to another.
    """

    def counted():
        for change in prepare:
            change()
        steps = Steps().only_while_publishing()
        small.write(output, **options)
        return steps.names

    names = forked(counted).value
    befores = {2 * i: f"before {name} {i}" for i, name in enumerate(names) if names[i - 1 : i + 1] != ["fsync"] * 2}
    return befores | {2 * len(names) - 1: f"after {names[-1]}"}


def killed_while_publishing(pair, output, step, *prepare, **options):
    def doomed():
        for change in prepare:
            change()
        Steps(die_at(step)).only_while_publishing()
        pair.write(output, **options)

    ended = forked(doomed)
    assert ended.signal == signal.SIGKILL, ended.err


def forgotten(output):
    """True where the run was so near its end that nothing was left to do but to say so."""
    return output.exists() and not (partial_of(output) / "run.json").exists()


# --- Where no output was ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first_time(small, tmp_path_factory):
    """The moments of publishing an output where none was."""
    return moments_of(small, tmp_path_factory.mktemp("first") / "out")


@pytest.fixture(scope="module")
def appeared(first_time):
    """The moment at which the output has just appeared, and nothing is tidied."""
    return max(step for step, name in first_time.items() if "rename" in name) + 1


def test_a_command_killed_at_any_step_of_publishing_succeeds_when_repeated(small, new, first_time, tmp_path):
    for step, name in first_time.items():
        output = tmp_path / f"out{step}"
        killed_while_publishing(small, output, step)
        assert not output.exists() or tree(output) == tree(new), name
        if not forgotten(output):
            small.write(output)
            assert not partial_of(output).exists(), name
        assert tree(output) == tree(new), name


def test_the_command_line_killed_right_after_publishing_exits_0_when_repeated(small, new, appeared, tmp_path):
    output = tmp_path / "out"
    killed_while_publishing(small, output, appeared)
    assert output.exists() and partial_of(output).exists()
    ended = forked(lambda: command_line(*small.argv(output)))
    assert (ended.code, ended.signal) == (0, 0), ended.err
    assert f"wrote {output}" in ended.out
    assert tree(output) == tree(new) and not partial_of(output).exists()


def test_a_full_disk_does_not_stop_a_command_that_has_nothing_left_to_write(small, appeared, tmp_path, monkeypatch):
    output = tmp_path / "out"
    killed_while_publishing(small, output, appeared)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))
    small.write(output)
    assert not partial_of(output).exists()


def test_a_result_that_was_published_and_taken_away_is_written_again(small, new, appeared, tmp_path):
    output = tmp_path / "out"
    killed_while_publishing(small, output, appeared)
    shutil.move(output, tmp_path / "elsewhere")
    small.write(output)
    assert tree(output) == tree(tmp_path / "elsewhere") == tree(new)
    assert not partial_of(output).exists()


def test_an_output_that_appears_during_the_run_is_not_replaced_unasked(small, new, tmp_path):
    output = tmp_path / "out"

    def appears(step, name):
        output.mkdir(exist_ok=True)
        (output / "mine").write_bytes(b"mine")

    def disturbed():
        Steps(appears).only_while_publishing()
        small.write(output)

    ended = forked(disturbed)
    assert ended.error[0] == "OutputError" and "--overwrite" in ended.text, ended.err
    assert list(tree(output)) == ["mine"]
    small.write(output, overwrite=True)
    assert tree(output) == tree(new) and not partial_of(output).exists()


def test_ctrl_c_at_any_step_of_publishing_loses_nothing(small, new, first_time, tmp_path):
    def interrupted(output, wanted):
        def act(step, name):
            if step == wanted:
                raise KeyboardInterrupt

        Steps(act).only_while_publishing()
        small.write(output)

    for step, name in first_time.items():
        output = tmp_path / f"out{step}"
        ended = forked(lambda output=output, step=step: interrupted(output, step))
        assert "KeyboardInterrupt" in ended.error or forgotten(output), (name, ended.err)
        assert not output.exists() or tree(output) == tree(new), name
        if not forgotten(output):
            small.write(output)
        assert tree(output) == tree(new), name


# --- Where an older output is ----------------------------------------------------------------------------------------


def another_model(small, new, output):
    """An older output with other weights, and with a file that the new one lacks."""
    small.write(output, alpha=2.0)
    (output / "notes").mkdir()
    (output / "notes" / "mine.txt").write_text("mine")


def the_same_but_damaged(small, new, output):
    """The same recipe's output, whose weights were damaged on the disk; its manifest is the new one's."""
    shutil.copytree(new, output)
    with open(output / "model-00001-of-00002.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))


WAYS = {"exchange": [], "aside": [without_exchange]}


def kills_while_replacing(small, old, tmp, way):
    """Kill the replacing of copies of `old` at one moment after the other; yields each output and the moment."""
    shutil.copytree(old, tmp / "traced")
    for step, name in moments_of(small, tmp / "traced", *WAYS[way], overwrite=True).items():
        output = tmp / f"out{step}"
        shutil.copytree(old, output)
        killed_while_publishing(small, output, step, *WAYS[way], overwrite=True)
        yield output, name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("before", [another_model, the_same_but_damaged])
def test_overwriting_survives_a_kill_at_every_step(before, way, small, new, tmp_path):
    before(small, new, tmp_path / "old")
    old, wanted = tree(tmp_path / "old"), tree(new)
    assert old != wanted
    for output, name in kills_while_replacing(small, tmp_path / "old", tmp_path, way):
        if output.exists():
            assert tree(output) in (old, wanted), name
        else:
            assert way == "aside"
            assert tree(partial_of(output) / "old") == old, name
            assert tree(partial_of(output) / "files") == wanted, name
        small.write(output, overwrite=True)
        assert tree(output) == wanted, name
        assert not partial_of(output).exists(), name


@pytest.mark.parametrize("way", WAYS)
def test_another_command_after_such_a_kill_is_refused_and_harms_nothing(way, small, new, tmp_path):
    another_model(small, new, tmp_path / "old")
    old, wanted = tree(tmp_path / "old"), tree(new)
    for output, name in kills_while_replacing(small, tmp_path / "old", tmp_path, way):
        # Once the finished run has forgotten itself, another may overwrite; until then it may not.
        with pytest.raises(OutputError) as refused:
            small.write(output, alpha=0.7, overwrite=not forgotten(output))
        assert "exists" in str(refused.value) or "belongs to another run" in str(refused.value), name
        assert tree(output) in (old, wanted), name
        small.write(output, overwrite=True)
        assert tree(output) == wanted, name
        assert not partial_of(output).exists(), name


@pytest.mark.parametrize("way", WAYS)
def test_overwriting_leaves_nothing_of_the_older_output(way, small, new, tmp_path):
    output = tmp_path / "out"
    another_model(small, new, output)
    ended = forked(lambda: [*(change() for change in WAYS[way]), small.write(output, overwrite=True)])
    assert ended.code == 0, ended.err
    assert tree(output) == tree(new)
    assert os.listdir(tmp_path) == ["out"]


def test_a_run_that_is_killed_before_it_publishes_never_touches_the_older_output(small, new, tmp_path):
    another_model(small, new, tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "out")
    for step in range(0, 80, 4):
        ended = forked(lambda step=step: [Steps(die_at(step)), small.write(tmp_path / "out", overwrite=True)])
        assert ended.signal == signal.SIGKILL, ended.err
        assert tree(tmp_path / "out") == tree(tmp_path / "old"), step
        shutil.rmtree(partial_of(tmp_path / "out"), ignore_errors=True)


@pytest.mark.parametrize("way", WAYS)
def test_an_output_is_whole_under_its_name_at_every_moment_or_kept_aside(way, small, new, tmp_path):
    """What another program that opens OUT can see."""
    output = tmp_path / "out"
    another_model(small, new, output)
    old = tree(output)

    def watched():
        seen = []
        for change in WAYS[way]:
            change()
        Steps(lambda step, name: seen.append(tree(output) if output.exists() else None)).only_while_publishing()
        small.write(output, overwrite=True)
        return seen

    seen = forked(watched).value
    changes = [now for before, now in zip([old, *seen], seen, strict=False) if now != before]
    assert changes == ([tree(new)] if way == "exchange" else [None, tree(new)])


def test_an_existing_output_is_refused_without_overwrite_and_untouched(small, new, tmp_path):
    output = tmp_path / "out"
    another_model(small, new, output)
    old = tree(output)
    with pytest.raises(OutputError, match="--overwrite"):
        small.write(output)
    assert tree(output) == old
    assert os.listdir(tmp_path) == ["out"]


def test_the_exchange_of_two_folders_is_one_step(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    (one / "file").write_text("1")
    if not partial._exchange(one, other):
        pytest.skip("this file system cannot exchange two folders")
    assert tree(one) == {} and list(tree(other)) == ["file"]
