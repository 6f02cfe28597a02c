"""What a survey's pass keeps of one segment: sums in lanes, histograms of digits, counts, places.

A float goes into the lane of its element's index modulo 65,536, and the lanes through a fixed tree; the rest are whole
numbers. So neither tile size nor the number of workers changes a bit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from expo.methods.survey import DIGIT, SHIFTS, Histogram, Place, Sums, Ties
from expo.methods.windows import Sample, Windows
from expo.ops import SEGMENT, tree_sum
from expo.stream.pieces import Piece
from expo.stream.windows import SampleFold, WindowsFold

LANES = 65_536
_BINS = 1 << DIGIT

Bins = tuple[np.ndarray, np.ndarray]  # digits that occur, and how often


@dataclass
class Found:
    """What one worker found: whatever the requests of its tensors ask for."""

    sums: dict[Piece, list[float]] = field(default_factory=dict)  # a value a term
    bins: dict[int, list[Bins]] = field(default_factory=dict)  # of a job, a histogram a term
    ties: dict[Piece, list[int]] = field(default_factory=dict)
    windows: dict[Piece, list] = field(default_factory=dict)  # of samples too: a value a term
    places: dict[tuple[int, int, int], int] = field(default_factory=dict)  # (job, segment, term) -> index
    growing: tuple[int, list[np.ndarray]] | None = None  # (job, its histograms so far)

    def count(self, index: int, bins: list[np.ndarray]) -> None:
        """Add one segment's histograms to its job's."""
        if self.growing and self.growing[0] == index:
            for held, more in zip(self.growing[1], bins, strict=True):
                held += more
        else:
            self.close()
            self.growing = (index, bins)

    def close(self) -> None:
        """Keep of the job in hand what is not zero."""
        if self.growing:
            index, bins = self.growing
            sparse = [(at, row[at]) for row in bins for at in (np.flatnonzero(row),)]
            self.bins[index] = added([self.bins[index], sparse]) if index in self.bins else sparse
            self.growing = None


def added(rows: list[list[Bins]]) -> list[Bins]:
    """Histograms of the same terms, from several workers, as one."""
    if len(rows) == 1:
        return rows[0]
    joined = []
    for parts in zip(*rows, strict=True):
        digits, where = np.unique(np.concatenate([digit for digit, _ in parts]), return_inverse=True)
        counts = np.zeros(len(digits), np.int64)
        np.add.at(counts, where, np.concatenate([count for _, count in parts]))
        joined.append((digits, counts))
    return joined


class SumFold:
    """The sum of each term over one segment."""

    def __init__(self, request: Sums, tensor: int, segment: int):
        self.segment = segment
        self.lanes: list[Tensor] = []
        self.finite = True

    def add(self, terms: Iterable[Tensor], start: int) -> None:
        """Take the terms of the elements from `start` on, each used before the next is worked out."""
        for i, term in enumerate(terms):
            if i == len(self.lanes):
                self.lanes.append(torch.zeros(LANES, dtype=term.dtype, device=term.device))
            lanes, at, done, end = self.lanes[i], start % LANES, 0, term.numel()
            if end == LANES and at == 0:
                lanes.add_(term)
                continue
            while done < end:
                n = min(end - done, LANES - at)
                lanes[at : at + n].add_(term[done : done + n])  # `lanes[...] +=` would copy the sum once more
                at, done = 0, done + n

    def into(self, found: Found, index: int) -> None:
        """Keep the sums."""
        sums = [float(tree_sum(lanes.to(torch.float64))) for lanes in self.lanes]
        self.finite = all(map(np.isfinite, sums))
        found.sums[index, self.segment] = sums


class HistogramFold:
    """How often each value of one digit occurs in the terms' bits."""

    def __init__(self, request: Histogram, tensor: int, segment: int):
        self.wide, self.level, self.within = request.wide, request.level, request.within
        self.bins: list[np.ndarray] = []
        self.finite = True  # what is not finite counts as large, and is found when the method is applied

    def add(self, terms: Sequence[Tensor], start: int) -> None:
        """Count the terms of some elements."""
        self.bins = self.bins or [np.zeros(_BINS, np.int64) for _ in terms]
        for i, term in enumerate(terms):
            self.bins[i] += torch.bincount(self._digits(term, i), minlength=_BINS).cpu().numpy()

    def _digits(self, term: Tensor, i: int) -> Tensor:
        shift = SHIFTS[self.wide][self.level]
        words = _words(term, self.wide)
        if self.level == 0:
            return words >> shift
        bits = SHIFTS[self.wide][self.level - 1] - shift
        words = words[words >> (shift + bits) == self.within[i]]
        return (words >> shift) & ((1 << bits) - 1)

    def into(self, found: Found, index: int) -> None:
        """Keep the histograms."""
        if self.bins:
            found.count(index, self.bins)


class TiesFold:
    """How many elements of one segment equal the asked values."""

    def __init__(self, request: Ties, tensor: int, segment: int):
        self.values, self.segment = request.values, segment
        self.counts = [0] * len(request.values)
        self.finite = True

    def add(self, terms: Sequence[Tensor], start: int) -> None:
        """Count the terms of some elements."""
        for i, (term, value) in enumerate(zip(terms, self.values, strict=True)):
            self.counts[i] += int(torch.count_nonzero(term == value))

    def into(self, found: Found, index: int) -> None:
        """Keep the counts."""
        found.ties[index, self.segment] = self.counts


class PlaceFold:
    """Where the n-th element after a start that equals a value lies; of one segment."""

    def __init__(self, request: Place, tensor: int, segment: int):
        self.segment = segment
        mine = [ask[1:] for ask in request.asked if ask[0] == tensor and ask[1] // SEGMENT == segment]
        self.asked = {term: (start, value, n) for start, term, value, n in mine}
        self.seen = dict.fromkeys(self.asked, 0)
        self.found: dict[int, int] = {}
        self.finite = True

    def wants(self, start: int, n: int) -> bool:
        """Whether these elements have to be looked at."""
        return any(first < start + n for term, (first, _, _) in self.asked.items() if term not in self.found)

    def add(self, terms: Sequence[Tensor], start: int) -> None:
        """Look at the terms of the elements from `start` on, which must come in order."""
        for i, (first, value, n) in self.asked.items():
            at = (terms[i] == value).nonzero().flatten()
            at = at[at >= first - start]
            if 0 <= n - self.seen[i] < len(at):
                self.found[i] = start + int(at[n - self.seen[i]])
            self.seen[i] += len(at)

    def into(self, found: Found, index: int) -> None:
        """Keep the places."""
        found.places |= {(index, self.segment, i): at for i, at in self.found.items()}


FOLDS = {
    Sums: SumFold,
    Histogram: HistogramFold,
    Ties: TiesFold,
    Place: PlaceFold,
    Sample: SampleFold,
    Windows: WindowsFold,
}


def _words(term: Tensor, wide: int) -> Tensor:
    """The bits of floats that are not negative, as whole numbers in the same order; -0.0 counts as 0."""
    if wide == 8:
        return (term.to(torch.float64) + 0.0).view(torch.int64)
    return (term + 0.0).view(torch.int32)
