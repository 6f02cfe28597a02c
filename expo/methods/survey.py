"""What a method may ask about whole tensors before it is applied: exact sums, and the exact k-th magnitude.

A survey is a generator. It receives a group of tensors (one, or all of the model), yields requests, is sent the
answers, and returns one value for each tensor, which `apply` finds in `here.surveyed`. A request costs one streamed
pass, which the surveys of all groups share. Nothing here touches tensors: `stream` answers.
"""

import struct
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expo.methods.declare import Surveyed
from expo.methods.windows import Runs, Sample, Windows, in_windows

if TYPE_CHECKING:
    from torch import Tensor

Terms = Callable[..., "Iterable[Tensor]"]  # called as `apply` is, returns tensors (n,)

DIGIT = 16  # bits of a float that one pass tells apart
SHIFTS = {4: (15, 0), 8: (47, 31, 15, 0)}  # bytes of a float -> where its digits begin; the sign bit is always 0


@dataclass(frozen=True, slots=True)
class Sums:
    """The sum over all elements of each term. Answer: for each tensor a list of floats.

    Terms are added element by element into lanes, segment by segment, and those in float64: the same bits always.
    known: what is known of each tensor, which the terms find in `here.surveyed`.
    """

    terms: Terms
    known: Sequence[Any] | None = None


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many elements of each term have which value of one digit of their bits.

    Answer: [tensor][term] -> (digits, how many of each), two arrays.

    wide: bytes of the floats. within: for each term the bits above the digit that an element must have.
    Terms must not be negative.
    """

    terms: Terms
    wide: int
    level: int
    within: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Ties:
    """How many elements of each term equal a value, segment by segment. Answer: [tensor][term] -> list of counts."""

    terms: Terms
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """The index of the n-th element (from 0) after `start` that equals a value. Answer: the index, for each asked.

    It must lie in the segment of `start`.
    """

    terms: Terms
    asked: tuple[tuple[int, int, int, float, int], ...]  # tensor, start, term, value, n


Request = Sums | Histogram | Ties | Place | Sample | Windows


@dataclass(frozen=True, slots=True)
class Cut:
    """Which elements of a term are among the k largest: those above `value`, and those equal to it before an index."""

    value: float
    before: int = 0


EVERYTHING = Cut(0.0, 1 << 62)
NOTHING = Cut(float("inf"))


def largest(tensors: Sequence[Surveyed], terms: Terms, keep: Sequence[int]) -> Generator[Request, Any, list[list[Cut]]]:
    """[tensor][term] -> the exact cut that keeps `keep[term]` elements of the whole group; ties go by element index.

    One pass where a sample shows the way (see expo.methods.windows); else `kth_largest` and one for ties. Then a look
    into one segment.
    """
    size = sum(tensor.n_elements for tensor in tensors)
    values, left, equals = [0.0] * len(keep), list(keep), None
    if any(0 < k < size for k in keep):
        found = yield from in_windows(tensors, terms, [min(max(k, 1), size) for k in keep])
        if found:
            values, left, equals = found
        else:
            values, left = yield from kth_largest(tensors, terms, keep)
    needed = [0 < k < size and value > 0 for k, value in zip(keep, values, strict=True)]
    if any(needed) and equals is None:
        counted = yield Ties(terms, tuple(values))
        equals = [[by_segment(counts) for counts in row] for row in counted]
    cuts = yield from _before(terms, values, left, needed, equals or [[None] * len(keep)] * len(tensors))
    for i, k in enumerate(keep):
        if k <= 0 or k >= size or values[i] == 0:  # among zeros it makes no difference which are kept
            for row in cuts:
                row[i] = NOTHING if k <= 0 else EVERYTHING
    return cuts


def kth_largest(
    tensors: Sequence[Surveyed], terms: Terms, ks: Sequence[int], of: Sequence[int] | None = None
) -> Generator[Request, Any, tuple[list[float], list[int]]]:
    """The ks[i]-th largest value (from 1) of a term in the whole group, and its rank among the elements equal to it.

    of: which term each k asks about; without it the terms in order. Radix selection on the bits of floats: a pass a
    digit, in which elements are counted once for all ks that have the same term and digits so far.
    """
    wide = max(tensor.wide for tensor in tensors)
    of = range(len(ks)) if of is None else of
    words, left = [0] * len(ks), list(ks)
    for level in range(len(SHIFTS[wide])):
        asked = list(dict.fromkeys(zip(of, words, strict=True)))  # (term, digits so far)
        within = tuple(word for _, word in asked) if level else None
        counted = yield Histogram(_picked(terms, [term for term, _ in asked]), wide, level, within)
        bins = {key: _joined(row[n] for row in counted) for n, key in enumerate(asked)}
        for i, k in enumerate(left):
            found = bins[of[i], words[i]]
            digit, left[i] = _digit(found, min(max(k, 1), sum(found.values())))
            words[i] = words[i] << _bits(wide, level) | digit
    return [_as_float(word, wide) for word in words], left


def _picked(terms: Terms, order: list[int]) -> Terms:
    def picked(*tiles, **parameters):
        found = list(terms(*tiles, **parameters))
        return [found[i] for i in order]

    return picked


def by_segment(counts: Sequence[int]) -> Runs:
    """Counts of one tensor's segments as runs."""
    import numpy as np

    from expo.ops import SEGMENT

    return Runs(np.arange(len(counts)) * SEGMENT, np.array(counts))


def _before(terms: Terms, values: list[float], left: list[int], needed: list[bool], equals: Sequence[Sequence[Runs]]):
    """The cuts at these values that let the first `left` of their equals pass."""
    cuts = [[Cut(value) for value in values] for _ in equals]
    asked = []
    for i, rest in enumerate(left):
        for t, row in enumerate(equals if needed[i] else ()):
            there = int(row[i].counts.sum())
            if there <= rest:
                cuts[t][i] = Cut(values[i], 1 << 62)
            elif rest > 0:
                up_to = row[i].counts.cumsum()
                run = int(up_to.searchsorted(rest))  # the first that reaches it
                start = int(row[i].starts[run])
                if row[i].exact:
                    cuts[t][i] = Cut(values[i], start + 1)
                else:
                    asked.append((t, start, i, values[i], rest - 1 - int(up_to[run] - row[i].counts[run])))
            rest = max(rest - there, 0)
    if asked:
        found = yield Place(terms, tuple(asked))
        for (t, _, i, value, _), index in zip(asked, found, strict=True):
            cuts[t][i] = Cut(value, index + 1)
    return cuts


def _joined(parts) -> dict[int, int]:
    bins: dict[int, int] = {}
    for digits, counts in parts:
        for digit, n in zip(digits.tolist(), counts.tolist(), strict=True):
            bins[digit] = bins.get(digit, 0) + n
    return bins


def _digit(bins: dict[int, int], k: int) -> tuple[int, int]:
    """The digit of the k-th largest, and its rank among the elements with that digit."""
    for digit in sorted(bins, reverse=True):
        if k <= bins[digit]:
            return digit, k
        k -= bins[digit]
    raise AssertionError("fewer elements than were counted")


def _bits(wide: int, level: int) -> int:
    """Bits of one digit: all of 16 but the last, which is what is left."""
    shifts = SHIFTS[wide]
    return DIGIT if level == 0 else shifts[level - 1] - shifts[level]


def _as_float(word: int, wide: int) -> float:
    return (
        struct.unpack("<f", struct.pack("<I", word))[0]
        if wide == 4
        else struct.unpack("<d", struct.pack("<Q", word))[0]
    )
