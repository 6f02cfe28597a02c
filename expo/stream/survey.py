"""Answer what methods ask about whole tensors: passes over the inputs before anything is written.

Sums go into lanes (element index modulo 65,536) and from there through a fixed tree, counts are whole numbers: neither
tile size nor the number of workers changes a bit.
"""

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expo.checkpoint import Shards
from expo.methods import find_method
from expo.methods.survey import Histogram, Place, Request, Sums, Ties
from expo.methods.windows import SAMPLE_TILE, Sample
from expo.ops import SEGMENT, elements_of, n_segments
from expo.planning.jobs import Plan
from expo.planning.traffic import surveyed
from expo.stream.checks import refuse_non_finite
from expo.stream.folds import FOLDS, Found, added
from expo.stream.lane import Lane, Settings
from expo.stream.pieces import Piece, Pieces, Progress, tiles_of
from expo.stream.rescale import fresh_scales
from expo.stream.tile import ComputedTile
from expo.stream.workers import carry_out

BATCH = 1 << 29  # elements of the tensors that are surveyed at a time


@dataclass
class Group:
    """Tensors that are surveyed together, and how far that has come."""

    jobs: list[int]
    asking: Generator[Request, Any, Sequence[Any]]
    request: Request | None = None
    found: Sequence[Any] | None = None

    def step(self, answer: Any) -> None:
        """Send the answer to the last request, and take the next."""
        try:
            self.request = self.asking.send(answer)
        except StopIteration as done:
            self.request, self.found = None, done.value


def survey(
    plan: Plan,
    settings: Settings,
    workers: int,
    *,
    jobs: set[int] | None = None,
    progress: Progress | None = None,
    readers: Mapping[str, Shards] | None = None,
) -> dict[str, Any]:
    """Job's name -> what its method's survey found, and the scales of what is written with fresh ones.

    jobs: indices of the jobs that will be computed, where that is not all. readers: by role, where to read the inputs
    instead of their files. Raises NonFinite for an input that holds NaN or infinities.
    """
    groups = _groups(plan, jobs)
    for batch in _batches(plan, groups):
        _survey(plan, settings, workers, batch, progress=progress, readers=readers)
    found = {
        plan.jobs[i].name: value for group in groups for i, value in zip(group.jobs, group.found or (), strict=True)
    }
    found |= fresh_scales(plan, settings, workers, found, jobs=jobs, progress=progress, readers=readers)
    if found and (phase := getattr(progress, "phase", None)):
        phase("", sum(job.n_bytes for job in plan.jobs))
    return found


def _batches(plan: Plan, groups: list[Group]) -> Iterator[list[Group]]:
    """Groups in order, so many at a time that what is kept of them does not grow with the model."""
    batch: list[Group] = []
    room = BATCH
    for group in groups:
        n_elements = sum(plan.jobs[i].n_elements for i in group.jobs)
        if batch and n_elements > room:
            yield batch
            batch, room = [], BATCH
        batch.append(group)
        room -= n_elements
    if batch:
        yield batch


def _survey(
    plan: Plan, settings: Settings, workers: int, groups: list[Group], *, progress: Progress | None, readers: Any
) -> None:
    """Pass after pass, until no group asks any more."""
    for group in groups:
        group.step(None)
    while asking := [group for group in groups if group.request is not None]:
        if phase := getattr(progress, "phase", None):
            phase("survey", sum(plan.jobs[i].n_bytes for group in asking for i in group.jobs))
        asked = {i: group for group in asking for i in group.jobs}
        work = SurveyPass(plan, settings, asked, progress=progress, readers=readers)
        carry_out(work, workers)
        for group in asking:
            group.step(work.answer(group))


def _groups(plan: Plan, wanted: set[int] | None) -> list[Group]:
    """One group a tensor, or one for the model where a method ranks all of it."""
    alone, together = [], []
    for index, job in enumerate(plan.jobs):
        method = find_method(job.method) if job.method else None
        if method and method.survey and job.n_elements:
            (together if method.model_scope(**job.parameters) else alone).append(index)
    kept = [[index] for index in alone if wanted is None or index in wanted]
    if together and (wanted is None or wanted & set(together)):
        kept.append(together)
    return [
        Group(jobs, find_method(plan.jobs[jobs[0]].method).survey([surveyed(plan.jobs[i]) for i in jobs]))
        for jobs in kept
    ]


