"""A boxed tensor as strips of flat indices: which of its elements, in storage order, are which of a part's. No data."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

from expo.checkpoint.spec import TensorSpec
from expo.checkpoint.views.boxes import Box, Boxed, row_major


@dataclass(frozen=True, slots=True)
class Walk:
    """Along one axis: how many elements, and how far apart they lie in the output and in the part."""

    size: int
    out: int
    part: int


@dataclass(frozen=True, slots=True)
class Strip:
    """Element `out` of the output is element `at` of the part, and so on along the walks, the widest first."""

    part: TensorSpec
    at: int
    out: int
    walks: tuple[Walk, ...]

    @property
    def last(self) -> int:
        """The last element of the output that it gives."""
        return self.out + sum((walk.size - 1) * walk.out for walk in self.walks)

    @property
    def n(self) -> int:
        total = 1
        for walk in self.walks:
            total *= walk.size
        return total

    @property
    def is_run(self) -> bool:
        """Whether its elements lie together and in order on both sides."""
        return not self.walks or (len(self.walks) == 1 and self.walks[0].out == self.walks[0].part == 1)

    def within(self, low: int, high: int) -> "Iterator[Strip]":
        """What of it lies at [low, high) of the output."""
        last = self.last
        if last < low or self.out >= high:
            return
        if self.out >= low and last < high:
            yield self
            return
        outer, inner = self.walks[0], self.walks[1:]
        reach = 1 + sum((walk.size - 1) * walk.out for walk in inner)  # of one row; rows do not interleave
        first = max(0, -((self.out - low) // outer.out))  # rows [first, stop) lie inside
        stop = max(first, min(outer.size, (high - reach - self.out) // outer.out + 1))
        for k in (first - 1, stop):  # those at the borders, cut further
            if inner and 0 <= k < outer.size:
                yield from self._row(k, inner).within(low, high)
        if stop > first:
            moved = replace(self, at=self.at + first * outer.part, out=self.out + first * outer.out)
            yield replace(moved, walks=(replace(outer, size=stop - first), *inner))

    def _row(self, k: int, inner: tuple[Walk, ...]) -> "Strip":
        outer = self.walks[0]
        return Strip(self.part, self.at + k * outer.part, self.out + k * outer.out, inner)


class Strips:
    """All strips of a tensor, in the order in which they begin."""

    def __init__(self, tensor: Boxed):
        self.all = sorted((_flat(box, tensor.shape) for box in tensor.boxes), key=lambda strip: strip.out)
        self._reach = list(accumulate((strip.last for strip in self.all), max))
        self._starts = [strip.out for strip in self.all]
        self.are_runs = all(strip.is_run for strip in self.all)

    def is_all_of(self, spec: TensorSpec) -> bool:
        """Whether the tensor's elements, in order, are those of `spec` and no more, however many strips say so."""
        return sum(strip.n for strip in self.all) == spec.n_elements and all(
            strip.part is spec and strip.at == strip.out and all(walk.out == walk.part for walk in strip.walks)
            for strip in self.all
        )

    def within(self, low: int, high: int) -> Iterator[Strip]:
        """The strips, cut where they must be, of elements [low, high)."""
        # Strips that begin before `low` may reach into it; the running maximum says where none does.
        for k in range(bisect_left(self._reach, low), bisect_left(self._starts, high)):
            yield from self.all[k].within(low, high)


def _flat(box: Box, shape: tuple[int, ...]) -> Strip:
    """A box in flat indices, with axes taken together where they go on evenly on both sides."""
    strides = row_major(shape)
    out = sum(axis.start * stride for axis, stride in zip(box.axes, strides, strict=True))
    walks: list[Walk] = []
    for axis, stride in zip(box.axes, strides, strict=True):
        if axis.size == 1:
            continue
        new = Walk(axis.size, axis.step * stride, axis.stride)
        if walks and walks[-1].out == new.out * new.size and walks[-1].part == new.part * new.size:
            new = Walk(walks.pop().size * new.size, new.out, new.part)
        walks.append(new)
    return Strip(box.part, box.at, out, tuple(walks))
