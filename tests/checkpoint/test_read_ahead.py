"""Blocks ahead: each is loaded once where a file is read front to back, none is mixed up, and buffers are bounded."""

import hashlib
import threading
import time

import numpy as np
import pytest

from expo.checkpoint import blocks, read_ahead
from expo.checkpoint.read_ahead import ReadAhead
from expo.checkpoint.remote import RemoteFile
from expo.errors import HubUnreachable, Interrupted, RecipeError

BLOCK = 4096


class Held(RemoteFile):
    """A file whose bytes are in memory; it counts what is asked of it."""

    def __init__(self, content: bytes, name: str = "m", etag: str | None = None):
        super().__init__("org/m", "0" * 40, name, len(content), etag or hashlib.sha256(content).hexdigest())
        self.content, self.asked, self.at_once, self.most = content, [], 0, 0
        self.fails_at: int | None = None
        self.slow = 0.0

    def read_into(self, out, at):
        with self.lock:
            self.asked.append((at, len(out)))
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(self.slow)
        try:
            if self.fails_at is not None and at <= self.fails_at < at + len(out):
                raise HubUnreachable("org/m: no answer")
            out[:] = self.content[at : at + len(out)]
        finally:
            with self.lock:
                self.at_once -= 1


@pytest.fixture
def ahead(monkeypatch):
    """A reader of small blocks, whose threads are gone after the test."""
    monkeypatch.setattr(blocks, "BLOCK", BLOCK)
    before = threading.active_count()
    yield ReadAhead()
    assert threading.active_count() == before


