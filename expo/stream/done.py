"""What is finished of a pass, in arrays: 41 bytes a segment, so that memory hardly grows with the model."""

import itertools
import math
import mmap
import os
from collections.abc import Sequence

import numpy as np

from expo.ops import n_segments
from expo.output.journal import Finished
from expo.planning.jobs import Job
from expo.stream.pieces import Piece


class Done:
    """(job, segment) -> Finished, of a plan's jobs. What a fork notes is seen by the process that it came from."""

    def __init__(self, jobs: Sequence[Job]):
        self.owner = os.getpid()
        self.first = [0, *itertools.accumulate(n_segments(job.n_elements) for job in jobs)]
        n = self.first[-1]
        self.digests = _shared((n, 16), np.uint8)
        self.sums = _shared((n, 3), np.float64)
        self.known = _shared((n,), np.bool_)

    def __setitem__(self, piece: Piece, finished: Finished) -> None:
        at = self.first[piece[0]] + piece[1]
        self.digests[at] = np.frombuffer(bytes.fromhex(finished.digest), np.uint8)
        self.sums[at] = finished.sums
        self.known[at] = True

    @property
    def is_lent(self) -> bool:
        """Whether this is a fork, whose notes need not be sent."""
        return os.getpid() != self.owner

    @property
    def n_missing(self) -> int:
        """Segments that are not finished."""
        return len(self.known) - int(np.count_nonzero(self.known))

    def update(self, other: "Done") -> None:
        """Take what another process noted."""
        for mine, theirs in ((self.digests, other.digests), (self.sums, other.sums), (self.known, other.known)):
            mine[other.known] = theirs[other.known]

    def digest_of(self, index: int) -> str:
        """The digests of a job's segments, one after the other, in hex."""
        return self.digests[self._rows(index)].tobytes().hex()

    def sums_of(self, index: int) -> np.ndarray:
        """The sums of a job's segments, (n, 3)."""
        return self.sums[self._rows(index)]

    def _rows(self, index: int) -> slice:
        return slice(self.first[index], self.first[index + 1])


def _shared(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros in memory that forks share."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, max(1, n_bytes)), dtype, math.prod(shape)).reshape(shape)
