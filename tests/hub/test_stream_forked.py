"""--stream with worker processes: one process loads, the others compute, and nothing else is different."""

import json
import os
import signal
import threading
import time

import pytest
import torch
from pico import LLAMA, llama_tensors, nudged, write_checkpoint
from standin_hub import Faults

import expo
from expo.checkpoint import blocks
from expo.errors import ChangedFile, HubBadAnswer, Interrupted
from expo.stream import workers

BLOCK = 2 * 2**20  # a segment's bytes, so that both workers begin near each other


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A pair of some 20 blocks, the base in another order of tensors too; and what comes of it."""
    folder = tmp_path_factory.mktemp("pair")
    tensors = llama_tensors(dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    tensors["big.weight"] = torch.randn((160_000, 64), generator=generator).to(torch.bfloat16)
    write_checkpoint(folder / "sft", tensors, shards=2, config=LLAMA)
    write_checkpoint(folder / "back", dict(reversed(tensors.items())), shards=2, config=LLAMA)
    write_checkpoint(folder / "dpo", nudged(tensors), shards=2, config=LLAMA)
    expo.extrapolate(sft=folder / "sft", dpo=folder / "dpo", output=folder / "local", threads=1)
    return folder


@pytest.fixture
def hub(folders, read_from, monkeypatch):
    """The pair on a Hub; every run with two workers forks."""
    monkeypatch.setattr(blocks, "BLOCK", BLOCK)
    monkeypatch.setattr(workers, "FORK_ABOVE", 0)
    monkeypatch.setattr(workers, "_LEAD", 2)
    monkeypatch.setattr(workers, "is_safe", lambda: True)  # the stand-in's own threads hold nothing that a worker needs
    for name in ("sft", "back", "dpo"):
        read_from.add(f"org/{name}", folders / name)
    return read_from


def run(output, **options):
    return expo.extrapolate(sft="org/sft", dpo="org/dpo", output=output, stream=True, threads=2, **options)


def weights(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors*"))}


@pytest.mark.parametrize("kinds", [[], ["500", "429", "close", "reset", "whole", "short", "excess"]])
def test_forks_give_the_local_bits_and_every_byte_passes_its_hash(hub, folders, tmp_path, monkeypatch, kinds):
    pids, fork = [], os.fork
    monkeypatch.setattr(os, "fork", lambda: pids.append(fork()) or pids[-1])
    hub.faults = Faults(4 if kinds else 0, kinds)
    run(tmp_path / "out", connections=3)
    assert len(pids) == 2 and weights(tmp_path / "out") == weights(folders / "local")
    record = json.loads((tmp_path / "out" / "expo.json").read_text())["inputs"]
    read = {file["read"]["checked"] for role in record.values() for file in role["files"].values()}
    assert read == {"every byte, by its hash"}
    if not kinds:
        whole = {f"bytes={at}-{at + BLOCK - 1}" for at in range(0, 20 * BLOCK, BLOCK)}
        loaded = [(asked.path, asked.range) for asked in hub.asked if asked.range in whole]
        assert len(set(loaded)) == len(loaded) >= 18


def test_reads_out_of_order_are_right_in_forks_too(hub, folders, tmp_path):
    expo.extrapolate(sft="org/back", dpo="org/dpo", output=tmp_path / "out", stream=True, threads=2)
    assert weights(tmp_path / "out") == weights(folders / "local")


def test_a_method_that_surveys_first_reads_in_forks_too(hub, folders, tmp_path):
    recipe = """
merge_method: ties
base_model: {0}sft
models:
  - model: {0}dpo
    parameters: {{density: 0.5, weight: 0.7}}
"""
    for name, place in (("hub", "org/"), ("local", f"{folders}/")):
        (tmp_path / f"{name}.yaml").write_text(recipe.format(place))
    expo.merge(tmp_path / "hub.yaml", output=tmp_path / "out", stream=True, threads=2)
    expo.merge(tmp_path / "local.yaml", output=tmp_path / "ties", threads=1)
    assert weights(tmp_path / "out") == weights(tmp_path / "ties")


def test_what_cannot_be_read_is_the_callers_error_and_the_same_call_continues(hub, folders, tmp_path):
    seen = []

    def late(request):
        seen.append(request.path)
        return len(seen) > 12

    hub.faults = Faults(1, ["other"], host="storage", where=late)
    with pytest.raises(HubBadAnswer, match=r"(?s)org/(sft|dpo)@.*instead of.*--stream"):
        run(tmp_path / "out")
    hub.faults = Faults()
    run(tmp_path / "out")
    assert weights(tmp_path / "out") == weights(folders / "local")


def test_damage_on_the_way_is_found(hub, folders, tmp_path):
    planned = expo.plan(expo.extrapolation(sft="org/sft", dpo="org/dpo", stream=True))
    blob = next(blob for blob in hub.repositories["org/dpo"].head.files.values() if blob.n_bytes > 3 * BLOCK)
    content = bytearray(blob.path.read_bytes())
    content[-3] ^= 1
    blob.path.unlink()
    blob.path.write_bytes(content)
    with pytest.raises(ChangedFile, match=r"org/dpo@.*another hash"):
        expo.run(planned, tmp_path / "out", threads=2)
    assert not (tmp_path / "out").exists()


def test_an_interrupt_ends_the_waiting_for_bytes(hub, tmp_path):
    begun = threading.Event()

    def slowly(request):
        if request.range and request.range.endswith(f"-{2 * BLOCK - 1}"):  # the second block of a file
            begun.set()
            time.sleep(1)
        return False

    hub.faults = Faults(1, host="storage", where=slowly)
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            run(tmp_path / "out")
        except Interrupted:
            os._exit(130)
        finally:
            os._exit(1)
    assert begun.wait(30)
    began = time.monotonic()
    os.kill(pid, signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130 and time.monotonic() - began < 10