def content(n: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(n)


def read(ahead, track, file, at, n):
    out = bytearray(n)
    ahead.read_into(track, file, memoryview(out), at)
    return bytes(out)


def in_threads(n, work):
    failures = []

    def one(k):
        try:
            work(k)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=(k,)) for k in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_files_read_front_to_back_by_several_threads_are_loaded_once_and_pass_their_hash(ahead, threads):
    files = [Held(content(BLOCK * 40 + 17, seed), str(seed)) for seed in (1, 2)]
    track, step, beat = ahead.open(files), 1_000, threading.Barrier(threads)
    pieces = [(file, at) for file in files for at in range(0, file.n_bytes, step)]
    pieces = pieces[: len(pieces) // threads * threads]

    def work(k):
        for file, at in pieces[k::threads]:
            assert read(ahead, track, file, at, min(step, file.n_bytes - at)) == file.content[at : at + step]
            beat.wait(30)  # no thread is further behind than the others' last piece

    in_threads(threads, work)
    ahead.close(track)
    for file in files:
        assert sorted(file.asked) == [(at, min(BLOCK, file.n_bytes - at)) for at in range(0, file.n_bytes, BLOCK)]
        assert file.is_checked and file.is_sound


def test_a_thread_that_was_left_behind_brings_no_block_twice(ahead):
    file = Held(content(BLOCK * 30))
    track, late, done = ahead.open([file]), threading.Event(), threading.Event()

    def work(k):
        if k == 0:
            assert read(ahead, track, file, 0, 100)
            assert late.wait(30)
            for at in range(100, 1_000, 100):
                assert read(ahead, track, file, at, 100) == file.content[at : at + 100]
            done.set()
            return
        for at in range(500, BLOCK * 30, 500):
            assert read(ahead, track, file, at, min(500, BLOCK * 30 - at)) == file.content[at : at + 500]
            if at > BLOCK * 3:
                late.set()
                assert done.wait(30)

    in_threads(2, work)
    ahead.close(track)
    assert len(file.asked) == len(set(file.asked)) == 30 and file.is_checked


def test_two_checkpoints_side_by_side_share_the_buffers(ahead):
    files = [Held(content(BLOCK * 60, seed), str(seed)) for seed in (1, 2)]
    tracks = [ahead.open([file]) for file in files]
    for at in range(0, BLOCK * 60, 512):
        for track, file in zip(tracks, files, strict=True):
            assert read(ahead, track, file, at, 512) == file.content[at : at + 512]
    assert len(ahead.held.all) <= blocks.room_for(2) == blocks.ROOM
    for track, file in zip(tracks, files, strict=True):
        ahead.close(track)
        assert len(file.asked) == 60 and file.is_checked
        assert file.most <= read_ahead.CONNECTIONS
    assert not ahead.held.all and not ahead.held.blocks


def test_reads_anywhere_by_many_threads_give_the_right_bytes(ahead, monkeypatch):
    monkeypatch.setattr(blocks, "ROOM", 5)
    files = [Held(content(BLOCK * 30 + 100, seed), str(seed)) for seed in (1, 2)]
    tracks = [ahead.open([file]) for file in files]

    def work(k):
        random = np.random.default_rng(k)
        for _ in range(150):
            track, file = tracks[k % 2], files[k % 2]
            at = int(random.integers(file.n_bytes))
            n = int(random.integers(1, min(3 * BLOCK, file.n_bytes - at) + 1))
            assert read(ahead, track, file, at, n) == file.content[at : at + n]

    in_threads(6, work)
    assert len(ahead.held.all) <= max(5, 2 * 3)
    for track in tracks:
        ahead.close(track)


def test_a_lone_read_far_away_is_one_request_of_its_own_length(ahead):
    file = Held(content(BLOCK * 100))
    track = ahead.open([file])
    assert read(ahead, track, file, BLOCK * 70 + 5, 300) == file.content[BLOCK * 70 + 5 : BLOCK * 70 + 305]
    assert file.asked == [(BLOCK * 70 + 5, 300)]
    assert read(ahead, track, file, BLOCK * 70 + 305, 300)  # where it goes on, blocks begin
    assert (BLOCK * 70, BLOCK) in file.asked
    ahead.close(track)
    assert not file.is_checked and file.is_sound


def test_the_next_files_first_blocks_are_on_their_way_before_the_last_file_ends(ahead):
    files = [Held(content(BLOCK * 3, seed), str(seed)) for seed in (1, 2)]
    track = ahead.open(files)
    read(ahead, track, files[0], 0, 10)
    for _ in range(200):
        if len(files[1].asked) == 3:
            break
        time.sleep(0.01)
    assert sorted(files[1].asked) == [(at, BLOCK) for at in range(0, 3 * BLOCK, BLOCK)]
    ahead.close(track)


def test_a_block_that_cannot_be_loaded_is_the_readers_error_and_no_others(ahead):
    file = Held(content(BLOCK * 20))
    file.fails_at = BLOCK * 9
    track = ahead.open([file])
    for at in range(0, BLOCK * 9, BLOCK):
        assert read(ahead, track, file, at, BLOCK)
    with pytest.raises(HubUnreachable, match="no answer"):
        read(ahead, track, file, BLOCK * 9, 10)
    file.fails_at = None
    assert read(ahead, track, file, BLOCK * 9, 10) == file.content[BLOCK * 9 : BLOCK * 9 + 10]
    ahead.close(track)


def test_damaged_bytes_show_once_all_are_read(ahead):
    file = Held(content(BLOCK * 5), etag="ab" * 32)
    track = ahead.open([file])
    for at in range(0, BLOCK * 4, BLOCK):
        read(ahead, track, file, at, BLOCK)
    read(ahead, track, file, BLOCK * 4, BLOCK)
    ahead.close(track)
    assert not file.is_sound and not file.is_checked


def test_a_file_kept_in_git_passes_gits_own_hash(ahead):
    raw = content(BLOCK * 2 + 1)
    file = Held(raw, etag=hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest())
    track = ahead.open([file])
    read(ahead, track, file, 0, len(raw))
    ahead.close(track)
    assert file.is_checked


def test_what_was_left_out_can_be_read_afterwards_for_the_hash(ahead):
    file = Held(content(BLOCK * 60 + 9))
    track = ahead.open([file])
    read(ahead, track, file, 0, BLOCK)
    ahead.close(track)
    assert not file.is_checked
    ahead.read_through([file])
    assert file.is_checked and len(set(file.asked)) == 61


def test_giving_up_ends_the_waiting(ahead):
    file = Held(content(BLOCK * 40))
    file.slow = 0.5
    track = ahead.open([file])
    began = time.monotonic()
    threading.Timer(0.1, ahead.give_up, [track]).start()
    with pytest.raises(Interrupted):
        read(ahead, track, file, 0, BLOCK * 40)
    assert time.monotonic() - began < 5
    ahead.close(track)


@pytest.mark.parametrize("n", [0, -1, 17])
def test_a_number_of_connections_that_would_never_read_is_refused(n):
    with pytest.raises(RecipeError, match=f"connections must be from 1 to 16, not {n}"):
        ReadAhead(n)
