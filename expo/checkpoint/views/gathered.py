"""A tensor whose elements are other tensors' elements in another order: experts stacked, halves joined, axes swapped.

Only bytes move, so no reader's cuts change a bit. Where the parts' elements lie together, they are read straight into
the reader's buffer; else a window of the output is put together at a time.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import xxhash
from numpy.lib.stride_tricks import as_strided

from expo.checkpoint.spec import TensorSpec
from expo.checkpoint.views.boxes import Boxed
from expo.checkpoint.views.nested import Read, Touched, stored_parts, through, touched
from expo.checkpoint.views.strips import Strip, Strips
from expo.dtypes import DType

WINDOW = 1 << 20  # elements: a segment, which one thread works on
_FETCHED = 1 << 24  # bytes of the parts that are read at once
_CALL = 10_000  # bytes that are read in the time that a call costs
_PANEL = 64  # elements of a row that are turned at once: so many columns stay in the cache


class Gathered:
    """The view of a boxed tensor of elements of one type."""

    def __init__(self, tensor: Boxed, dtype: DType):
        self.tensor, self.dtype = tensor, dtype
        self.strips = Strips(tensor)
        self.width = dtype.bits // 8
        self.inputs = tuple(dict.fromkeys(box.part for box in tensor.boxes))
        self.parts = stored_parts(self.inputs)
        self.n_elements = sum(strip.n for strip in self.strips.all)

    def __reduce__(self) -> tuple[Any, ...]:
        return Gathered, (self.tensor, self.dtype)

    @property
    def n_bytes_stored(self) -> int:
        """Each of its elements is read once, however large its parts are."""
        shares = (strip.n / max(1, strip.part.n_elements) * strip.part.n_bytes_stored for strip in self.strips.all)
        return round(sum(shares))

    @property
    def scratch_bytes(self) -> int:
        """A window and what is fetched for it, unless parts are read straight; and what parts that are views need."""
        below = max((part.view.scratch_bytes for part in self.inputs if part.view), default=0)
        return below + (0 if self.strips.are_runs else WINDOW * self.width + 2 * _FETCHED)

    def __repr__(self) -> str:
        names = [(strip.part.name, strip.part.view, strip.at, strip.out, strip.walks) for strip in self.strips.all]
        return f"Gathered({xxhash.xxh3_128_hexdigest(repr(names).encode())}, {self.dtype})"

    def touched(self, start: int, n_bytes: int) -> Touched:
        """Where the bytes of a piece come from, strip by strip; nothing for a piece of many."""
        low, high = start // self.width, -(-(start + n_bytes) // self.width)
        found = list(self.strips.within(low, high))
        for strip in found if len(found) <= 16 else ():
            reach = 1 + sum((walk.size - 1) * walk.part for walk in strip.walks)
            yield from touched(strip.part, strip.at * self.width, reach * self.width)

    def read_into(self, out: memoryview, start: int, read: Read, held: dict[str, Any]) -> None:
        """Fill `out` with bytes [start, start + len(out)) of the tensor."""
        out = memoryview(out).cast("B")
        get, width = through(read, held), self.width
        if self.strips.are_runs:
            for strip in self.strips.within(start // width, -(-(start + len(out)) // width)):
                skipped = max(0, start - strip.out * width)  # a reader may begin inside an element
                to = strip.out * width + skipped - start
                n = min(strip.n * width - skipped, len(out) - to)
                get(out[to : to + n], strip.part, strip.at * width + skipped)
            return
        done = 0
        while done < len(out):
            index, inside = divmod(start + done, WINDOW * width)
            window = self._window(index, get, held)
            n = min(len(out) - done, len(window) - inside)
            out[done : done + n] = window[inside : inside + n]
            done += n

    def _window(self, index: int, get: Read, held: dict[str, Any]) -> memoryview:
        """The bytes of one window; the last one stays in `held`."""
        kept = held.get("window")
        if kept is None or kept[0] is not self or kept[1] != index:
            low, high = index * WINDOW, min((index + 1) * WINDOW, self.n_elements)
            buffer = held.pop("window")[2] if kept and len(kept[2]) >= (high - low) * self.width else None
            if buffer is None:
                buffer = np.empty(WINDOW * self.width, np.uint8)
            filled = buffer[: (high - low) * self.width].view(f"u{self.width}")
            for strip in self.strips.within(low, high):
                self._fetch(strip, filled[strip.out - low :], get)
            held["window"] = (self, index, buffer)
        return memoryview(held["window"][2])[: min(WINDOW, self.n_elements - index * WINDOW) * self.width]

    def _fetch(self, strip: Strip, out: np.ndarray, get: Read) -> None:
        """One strip into `out`, which begins at its first element."""
        if strip.is_run:
            get(memoryview(out[: strip.n].view(np.uint8)), strip.part, strip.at * self.width)
            return
        for piece in self._bounded(strip):
            self._turn(piece, out[piece.out - strip.out :], get)

    def _bounded(self, strip: Strip) -> "list[Strip]":
        """The strip in pieces whose parts' elements fit into memory together."""
        ways = self._ways(strip)
        if ways[1] * self.width <= _FETCHED or not strip.walks:
            return [strip]
        k = max(range(len(strip.walks)), key=lambda k: strip.walks[k].size)
        walk = strip.walks[k]
        half = walk.size // 2
        rest = replace(strip, at=strip.at + half * walk.part, out=strip.out + half * walk.out)
        halves = (
            replace(one, walks=(*strip.walks[:k], replace(walk, size=n), *strip.walks[k + 1 :]))
            for one, n in ((strip, half), (rest, walk.size - half))
        )
        return [piece for one in halves for piece in self._bounded(one)]

    def _ways(self, strip: Strip) -> tuple[int, int]:
        """(how many axes of the part to go through call by call, elements fetched in all), as costs the least time."""
        sizes = sorted(strip.walks, key=lambda walk: -walk.part)
        best = None
        for k in range(len(sizes) + 1):
            calls = 1
            for walk in sizes[:k]:
                calls *= walk.size
            fetched = calls * (1 + sum((walk.size - 1) * walk.part for walk in sizes[k:]))
            cost = calls * _CALL + fetched * self.width
            if best is None or cost < best[0]:
                best = (cost, k, fetched)
        return best[1], best[2]

    def _turn(self, strip: Strip, out: np.ndarray, get: Read) -> None:
        """Fetch the part's elements in the part's order, and put them in the output's."""
        order = sorted(strip.walks, key=lambda walk: -walk.part)
        k, _ = self._ways(strip)
        shape = tuple(walk.size for walk in order)
        reach = 1 + sum((walk.size - 1) * walk.part for walk in order[k:])
        calls = np.prod(shape[:k], dtype=np.int64)
        fetched = np.empty((calls, reach), f"u{self.width}")
        for row, place in zip(fetched, np.ndindex(*shape[:k]), strict=True):
            at = strip.at + sum(i * walk.part for i, walk in zip(place, order, strict=False))
            get(memoryview(row.view(np.uint8)), strip.part, at * self.width)
        outer = [int(np.prod(shape[i + 1 : k], dtype=np.int64)) * reach for i in range(k)]
        steps = [*outer, *(walk.part for walk in order[k:])]
        source = as_strided(fetched, shape, [step * self.width for step in steps], writeable=False)
        target = as_strided(out, shape, [walk.out * self.width for walk in order])
        for first in range(0, shape[-1], _PANEL):
            target[..., first : first + _PANEL] = source[..., first : first + _PANEL]


def as_spec(name: str, tensor: Boxed) -> TensorSpec:
    """A boxed tensor as one of a checkpoint: the stored tensor itself where it is nothing else.

    Raises ValueError where its parts are of several types.
    """
    first = tensor.boxes[0].part
    types = {(box.part.dtype, box.part.stored_dtype) for box in tensor.boxes}
    if len(types) > 1:
        raise ValueError(f"made of {', '.join(sorted({stored.name for _, stored in types}))}")
    view = Gathered(tensor, first.dtype)
    if view.strips.is_all_of(first):
        return first if first.shape == tensor.shape else replace(first, shape=tensor.shape)
    n_bytes = first.dtype.n_bytes(view.n_elements)
    return TensorSpec(name, first.dtype, tensor.shape, first.file, 0, n_bytes, view, first.stored_dtype)
