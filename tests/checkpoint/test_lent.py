"""A fork's reads: what it copied counts only while the block was there, and every question has one answer."""

from types import SimpleNamespace

import pytest

from expo.checkpoint import blocks
from expo.checkpoint.blocks import Buffer
from expo.checkpoint.lent import BorrowedShard, Failed
from expo.errors import HubUnreachable

CONTENT = bytes(range(256)) * 16
SPEC = SimpleNamespace(name="w", offset=0, n_bytes=len(CONTENT))


class Answers:
    """The other end of the pipe."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def send(self, question):
        self.asked.append(question[2:])

    def recv(self):
        return self.answers.pop(0)


@pytest.fixture
def buffers(monkeypatch):
    """Two buffers with the blocks of a file."""
    monkeypatch.setattr(blocks, "BLOCK", 2048)
    made = [Buffer(0), Buffer(1)]
    for number, buffer in enumerate(made):
        buffer.reuse()
        buffer.bytes[:] = CONTENT[2048 * number : 2048 * number + 2048]
    return made


def shard(buffers, pipe):
    owner = SimpleNamespace(role="sft", pipe=pipe, buffers=buffers)
    return BorrowedShard(SimpleNamespace(name="m"), owner)


def read(reader, at, n):
    out = bytearray(n)
    reader.read_into(memoryview(out), SPEC, at)
    return bytes(out)


def test_each_block_is_asked_for_once_while_it_stays(buffers):
    pipe = Answers((0, 1), (1, 1))
    reader = shard(buffers, pipe)
    for at in range(0, len(CONTENT), 500):
        n = min(500, len(CONTENT) - at)
        assert read(reader, at, n) == CONTENT[at : at + n]
    assert pipe.asked == [(0, 500), (2048, 452)]


def test_a_block_that_has_gone_is_asked_for_again(buffers):
    pipe = Answers((0, 1), (1, 2))
    reader = shard(buffers, pipe)
    assert read(reader, 10, 100) == CONTENT[10:110]
    buffers[0].reuse()
    buffers[0].bytes[:] = bytes(2048)
    buffers[1].reuse()
    buffers[1].bytes[:] = CONTENT[:2048]
    assert read(reader, 110, 100) == CONTENT[110:210]
    assert pipe.asked == [(10, 100), (110, 100)]


def test_a_lone_reads_bytes_come_by_the_pipe(buffers):
    pipe = Answers(CONTENT[700:3000])
    assert read(shard(buffers, pipe), 700, 2300) == CONTENT[700:3000]


def test_an_error_is_the_same_in_the_fork(buffers):
    pipe = Answers(Failed("HubUnreachable", "org/m: byte 7 cannot be read"), Failed("", "boom"))
    reader = shard(buffers, pipe)
    with pytest.raises(HubUnreachable, match="byte 7"):
        read(reader, 7, 1)
    with pytest.raises(RuntimeError, match="boom"):
        read(reader, 7, 1)
