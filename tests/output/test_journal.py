"""What a journal line says is read back exactly or not at all; nothing that it says is believed unseen."""

import errno
import os
import random
import tempfile
import threading
from pathlib import Path

import pytest
from crash import journal_lines, killed_in_mid_stream, partial_of, tree
from hypothesis import given, settings
from hypothesis import strategies as st

from expo.output.journal import Finished, Journal, read_journals

NUMBERS = st.integers(min_value=0, max_value=10**9)
DIGESTS = st.integers(min_value=0, max_value=2**128 - 1).map("{:032x}".format)
SUMS = st.tuples(*[st.floats(allow_nan=False)] * 3)
RECORDS = st.dictionaries(st.tuples(NUMBERS, NUMBERS), st.builds(Finished, DIGESTS, SUMS), max_size=20)
FEW = settings(max_examples=30, deadline=None)


def write(folder, records, writer=0):
    journal = Journal(folder, writer)
    for (job, segment), finished in records.items():
        journal.add(job, segment, finished)
    journal.close()
    return folder / f"journal-{writer}"


# --- Lines -----------------------------------------------------------------------------------------------------------


@FEW
@given(RECORDS)
def test_what_is_recorded_is_read_back_to_the_bit(records):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), records)
        found = read_journals(Path(folder))
    assert found == records
    signs = [[x.hex() for x in finished.sums] for finished in found.values()]
    assert signs == [[x.hex() for x in finished.sums] for finished in records.values()], "-0.0 is not 0.0"


@FEW
@given(RECORDS, RECORDS, RECORDS)
def test_the_journals_of_all_writers_and_of_all_earlier_runs_are_read(first, again, second):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), first, 0)
        write(Path(folder), again, 0)
        write(Path(folder), second, 1)
        assert read_journals(Path(folder)) == first | again | second


@FEW
@given(RECORDS, st.data())
def test_a_journal_cut_anywhere_keeps_the_lines_before_the_cut_and_takes_new_ones(records, data):
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), records)
        whole = path.read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:cut])
        intact = dict(list(records.items())[: whole[: cut + 1].count(b"\n")])
        new = {(10**9 + 1, 0): Finished("0" * 32, (1.0, 2.0, 3.0))}
        write(Path(folder), new)
        assert read_journals(Path(folder)) == intact | new


@FEW
@given(RECORDS, st.data())
def test_a_flipped_bit_costs_at_most_the_lines_that_it_touches(records, data):
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), records)
        raw = bytearray(path.read_bytes())
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            path.write_bytes(raw)
        found = read_journals(Path(folder))
        assert found.items() <= records.items()
        assert len(found) >= len(records) - 2, "a line that lost its end takes the next with it"


@FEW
@given(st.binary(max_size=400))
def test_garbage_says_nothing(garbage):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "journal-0").write_bytes(garbage)
        assert read_journals(Path(folder)) == {}


def test_threads_that_record_at_once_write_whole_lines(tmp_path):
    journal = Journal(tmp_path)
    finished = Finished("a" * 32, (1.5, -0.0, 1e300))

    def record(job):
        for segment in range(200):
            journal.add(job, segment, finished)

    workers = [threading.Thread(target=record, args=(job,)) for job in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    journal.close()
    assert read_journals(tmp_path) == {(job, segment): finished for job in range(4) for segment in range(200)}


# --- What a run makes of them ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(small, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    small.write(output)
    return tree(output)


@pytest.fixture
def killed(small, tmp_path, monkeypatch):
    """An output whose run was killed after four of its five segments, and its journal."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    killed_in_mid_stream(small, tmp_path / "out", segments=4)
    return tmp_path / "out", partial_of(tmp_path / "out") / "journal-0"


@pytest.mark.parametrize(
    "garbage",
    [b"\n", b"torn", b"0 0 \n", b"\0" * 4096, b"\xff" * 50 + b"\n", b"\r\n\r\r", b" \n  \n", b"1 0 abc def\n"],
)
@pytest.mark.parametrize("place", ["before", "between", "after"])
def test_torn_and_garbage_lines_are_ignored(garbage, place, killed, small, undisturbed):
    output, journal = killed
    lines = journal_lines(output)
    at = {"before": 0, "between": 2, "after": 4}[place]
    lines.insert(at, garbage if garbage.endswith(b"\n") or place == "after" else garbage + b"\n")
    journal.write_bytes(b"".join(lines))
    assert small.write(output).segments_resumed == 4
    assert tree(output) == undisturbed


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bits_never_make_wrong_bytes(seed, killed, small, undisturbed):
    output, journal = killed
    chosen = random.Random(seed)
    raw = bytearray(journal.read_bytes())
    for _ in range(chosen.choice([1, 1, 2, 8])):
        raw[chosen.randrange(len(raw))] ^= 1 << chosen.randrange(8)
    journal.write_bytes(raw)
    assert small.write(output).segments_resumed < 4
    assert tree(output) == undisturbed


@pytest.mark.parametrize("cut", [0.0, 0.1, 0.3, 0.5, 0.8, 0.99])
def test_a_journal_cut_off_by_a_full_disk_costs_only_what_it_lost(cut, killed, small, undisturbed):
    output, journal = killed
    raw = journal.read_bytes()
    raw = raw[: int(len(raw) * cut)]
    journal.write_bytes(raw)
    assert small.write(output).segments_resumed == raw.count(b"\n")
    assert tree(output) == undisturbed


def test_a_line_for_bytes_that_are_not_there_is_not_believed(killed, small, undisturbed):
    """A loss of power may keep the journal and lose the bytes."""
    output, _ = killed
    for shard in (partial_of(output) / "files").glob("*.safetensors"):
        shard.write_bytes(b"\0" * shard.stat().st_size)
    assert small.write(output).segments_resumed == 0
    assert tree(output) == undisturbed


def test_a_true_line_under_another_segments_number_is_not_believed(killed, small, undisturbed):
    output, journal = killed
    found = read_journals(partial_of(output))
    journal.unlink()
    keys = list(found)
    write(partial_of(output), dict(zip(keys, [found[key] for key in keys[1:] + keys[:1]], strict=True)))
    assert small.write(output).segments_resumed == 0
    assert tree(output) == undisturbed


def test_lines_of_segments_that_the_run_does_not_have_are_ignored(killed, small, undisturbed):
    output, _ = killed
    write(partial_of(output), {(99, 0): Finished("0" * 32, (0.0, 0.0, 0.0)), (0, 99): Finished("1" * 32, (0.0,) * 3)})
    assert small.write(output).segments_resumed == 4
    assert tree(output) == undisturbed


def test_a_journal_that_is_gone_costs_all_segments_and_no_byte(killed, small, undisturbed):
    output, journal = killed
    journal.unlink()
    assert small.write(output).segments_resumed == 0
    assert tree(output) == undisturbed


def test_a_line_that_the_disk_takes_only_a_part_of_counts_as_a_full_disk_and_is_not_read(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    whole = os.write
    monkeypatch.setattr(os, "write", lambda fd, line: whole(fd, line[: len(line) // 2]))
    with pytest.raises(OSError) as told:
        journal.add(0, 0, Finished("ab" * 16, (1.0, 2.0, 3.0)))
    monkeypatch.undo()
    assert told.value.errno == errno.ENOSPC and read_journals(tmp_path) == {}
