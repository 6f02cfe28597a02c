"""Reads every tensor of a checkpoint once, in constant memory: its hash as a run records it, and what is not finite."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import xxhash

from expo.analysis.finite import count_bad
from expo.analysis.pool import for_each, segments
from expo.checkpoint import Shards
from expo.checkpoint.spec import Checkpoint, TensorSpec
from expo.dtypes import DType
from expo.errors import SourceError
from expo.ops import SEGMENT, elements_of, n_segments

_CHUNK = 512 * 2**10  # bytes read at a time: small enough to be still in the cache when hashed


@dataclass
class Found:
    """What one tensor's bytes are."""

    digest: str = ""  # xxh3-128 over the hex digests of its segments
    n_bad: int = 0  # elements that are not finite
    first_bad: int = -1
    kind: str = ""  # of the first: "nan" or "inf"
    error: str = ""  # why it could not be read


@dataclass(frozen=True, slots=True)
class _Part:
    """One segment's share."""

    digest: str
    n_bad: int
    first_bad: int
    kind: str


class Content:
    """The bytes of one checkpoint, segment by segment."""

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self.parts: dict[tuple[str, int], _Part] = {}
        self.errors: dict[str, str] = {}
        self.lock = threading.Lock()

    def read(self, threads: int, progress: Callable[[int], None] | None = None) -> dict[str, Found]:
        """Read all; tensor -> what was found, in the stored order. A failure to read is a finding, not an error."""
        specs = list(self.checkpoint.tensors.values())
        shards = Shards(self.checkpoint)
        try:
            for_each(segments(specs), lambda: self._worker(shards, progress), threads)
        finally:
            shards.close()
        return {spec.name: self._found(spec) for spec in specs}

    def _worker(self, shards: Shards, progress: Callable[[int], None] | None) -> Callable:
        buffer = memoryview(bytearray(_CHUNK))

        def work(piece: tuple[TensorSpec, int]) -> None:
            spec, segment = piece
            if spec.name in self.errors:
                return
            first, last = (spec.dtype.n_bytes(at) for at in elements_of(segment, spec.n_elements))
            try:
                self.parts[spec.name, segment] = _read(shards, buffer, spec, first, last)
            except SourceError as error:
                with self.lock:
                    self.errors.setdefault(spec.name, str(error))
            if progress:
                progress(last - first)

        return work

    def _found(self, spec: TensorSpec) -> Found:
        if spec.name in self.errors:
            return Found(error=self.errors[spec.name])
        parts = [self.parts[spec.name, segment] for segment in range(n_segments(spec.n_elements))]
        found = Found(xxhash.xxh3_128_hexdigest("".join(part.digest for part in parts).encode()))
        for segment, part in enumerate(parts):
            if part.n_bad and not found.n_bad:
                found.first_bad, found.kind = segment * SEGMENT + part.first_bad, part.kind
            found.n_bad += part.n_bad
        return found


def _read(shards: Shards, buffer: memoryview, spec: TensorSpec, first: int, last: int) -> _Part:
    """Hash and look through bytes [first, last) of a tensor."""
    state = xxhash.xxh3_128()
    n_bad, first_bad, kind = 0, -1, ""
    for at in range(first, last, _CHUNK):
        chunk = buffer[: min(_CHUNK, last - at)]
        shards.read_into(chunk, spec, at)
        state.update(chunk)
        if spec.dtype.computed:
            n, index, what = count_bad(chunk, spec.dtype)
            if n and not n_bad:
                first_bad, kind = _elements(at - first, spec.dtype) + index, what
            n_bad += n
    return _Part(state.hexdigest(), n_bad, first_bad, kind)


def _elements(n_bytes: int, dtype: DType) -> int:
    return n_bytes * 8 // dtype.bits