class SurveyPass(Pieces):
    """One request of each group, answered in one pass over their tensors."""

    def __init__(self, plan: Plan, settings: Settings, groups: dict[int, Group], *, pieces: Any = None, **options: Any):
        self.groups = groups
        super().__init__(plan, settings, _pieces(plan, groups) if pieces is None else pieces, **options)
        self.local: dict[int, Found] = {}  # by lane, so that threads do not share
        self.parts: list[Found] = []

    def part(self, pieces: list[list[Piece]], **options: Any) -> "SurveyPass":
        """The same pass over some of its pieces, for a process of its own."""
        flat = [piece for batch in pieces for piece in batch]
        return SurveyPass(self.plan, self.settings, self.groups, pieces=flat, readers=self.readers, **options)

    def result(self) -> list[Found]:
        """All that was found here."""
        for part in self.local.values():
            part.close()
        return list(self.local.values())

    def join(self, results: list[Any]) -> None:
        """Take what the processes found."""
        self.parts = [part for found in results for part in found]

    def segment(self, lane: Lane, index: int, segment: int) -> None:
        """Read one segment's tiles and add what they hold to what is asked."""
        job, group = self.plan.jobs[index], self.groups[index]
        known = getattr(group.request, "known", None)
        if not isinstance(group.request, Sample):
            self.read_ahead(lane, job, segment + self.ahead)
        part = self.local.setdefault(id(lane), Found())
        fold = FOLDS[type(group.request)](group.request, group.jobs.index(index), segment)
        first, last = elements_of(segment, job.n_elements)
        wants = getattr(fold, "wants", None)
        for start, n, tile in self._tiles(lane, index, segment, wants):
            low, high = max(start, first), min(start + n, last)
            tile.surveyed = known[group.jobs.index(index)] if known else None
            terms = tile.call_with(group.request.terms, start)
            whole = low == start and high == start + n
            pieces = terms if whole else (term[low - start : high - start] for term in terms)
            fold.add(pieces if isinstance(group.request, Sums) else list(pieces), low)
        fold.into(part, index)
        if not fold.finite and not self.settings.allow_non_finite:
            for start, _, tile in self._tiles(lane, index, segment):
                refuse_non_finite(self.plan, job, zip(job.operands, tile.tiles, strict=True), start)
        self.progress(job.dtype.n_bytes(last - first))

    def _tiles(
        self, lane: Lane, index: int, segment: int, wants: Callable[[int, int], bool] | None = None
    ) -> Iterator[tuple[int, int, ComputedTile]]:
        """(start, length, the tile with its operands read) over one segment, or over what is wanted of it."""
        job, group = self.plan.jobs[index], self.groups[index]
        tiles = tiles_of(job, segment, self.settings.tile)
        if isinstance(group.request, Sample) and job.reads == "tile":
            first, last = elements_of(segment, job.n_elements)
            starts = group.request.starts(group.jobs.index(index), first, last)
            tiles = ((start, min(SAMPLE_TILE, last - start)) for start in starts)
        for start, n in tiles:
            if wants is None or wants(start, n):
                tile = lane.tile(job, n)
                tile.load(start)
                yield start, n, tile

    def answer(self, group: Group) -> Any:
        """The answer to one group's request, from all parts."""
        parts = self.parts or self.result()
        request = group.request
        if isinstance(request, Place):
            found = {key: at for part in parts for key, at in part.places.items()}
            return [found[group.jobs[t], start // SEGMENT, term] for t, start, term, _, _ in request.asked]
        if isinstance(request, Histogram):
            return [added([part.bins[i] for part in parts if i in part.bins]) for i in group.jobs]
        rows = {}
        for part in parts:
            rows.update({Sums: part.sums, Ties: part.ties}.get(type(request), part.windows))
        columns = [self._columns(rows, i) for i in group.jobs]
        return [[math.fsum(c) for c in per_term] for per_term in columns] if isinstance(request, Sums) else columns

    def _columns(self, rows: dict[Piece, list], index: int) -> list[list]:
        """For each term its values, segment by segment."""
        segments = range(n_segments(self.plan.jobs[index].n_elements))
        return [list(column) for column in zip(*(rows[index, s] for s in segments), strict=True)]


def _pieces(plan: Plan, groups: dict[int, Group]) -> list[Piece]:
    """The segments that the requests concern, in the output's order."""
    pieces: set[Piece] = set()
    for index, group in groups.items():
        if isinstance(group.request, Place):
            t = group.jobs.index(index)
            pieces |= {(index, asked[1] // SEGMENT) for asked in group.request.asked if asked[0] == t}
        else:
            pieces |= {(index, segment) for segment in range(n_segments(plan.jobs[index].n_elements))}
    return sorted(pieces)
