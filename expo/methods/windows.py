"""The k-th largest in one pass over a whole group: a sample says where to look, and only what lies there is kept.

The sample decides how much is looked at, never what is found: where it misleads, `survey.largest` counts everything.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expo.methods.declare import Surveyed

if TYPE_CHECKING:
    from numpy import ndarray

SAMPLE_TILE = 512  # elements that are read together: few, because neighbours are alike
_TILES = (64, 8192)  # fewest and most tiles of a sample; between them one in 128
_SPREAD = 5  # standard deviations on each side
_OFTEN = 0.005  # share of the sample from which a value is counted instead of kept
_MOST_ATOMS = 8
_INSIDE = 1 << 23  # most elements that windows may be expected to keep, 8 bytes each
_FEWEST = 1 << 18  # elements of one segment that may always be kept


@dataclass(frozen=True, slots=True)
class Runs:
    """How many elements of a tensor equal a value, run by run; exact: each run is one element."""

    starts: "ndarray"
    counts: "ndarray"
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """Some elements of each term. Answer: [tensor][term] -> their values, segment by segment."""

    terms: Callable[..., Any]
    n_terms: int
    every: int  # one tile in so many

    def starts(self, tensor: int, first: int, last: int) -> Iterator[int]:
        """Where in [first, last) of one tensor its tiles begin: one somewhere in each block of tiles."""
        block = self.every * SAMPLE_TILE
        for number in range(first // block, -(-last // block)):
            word = (tensor * 0x9E3779B1 + number) * 0x85EBCA6B & 0xFFFFFFFF
            word = (word ^ word >> 15) * 0x846CA68B & 0xFFFFFFFF
            start = number * block + (word ^ word >> 16) % self.every * SAMPLE_TILE
            if first <= start < last:
                yield start


@dataclass(frozen=True, slots=True)
class Window:
    """A range of values, and values in it that occur often."""

    low: float
    high: float
    atoms: tuple[float, ...]  # falling


@dataclass(frozen=True, slots=True)
class Windows:
    """What lies in a window of each term. Answer: [tensor][term] -> for each segment

    (how many lie above, how many equal each atom, the other values in the window and their places in the segment, or
    None twice if they are too many). How many equal an atom is said run by run: (n, 2) of a run's start and the count.
    """

    terms: Callable[..., Any]
    windows: tuple[Window, ...]
    wide: int  # bytes of the floats that are compared
    most: int  # elements of one segment that a window keeps


def in_windows(
    tensors: Sequence[Surveyed], terms: Callable[..., Any], ks: Sequence[int]
) -> Generator[Any, Any, tuple[list[float], list[int], list[list[Runs]]] | None]:
    """(k-th largest of each term, its rank among its equals, [tensor][term] -> where these are), or None."""
    import numpy as np

    from expo.ops import SEGMENT

    size = sum(tensor.n_elements for tensor in tensors)
    n_tiles = min(max(size // SAMPLE_TILE // 128, _TILES[0]), _TILES[1])
    sampled = yield Sample(terms, len(ks), max(1, size // SAMPLE_TILE // n_tiles))
    joined = [np.concatenate([part for tensor in sampled for part in tensor[i]]) for i in range(len(ks))]
    if not all(len(sample) for sample in joined):
        return None
    windows, shares = zip(*(_window(sample, k / size) for sample, k in zip(joined, ks, strict=True)), strict=True)
    if sum(shares) * size > _INSIDE:
        return None
    most = max(_FEWEST, int(4 * max(shares) * SEGMENT))
    found = yield Windows(terms, windows, max(tensor.wide for tensor in tensors), most)
    picked = [_pick([row[i] for row in found], windows[i], k) for i, k in enumerate(ks)]
    if None in picked:
        return None
    values, left = ([pick[n] for pick in picked] for n in (0, 1))
    return values, left, [[_equals(row[i], windows[i], value) for i, value in enumerate(values)] for row in found]


def _window(sample: "ndarray", share: float) -> tuple[Window, float]:
    """Where the value with this share of elements above it should lie, by a sample; and what share lies inside."""
    import numpy as np

    n, falling = len(sample), np.sort(sample)[::-1]
    middle = share * n
    margin = _SPREAD * _spread(sample, float(falling[min(int(middle), n - 1)])) + _SPREAD
    first, last = int(middle - margin), int(middle + margin)
    high = float(falling[first]) if first >= 0 else float("inf")
    low = float(falling[last]) if last < n else -1.0
    values, counts = np.unique(falling[max(first, 0) : last + 1], return_counts=True)
    often = values[np.argsort(-counts, kind="stable")][:_MOST_ATOMS]
    atoms = [float(v) for v in often if np.count_nonzero(sample == v) > _OFTEN * n]
    inside = (falling >= low) & (falling <= high) & ~np.isin(falling, atoms)
    return Window(low, high, tuple(sorted(atoms, reverse=True))), np.count_nonzero(inside) / n


def _spread(sample: "ndarray", value: float) -> float:
    """The standard deviation of how many of the sample lie above a value, by how its tiles differ."""
    import numpy as np

    tiles = np.array_split(sample, max(1, len(sample) // SAMPLE_TILE))
    above = [[np.count_nonzero(part > value) for part in tiles], [np.count_nonzero(part >= value) for part in tiles]]
    alone = (np.mean(above[0]) + 1) * len(tiles)  # as if no element were like its neighbours
    return float(max(np.std(above, axis=1).max() * len(tiles) ** 0.5, min(alone, len(sample)) ** 0.5 / 2))


def _pick(tensors: Sequence[Sequence[tuple]], window: Window, k: int) -> tuple[float, int] | None:
    """The k-th largest and its rank among its equals; None where it lies outside or too much lies inside."""
    import numpy as np

    segments = [segment for tensor in tensors for segment in tensor]
    if any(inner is None for _, _, inner, _ in segments):
        return None
    inner = np.concatenate([inner for _, _, inner, _ in segments])
    there = [sum(int(atoms[i][:, 1].sum()) for _, atoms, _, _ in segments) for i in range(len(window.atoms))]
    rank = k - sum(above for above, _, _, _ in segments)
    if not 0 < rank <= len(inner) + sum(there):
        return None
    larger = 0  # atoms above the place
    for atom, count in zip(window.atoms, there, strict=True):
        before = int(np.count_nonzero(inner > atom)) + larger
        if rank <= before:
            break
        if rank <= before + count:
            return atom, rank - before
        larger += count
    rank -= larger
    value = float(np.partition(inner, len(inner) - rank)[len(inner) - rank])
    return value, rank - int(np.count_nonzero(inner > value))


def _equals(segments: Sequence[tuple], window: Window, value: float) -> Runs:
    """Where the elements lie that equal a value in the window."""
    import numpy as np

    from expo.ops import SEGMENT

    if value in window.atoms:
        rows = np.concatenate([atoms[window.atoms.index(value)] for _, atoms, _, _ in segments])
        return Runs(rows[:, 0], rows[:, 1])
    places = np.concatenate([i * SEGMENT + held[inner == value] for i, (_, _, inner, held) in enumerate(segments)])
    return Runs(places, np.ones(len(places), np.int64), exact=True)
