"""Small tensors of files on the Hub that are read out of their turn: one request brings the neighbours too.

The scales of float8 tensors are some kilobytes each, and one request each would cost more time than all their weights.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from expo.checkpoint.spec import TensorSpec, WeightFile

RUN = 1 << 20  # bytes of one request, unless a tensor is larger
HELD = 4  # runs that are kept at a time
_GAP = 1 << 16  # bytes of no interest that a request may bring along
_AT_ONCE = 8

Fetch = Callable[[memoryview, str, int], None]


class Neighbours:
    """Runs of tensors that lie close together in a file; a run is fetched once, and kept for a while.

    Safe from any thread.
    """

    def __init__(self, files: Mapping[str, WeightFile], specs: Iterable[TensorSpec], fetch: Fetch | None = None):
        """fetch: fills a buffer with the bytes of a file from a place on; default by requests of this process."""
        self.fetch = fetch or (lambda out, name, at: files[name].remote.read_into(out, at))
        self.runs = _runs(spec for spec in specs if files[spec.file].remote)
        self._of = {(spec.file, spec.offset): k for k, run in enumerate(self.runs) for spec in run}
        self._held: OrderedDict[int, memoryview] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, spec: TensorSpec) -> bool:
        return (spec.file, spec.offset) in self._of

    def read_into(self, out: memoryview, spec: TensorSpec, start: int = 0) -> None:
        """Fill `out` with bytes [start, start + len(out)) of one tensor. Raises a HubError, or ChangedFile."""
        k = self._of[spec.file, spec.offset]
        with self._lock:
            content = self._held.pop(k, None)
            content = self._held[k] = self._fetched(k) if content is None else content
            if len(self._held) > HELD:
                self._held.popitem(last=False)
        at = spec.offset - self.runs[k][0].offset + start
        out[:] = content[at : at + len(out)]

    def everything(self) -> Iterator[tuple[TensorSpec, memoryview]]:
        """Each tensor and its bytes, several requests at a time; none is kept here."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for first in range(0, len(self.runs), _AT_ONCE):
                some = range(len(self.runs))[first : first + _AT_ONCE]
                for k, content in zip(some, pool.map(self._fetched, some), strict=True):
                    run = self.runs[k]
                    for spec in run:
                        yield spec, content[spec.offset - run[0].offset :][: spec.n_bytes]

    def _fetched(self, k: int) -> memoryview:
        run = self.runs[k]
        content = bytearray(run[-1].offset + run[-1].n_bytes - run[0].offset)
        self.fetch(memoryview(content), run[0].file, run[0].offset)
        return memoryview(content)


def _runs(specs: Iterable[TensorSpec]) -> list[list[TensorSpec]]:
    """Tensors in the order in which they lie, cut where a request should end."""
    runs: list[list[TensorSpec]] = []
    for spec in sorted(dict.fromkeys(specs), key=lambda spec: (spec.file, spec.offset)):
        run = runs[-1] if runs else []
        goes_on = run and run[0].file == spec.file and spec.offset + spec.n_bytes - run[0].offset <= RUN
        if goes_on and spec.offset - run[-1].offset - run[-1].n_bytes <= _GAP:
            run.append(spec)
        else:
            runs.append([spec])
    return runs
