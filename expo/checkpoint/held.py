"""A checkpoint's tensors read once into memory, for those who compute from them many times."""

import threading
from typing import Self

from expo.checkpoint.shard import Shards
from expo.checkpoint.spec import Checkpoint, TensorSpec


class Held(Shards):
    """The same reads as Shards, from memory. Safe from any thread; what it holds outlasts every `with`."""

    def __init__(self, checkpoint: Checkpoint):
        super().__init__(checkpoint)
        self._bytes: dict[tuple[str, int, int], memoryview] = {}  # file, first byte and length of a stored tensor
        with Shards(checkpoint) as disk:
            for spec in checkpoint.tensors.values():
                for part in spec.parts:
                    self._hold(part, disk)

    def _hold(self, part: TensorSpec, disk: Shards) -> None:
        key = (part.file, part.offset, part.n_bytes)
        if key not in self._bytes:  # tied tensors of a .bin share their bytes
            self._bytes[key] = memoryview(bytearray(part.n_bytes))
            disk.read_into(self._bytes[key], part)

    @property
    def n_bytes(self) -> int:
        """The memory that it takes."""
        return sum(map(len, self._bytes.values()))

    def _read_stored(self, out: memoryview, spec: TensorSpec, start: int) -> None:
        held = self._bytes.get((spec.file, spec.offset, spec.n_bytes))
        if held is None:  # a tensor that the checkpoint did not have when it was read
            super()._read_stored(out, spec, start)
        else:
            out = memoryview(out).cast("B")
            out[:] = held[start : start + len(out)]

    def advise(self, spec: TensorSpec, start: int, n_bytes: int) -> None:
        """Memory needs no hint."""

    def __enter__(self) -> Self:
        self._local = threading.local()  # views keep their last block by thread, and threads end with a pass
        return self
