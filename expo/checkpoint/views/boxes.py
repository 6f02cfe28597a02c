"""Tensors described as boxes cut out of other tensors: stacked, joined, cut, transposed, reshaped. Moves no data.

A box says which elements of an output are which elements of one part: along each axis of the output the positions
start, start + step, ... (size of them), and how many elements of the part lie between two neighbours (its stride).
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from expo.checkpoint.spec import TensorSpec

_MOST = 65_536  # boxes of one tensor; no layout that models are stored in comes near


class NotExpressible(Exception):
    """A change of layout that boxes do not describe."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Where a box lies along one axis of the output, and how it walks through its part."""

    start: int
    step: int
    size: int
    stride: int


@dataclass(frozen=True, slots=True)
class Box:
    """Some elements of one part: the first of them is element `at`."""

    part: TensorSpec
    at: int
    axes: tuple[Axis, ...]

    def with_axis(self, k: int, *axes: Axis, skipped: int = 0) -> "Box":
        """The box with other axes in the place of the k-th, and its first element moved on."""
        return Box(self.part, self.at + skipped, (*self.axes[:k], *axes, *self.axes[k + 1 :]))


@dataclass(frozen=True, slots=True)
class Boxed:
    """A tensor made of boxes, which cover each of its elements once."""

    shape: tuple[int, ...]
    boxes: tuple[Box, ...]

    @classmethod
    def whole(cls, spec: TensorSpec) -> "Boxed":
        """A stored tensor, or a view, as it is."""
        strides = row_major(spec.shape)
        axes = tuple(Axis(0, 1, n, stride) for n, stride in zip(spec.shape, strides, strict=True))
        return cls(spec.shape, (Box(spec, 0, axes),))

    def split(self, sizes: Sequence[int], axis: int) -> "list[Boxed]":
        """Consecutive pieces along an axis."""
        ends = list(accumulate(sizes, initial=0))
        if ends[-1] != self.shape[axis]:
            raise NotExpressible(f"{self.shape} does not split into {list(sizes)} along axis {axis}")
        held: list[list[Box]] = [[] for _ in sizes]
        for box in self.boxes:
            own = box.axes[axis]
            first = bisect_right(ends, own.start) - 1
            last = bisect_right(ends, own.start + own.step * (own.size - 1)) - 1
            for k in range(first, last + 1):
                if cut := _between(box, axis, ends[k], ends[k + 1]):
                    held[k].append(cut)
        shapes = [(*self.shape[:axis], n, *self.shape[axis + 1 :]) for n in sizes]
        return [Boxed(shape, tuple(boxes)) for shape, boxes in zip(shapes, held, strict=True)]

    def narrowed(self, axis: int, start: int, stop: int) -> "Boxed":
        """Positions [start, stop) along an axis."""
        n = self.shape[axis]
        return self.split([start, stop - start, n - stop], axis)[1]

    def squeezed(self, axis: int) -> "Boxed":
        """Without an axis of one element."""
        shape = (*self.shape[:axis], *self.shape[axis + 1 :])
        return Boxed(shape, tuple(box.with_axis(axis) for box in self.boxes))

    def unsqueezed(self, axis: int) -> "Boxed":
        """With an axis of one element before the given one."""
        boxes = (replace(box, axes=(*box.axes[:axis], Axis(0, 1, 1, 0), *box.axes[axis:])) for box in self.boxes)
        return Boxed((*self.shape[:axis], 1, *self.shape[axis:]), tuple(boxes))

    def permuted(self, order: Sequence[int]) -> "Boxed":
        """With its axes in another order."""
        boxes = (replace(box, axes=tuple(box.axes[k] for k in order)) for box in self.boxes)
        return Boxed(tuple(self.shape[k] for k in order), tuple(boxes))

    def turned(self) -> tuple[TensorSpec, tuple[int, ...]] | None:
        """(a tensor, the order of its axes) where this is that tensor with its axes in another order, and no more."""
        part, at = self.boxes[0].part, self.boxes[0].at
        axes = self.boxes[0].axes
        if len(self.boxes) > 1 or at or any(axis.start or axis.step != 1 for axis in axes):
            return None
        own = list(zip(part.shape, row_major(part.shape), strict=True))
        order = []
        for axis in axes:
            fits = (k for k, pair in enumerate(own) if k not in order and pair == (axis.size, axis.stride))
            order.append(next(fits, None))
        return None if None in order or len(order) != len(own) else (part, tuple(order))

    def reshaped(self, shape: Sequence[int]) -> "Boxed":
        """The same elements in the same order under another shape."""
        if math.prod(shape) != math.prod(self.shape):
            raise NotExpressible(f"{self.shape} does not become {tuple(shape)}")
        found = self
        for k in reversed(range(len(self.shape))):
            if self.shape[k] == 1:
                found = found.squeezed(k)
        for at, n_old, new in reversed(list(_groups(found.shape, [n for n in shape if n != 1]))):
            for _ in range(n_old - 1):
                found = found._merged(at)
            for k, n in enumerate(new[:-1]):
                found = found._parted(at + k, n)
        for k, n in enumerate(shape):
            if n == 1:
                found = found.unsqueezed(k)
        return found

    def _merged(self, k: int) -> "Boxed":
        """Axes k and k + 1 as one."""
        n = self.shape[k + 1]
        shape = (*self.shape[:k], self.shape[k] * n, *self.shape[k + 2 :])
        return Boxed(shape, _checked(piece for box in self.boxes for piece in _merge(box, k, n)))

    def _parted(self, k: int, outer: int) -> "Boxed":
        """Axis k as two, the first of `outer` elements."""
        inner = self.shape[k] // outer
        shape = (*self.shape[:k], outer, inner, *self.shape[k + 1 :])
        return Boxed(shape, _checked(piece for box in self.boxes for piece in _part(box, k, inner)))


