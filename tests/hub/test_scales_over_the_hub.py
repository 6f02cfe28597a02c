"""Scales of float8 tensors on the Hub come with their neighbours: few requests, however many scales."""

import os

import pytest
from float8 import write_float8

import expo
from expo.checkpoint import Shards, blocks, open_checkpoint
from expo.checkpoint.neighbours import Neighbours
from expo.checkpoint.remote import RemoteFile
from expo.planning.quantised import quantised
from expo.stream import workers


@pytest.fixture
def float8(read_from, tmp_path):
    """The numbers of org/m on the Hub; `read_from.asked` holds the requests."""
    write_float8(tmp_path / "m", 0, "block")
    read_from.add("org/m", tmp_path / "m")
    return read_from, open_checkpoint("org/m", stream=True), open_checkpoint(tmp_path / "m")


def storage(hub):
    return sum(asked.host == "storage" for asked in hub.asked)


def test_all_scales_are_checked_by_one_request_a_file(float8):
    hub, there, _ = float8
    before = storage(hub)
    assert quantised({"m": there}) == [] and len(there.quantised.scaled) > 10
    assert storage(hub) - before == len({spec.view.scale.file for spec in there.quantised.scaled.values()})


def test_views_read_their_scales_by_one_request_a_file(float8, monkeypatch):
    hub, there, here = float8
    monkeypatch.setattr(blocks, "BLOCK", 2**16)
    before = storage(hub)
    with Shards(there, scattered=True) as far, Shards(here) as near:
        for name, spec in there.quantised.scaled.items():
            one, other = bytearray(4096), bytearray(4096)
            far.read_into(memoryview(one), spec, 0)
            near.read_into(memoryview(other), here.tensors[name], 0)
            assert one == other
    assert storage(hub) - before == len(there.quantised.scaled) + 1  # each tensor's own bytes, and the scales


def test_runs_end_where_a_gap_or_a_request_would_be_too_long(float8, monkeypatch):
    _, there, _ = float8
    specs = [spec.view.scale for spec in there.quantised.scaled.values()]
    assert [len(run) for run in Neighbours(there.files, specs).runs] == [len(specs)]
    monkeypatch.setattr("expo.checkpoint.neighbours.RUN", 1)
    assert max(len(run) for run in Neighbours(there.files, specs).runs) == 1
    parted = Neighbours(there.files, [specs[0], specs[0], specs[-1]])
    assert sum(map(len, parted.runs)) == 2
    assert {spec: bytes(raw) for spec, raw in parted.everything()}.keys() == {specs[0], specs[-1]}


def test_a_streamed_run_asks_for_scales_once_a_file(float8, tmp_path):
    hub, there, _ = float8
    write_float8(tmp_path / "n", 1, "block")
    hub.add("org/n", tmp_path / "n")
    expo.extrapolate(sft="org/n", dpo="org/m", output=tmp_path / "out", stream=True)
    small = [asked for asked in hub.asked if asked.host == "storage" and asked.n_bytes < 1_000]
    assert len(small) <= 2 * 3 < len(there.quantised.scaled)  # of each: in the plan, for the sample, in the run


def test_forks_are_lent_the_scales_too(float8, tmp_path, monkeypatch):
    hub, _, _ = float8
    write_float8(tmp_path / "n", 1, "block")
    hub.add("org/n", tmp_path / "n")
    expo.extrapolate(sft=tmp_path / "n", dpo=tmp_path / "m", output=tmp_path / "local", threads=1)
    monkeypatch.setattr(workers, "FORK_ABOVE", 0)
    monkeypatch.setattr(workers, "is_safe", lambda: True)  # the stand-in's own threads hold nothing that a worker needs
    forks, lone, mine, fork = [], RemoteFile.read_into, os.getpid(), os.fork
    monkeypatch.setattr(os, "fork", lambda: forks.append(fork()) or forks[-1])

    def read_into(*told):
        assert os.getpid() == mine, "connections are not shared by processes"
        return lone(*told)

    monkeypatch.setattr(RemoteFile, "read_into", read_into)
    expo.extrapolate(sft="org/n", dpo="org/m", output=tmp_path / "out", stream=True, threads=2)
    assert len(forks) > 1
    for path in (tmp_path / "local").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
