"""Bytes that are read are the file's own, whatever the piece, the thread or the call's limit."""

import os
import threading

import numpy as np
import pytest
import torch
from pico import llama_tensors, write_checkpoint

from expo import errors
from expo.checkpoint.index import open_checkpoint
from expo.checkpoint.shard import Shard, Shards


@pytest.fixture
def tensors():
    return llama_tensors(dtype=torch.bfloat16)


@pytest.fixture
def checkpoint(tmp_path, tensors):
    return open_checkpoint(write_checkpoint(tmp_path / "m", tensors, shards=2))


def truth(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def read(shards, spec, start=0, n_bytes=None):
    out = bytearray(spec.n_bytes - start if n_bytes is None else n_bytes)
    shards.read_into(memoryview(out), spec, start)
    return bytes(out)


def test_every_tensor_reads_back_whole(checkpoint, tensors):
    with Shards(checkpoint) as shards:
        for name, spec in checkpoint.tensors.items():
            assert read(shards, spec) == truth(tensors[name])


@pytest.mark.parametrize("piece", [1, 7, 512])
def test_pieces_join_to_the_whole(checkpoint, tensors, piece):
    spec = checkpoint.tensors["model.norm.weight"]
    with Shards(checkpoint) as shards:
        cuts = range(0, spec.n_bytes, piece)
        whole = b"".join(read(shards, spec, at, min(piece, spec.n_bytes - at)) for at in cuts)
    assert whole == truth(tensors[spec.name])


def test_an_empty_piece_reads_nothing(checkpoint):
    spec = next(iter(checkpoint.tensors.values()))
    with Shards(checkpoint) as shards:
        shards.read_into(memoryview(b""), spec, spec.n_bytes)


def test_a_buffer_of_any_element_type_is_filled(checkpoint, tensors):
    spec = checkpoint.tensors["lm_head.weight"]
    out = np.empty(spec.shape, np.uint16)
    with Shards(checkpoint) as shards:
        shards.read_into(memoryview(out), spec)
    assert out.tobytes() == truth(tensors["lm_head.weight"])


def test_short_reads_are_continued(checkpoint, tensors, monkeypatch):
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: preadv(fd, [buffers[0][:100]], at))
    spec = checkpoint.tensors["model.embed_tokens.weight"]
    with Shards(checkpoint) as shards:
        assert read(shards, spec) == truth(tensors[spec.name])


def test_bytes_beyond_a_tensor_are_never_read(checkpoint):
    spec = checkpoint.tensors["model.norm.weight"]
    with Shards(checkpoint) as shards, pytest.raises(AssertionError):
        read(shards, spec, 1, spec.n_bytes)


def test_a_file_that_shrinks_while_read_is_truncated(checkpoint):
    spec = list(checkpoint.tensors.values())[-1]
    file = checkpoint.files[spec.file]
    shard = Shard(file)
    os.truncate(file.path, spec.offset + 3)
    with pytest.raises(errors.TruncatedShard, match=f"byte {spec.offset + 3}, inside tensor '{spec.name}'"):
        read(shard, spec)
    shard.close()


@pytest.mark.parametrize("change", [lambda path: os.truncate(path, 10), lambda path: os.utime(path, (1, 1))])
def test_a_file_changed_since_planning_is_refused(checkpoint, change):
    spec = next(iter(checkpoint.tensors.values()))
    change(checkpoint.files[spec.file].path)
    with Shards(checkpoint) as shards, pytest.raises(errors.ChangedFile, match=r"model-00001"):
        read(shards, spec)


def test_a_file_changed_while_it_was_open_is_noticed_at_the_end(checkpoint):
    spec = next(iter(checkpoint.tensors.values()))
    with pytest.raises(errors.ChangedFile), Shards(checkpoint) as shards:
        read(shards, spec)
        os.utime(checkpoint.files[spec.file].path, (1, 1))


def test_a_file_deleted_since_planning_is_refused_by_name(checkpoint):
    spec = next(iter(checkpoint.tensors.values()))
    checkpoint.files[spec.file].path.unlink()
    with Shards(checkpoint) as shards, pytest.raises(errors.UnreadableFile, match=r"model-00001"):
        read(shards, spec)


def test_a_failing_disk_names_file_tensor_and_byte(checkpoint, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    spec = checkpoint.tensors["lm_head.weight"]
    with Shards(checkpoint) as shards, pytest.raises(errors.UnreadableFile) as caught:
        read(shards, spec)
    for word in (spec.file, "lm_head.weight", str(spec.offset), "Input/output error"):
        assert word in str(caught.value)


def test_files_are_opened_at_the_first_read_and_once_by_many_threads(checkpoint, tensors):
    wrong = []

    def work(shards):
        for name, spec in checkpoint.tensors.items():
            if read(shards, spec) != truth(tensors[name]):
                wrong.append(name)

    before = len(os.listdir("/proc/self/fd"))
    with Shards(checkpoint) as shards:
        assert len(os.listdir("/proc/self/fd")) == before
        threads = [threading.Thread(target=work, args=(shards,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(os.listdir("/proc/self/fd")) == before + 2
    assert len(os.listdir("/proc/self/fd")) == before
    assert not wrong


def test_advice_beyond_the_end_is_harmless(checkpoint):
    spec = next(iter(checkpoint.tensors.values()))
    with Shards(checkpoint) as shards:
        shards.advise(spec, 0, 2**40)
        shards.advise(spec, spec.n_bytes, 10)


@pytest.mark.slow
def test_a_read_larger_than_one_system_call_is_whole(tmp_path):
    from pico import raw_safetensors

    n_bytes = 2**31 + 12345
    header = {"w": {"dtype": "U8", "shape": [n_bytes], "data_offsets": [0, n_bytes]}}
    path = raw_safetensors(tmp_path / "model.safetensors", header)
    os.truncate(path, path.stat().st_size + n_bytes)  # sparse
    with open(path, "r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"tail!")
    checkpoint = open_checkpoint(tmp_path)
    with Shards(checkpoint) as shards:
        assert read(shards, checkpoint.tensors["w"])[-5:] == b"tail!"