def joined(parts: Sequence[Boxed], axis: int) -> Boxed:
    """Tensors one behind the other along an axis."""
    around = {(*part.shape[:axis], *part.shape[axis + 1 :]) for part in parts}
    if len(around) != 1:
        raise NotExpressible(f"shapes {sorted({part.shape for part in parts})} do not join along axis {axis}")
    starts = list(accumulate((part.shape[axis] for part in parts), initial=0))
    boxes = []
    for start, part in zip(starts, parts, strict=False):
        for box in part.boxes:
            own = box.axes[axis]
            boxes.append(box.with_axis(axis, replace(own, start=own.start + start)))
    shape = (*parts[0].shape[:axis], starts[-1], *parts[0].shape[axis + 1 :])
    return Boxed(shape, tuple(boxes))


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Elements between neighbours along each axis of a tensor that lies row by row."""
    return tuple(math.prod(shape[k + 1 :]) for k in range(len(shape)))


def _between(box: Box, axis: int, start: int, stop: int) -> Box | None:
    """What of a box lies at [start, stop) along an axis, counted from `start`."""
    own = box.axes[axis]
    first = max(0, -((own.start - start) // own.step))
    last = min(own.size, -((own.start - stop) // own.step))
    if first >= last:
        return None
    moved = Axis(own.start + own.step * first - start, own.step, last - first, own.stride)
    return box.with_axis(axis, moved, skipped=first * own.stride)


def _merge(box: Box, k: int, n: int) -> Iterator[Box]:
    """A box's axes k and k + 1 as one, where the second has n elements in the output."""
    one, two = box.axes[k], box.axes[k + 1]

    def with_one(axis: Axis, skipped: int = 0) -> Box:
        return Box(box.part, box.at + skipped, (*box.axes[:k], axis, *box.axes[k + 2 :]))

    start = one.start * n + two.start
    if one.size > 1 and two.size > 1 and one.step * n == two.step * two.size and one.stride == two.stride * two.size:
        yield with_one(Axis(start, two.step, one.size * two.size, two.stride))
    elif one.size <= two.size:
        for i in range(one.size):
            yield with_one(Axis(start + one.step * i * n, two.step, two.size, two.stride), i * one.stride)
    else:
        for j in range(two.size):
            yield with_one(Axis(start + two.step * j, one.step * n, one.size, one.stride), j * two.stride)


def _part(box: Box, k: int, inner: int) -> Iterator[Box]:
    """A box's axis k as two, of which the second has `inner` elements in the output."""
    own = box.axes[k]
    if own.size == 1 or own.step % inner == 0:
        row = Axis(own.start // inner, max(1, own.step // inner), own.size, own.stride)
        yield box.with_axis(k, row, Axis(own.start % inner, 1, 1, 0))
        return
    each = inner // own.step
    done = 0
    while done < own.size:
        row, column = divmod(own.start + own.step * done, inner)
        in_row = min(own.size - done, -((column - inner) // own.step))
        alike = inner % own.step == 0 and in_row == each  # else the next row begins in another column
        n_rows, n = ((own.size - done) // each, each) if alike else (1, in_row)
        rows = Axis(row, 1, n_rows, own.stride * each)
        yield box.with_axis(k, rows, Axis(column, own.step, n, own.stride), skipped=done * own.stride)
        done += n_rows * n


def _groups(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[int, int, list[int]]]:
    """(first axis, how many, the axes that take their place) of the smallest runs of axes with equal products."""
    i = j = 0
    while i < len(old):
        first, taken, product, given = i, [new[j]], new[j], old[i]
        i, j = i + 1, j + 1
        while product != given:
            if product < given:
                product, taken, j = product * new[j], [*taken, new[j]], j + 1
            else:
                given, i = given * old[i], i + 1
        yield first, i - first, taken


def _checked(boxes: Iterable[Box]) -> tuple[Box, ...]:
    found = []
    for box in boxes:
        found.append(box)
        if len(found) > _MOST:
            raise NotExpressible(f"more than {_MOST} boxes")
    return tuple(found)
