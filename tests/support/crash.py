"""Runs in forked children that are killed at any step, and what they leave behind.

A child is forked from a process that has torch loaded, so that a kill costs milliseconds. What it patches is its own.
"""

import itertools
import math
import mmap
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import xxhash
from pico import LLAMA, nudged, write_checkpoint

import expo.stream  # before the first fork, so that no child has to load it
from expo.output import folder, partial

_COUNTED = [
    *((os, name) for name in ("fsync", "rename", "unlink", "rmdir", "mkdir", "pwrite", "write", "ftruncate")),
    (shutil, "copyfileobj"),
    (Path, "write_text"),
    (partial, "_exchange"),
]
SIDE_FILES = {"tokenizer.json": '{"version": "1.0"}', "chat/template.jinja": "{{ messages }}", "LICENSE": "free"}


class Pair(NamedTuple):
    """Two checkpoints to extrapolate between."""

    sft: Path
    dpo: Path

    def write(self, output: Path, **options: Any):
        """Run to the end, in this process unless a child calls it; returns the run's Report."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # the look at the pair before the run: two threads wait for each other on a busy core
        try:
            return expo.extrapolate(sft=self.sft, dpo=self.dpo, output=output, **{"threads": 1, **options})
        finally:
            torch.set_num_threads(before)

    def argv(self, output: Path, *options: str) -> list[str]:
        """The same run as arguments of the command line."""
        return ["extrapolate", "--sft", str(self.sft), "--dpo", str(self.dpo), "-o", str(output), *options]


def pair_of(tmp: Path, shapes: dict[str, tuple[int, ...]], *, n_kept: int = 9, shards: int = 2, **extra: Any) -> Pair:
    """Folders tmp/sft and tmp/dpo: bfloat16 tensors of these shapes, and the same after a small step."""
    noise = torch.Generator().manual_seed(0)
    # Cut from one block, which is quick to make; no tile or segment is a multiple of its length.
    block = {"block": (torch.randn(50_021, generator=noise) * 0.05).bfloat16()}
    # The last is no float: it is copied as it is.
    kept = {"kept": (torch.arange(n_kept) % 251).to(torch.uint8)}
    options = {"config": {**LLAMA, "dtype": "bfloat16"}, "side_files": SIDE_FILES, **extra}
    return Pair(
        write_checkpoint(tmp / "sft", _cut(block["block"], shapes) | kept, shards=shards, **options),
        write_checkpoint(tmp / "dpo", _cut(nudged(block)["block"], shapes) | kept, shards=shards, **options),
    )


def _cut(block: torch.Tensor, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors of these shapes that repeat a block, each from another place on."""
    return {
        name: block.roll(7919 * k).repeat(-(-math.prod(shape) // len(block)))[: math.prod(shape)].reshape(shape)
        for k, (name, shape) in enumerate(shapes.items())
    }


def small_pair(tmp: Path, **extra: Any) -> Pair:
    """Four tensors of a few kilobytes: a run of few steps."""
    return pair_of(tmp, {"a": (8, 16), "b": (16, 16), "c": (3, 5), "d": (7,)}, **extra)


def long_pair(tmp: Path) -> Pair:
    """Tensors of two segments, computed and copied, and smaller ones; 5 MiB a model."""
    layers = {f"model.layers.{i}.mlp.up_proj.weight": (128, 512) for i in range(8)}
    shapes = {"model.embed_tokens.weight": (2080, 512), **layers, "model.norm.weight": (512,)}
    return pair_of(tmp, shapes, n_kept=1_100_000)


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder -> hash of its content; two equal trees hold the same files, byte for byte."""
    return {
        str(path.relative_to(folder)): xxhash.xxh3_128_hexdigest(path.read_bytes()) if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def partial_of(output: Path) -> Path:
    """The folder in which `output` is built."""
    return output.with_name(f"{output.name}.partial")


def journal_lines(output: Path) -> list[bytes]:
    """The whole lines that a run has journalled so far."""
    journal = partial_of(output) / "journal-0"
    return [line for line in journal.read_bytes().splitlines(True) if line.endswith(b"\n")] if journal.exists() else []


# --- Children --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a child ended: by which signal, or with which exit code, value or error, and what it printed."""

    signal: int
    code: int
    value: Any
    error: tuple[str, ...]  # names of the error's class and its parents; () where there was none
    text: str  # the error's message
    out: str
    err: str


class Child:
    """A call that runs in a fork of this process."""

    def __init__(self, call: Callable[[], Any]):
        self.files = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115  (closed in wait)
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _be_child(call, *self.files)

    def wait(self, timeout: float = 120) -> Ended:
        """Wait for the end; a child that hangs is killed, and fails the test."""
        until = time.monotonic() + timeout
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"the child still ran after {timeout} s\n{self._text(2)}")
            time.sleep(0.001)
        code = os.waitstatus_to_exitcode(ended[1])
        result = self._bytes(0)
        value, error, text = pickle.loads(result) if result else (None, (), "")
        out, err = self._text(1), self._text(2)
        for file in self.files:
            file.close()
        return Ended(max(0, -code), max(0, code), value, error, text, out, err)

    def kill(self) -> Ended:
        """kill -9, whatever it is doing."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def _bytes(self, i: int) -> bytes:
        self.files[i].seek(0)
        return self.files[i].read()

    def _text(self, i: int) -> str:
        return self._bytes(i).decode(errors="replace")


def forked(call: Callable[[], Any]) -> Ended:
    """Run a call in a child to its end."""
    return Child(call).wait()


def command_line(*arguments: str) -> None:
    """What `expo ARGUMENTS` does, for a child that has everything loaded."""
    from expo.cli.main import main

    sys.argv = ["expo", *arguments]
    main()


def _be_child(call: Callable[[], Any], result, out, err) -> None:
    value, error, text, code = None, (), "", 0
    try:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)  # a pool of threads does not survive a fork
        value = call()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException as raised:
        error, text, code = tuple(kind.__name__ for kind in type(raised).__mro__), str(raised), 1
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        result.write(pickle.dumps((value, error, text)))
        result.flush()
        os._exit(code)


# --- Steps -----------------------------------------------------------------------------------------------------------


class Steps:
    """The calls of a child that change the disk, counted from 0; `act(step, name)` is called around each.

    Call i is step 2 i right before it happens and step 2 i + 1 right after. What `act` raises, the call raises; what
    it calls itself is not counted.
    """

    def __init__(self, act: Callable[[int, str], None] = lambda step, name: None, *, sync: bool = False):
        self.act = act
        self.names: list[str] = []
        self.numbers = itertools.count()
        self.armed = True
        self.inside = threading.local()
        for home, name in _COUNTED:
            setattr(home, name, self._around(name.strip("_"), getattr(home, name)))
        partial.open = self._around("open", open)
        if not sync:  # a kill loses nothing that the kernel was given
            self._no_fsync()

    def _around(self, name: str, real: Callable) -> Callable:
        def counted(*arguments, **options):
            if not self.armed or getattr(self.inside, "act", False):
                return real(*arguments, **options)
            step = 2 * next(self.numbers)
            self.names.append(name)
            self._acted(step, name)
            found = real(*arguments, **options)
            self._acted(step + 1, name)
            return found

        return counted

    def _acted(self, step: int, name: str) -> None:
        self.inside.act = True
        try:
            self.act(step, name)
        finally:
            self.inside.act = False

    def _no_fsync(self) -> None:
        os.fsync = self._around("fsync", lambda fd: None)

    def only_while_publishing(self) -> "Steps":
        """Count from the moment at which all that remains is to publish."""
        real, self.armed = folder.FolderSink.publish, False

        def publish(sink):
            self.armed = True
            real(sink)

        folder.FolderSink.publish = publish
        return self


def die_at(wanted: int) -> Callable[[int, str], None]:
    """An `act` that kills its own process at one step."""

    def act(step: int, name: str) -> None:
        if step == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def without_exchange() -> None:
    """Make this process believe that the file system cannot exchange two folders."""
    partial._exchange = lambda one, other: False


class Counter:
    """A number that a child counts up and its parent reads."""

    def __init__(self):
        self.memory = mmap.mmap(-1, 8)

    @property
    def value(self) -> int:
        return int.from_bytes(self.memory[:8], "little")

    @value.setter
    def value(self, value: int) -> None:
        self.memory[:8] = value.to_bytes(8, "little")


def killed_in_mid_stream(pair: Pair, output: Path, *, segments: int = 1, **options: Any) -> None:
    """Kill a run right after so many segments were journalled (of one thread; the next may be half written)."""

    def doomed() -> None:
        writes = itertools.count(1)

        def act(step: int, name: str) -> None:
            if name == "write" and step % 2 and next(writes) == segments:
                os.kill(os.getpid(), signal.SIGKILL)

        Steps(act)
        pair.write(output, **options)

    ended = forked(doomed)
    assert ended.signal == signal.SIGKILL, ended.err
