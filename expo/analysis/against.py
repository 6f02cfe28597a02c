"""against(A, PUBLISHED): a result beside a published checkpoint, tensor by tensor; writes nothing.

The result is a plan, computed tile by tile, or a checkpoint that is there. With a plan, the published file's own
effective alpha is measured too: the least-squares multiple of the exact change that its weights hold.
"""

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from expo.analysis.beside import Against, Beside
from expo.analysis.named import named_as
from expo.analysis.pool import for_each, segments
from expo.analysis.steps import Apart, apart
from expo.checkpoint import Shards
from expo.checkpoint.names import module_group
from expo.checkpoint.spec import Checkpoint, TensorSpec
from expo.errors import VerifyError
from expo.ops import elements_of, n_segments, torch_dtype
from expo.planning import Job, Plan
from expo.planning.budget import TILE, default_threads
from expo.stream.lane import Lane
from expo.stream.loop import settings_for
from expo.stream.pieces import Pieces, all_pieces, cut, tiles_of
from expo.stream.report import Fidelity, total
from expo.stream.survey import survey

Progress = Callable[[int], None]
Sums = tuple[float, float, float]
Part = tuple[Apart | None, Sums | None, int]  # of one segment; last: elements of theirs that are not finite


def against(
    ours: Plan | Checkpoint,
    published: Checkpoint,
    *,
    plan: Plan | None = None,
    no_alpha: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Against:
    """Compare a plan's result, or a checkpoint that is there, with a published one; reads what is compared once.

    plan: of the recipe that made a checkpoint `ours`, to measure the published file's effective alpha; no_alpha: why
    there is none.
    Raises VerifyError where nothing can be compared, the data errors of a run, and what reading raises.
    """
    began, threads = time.perf_counter(), threads or default_threads()
    made = ours if isinstance(ours, Plan) else plan
    stored = None if isinstance(ours, Plan) else ours
    label = made.recipe.title if stored is None else stored.source.label
    published, notes = named_as(ours, published, made)
    result = Against(label, published.source.label, no_alpha=no_alpha, notes=notes)
    ours_of = {job.name: job for job in made.jobs} if stored is None else stored.tensors
    pairs = _pairs(ours_of, published, result)
    if not pairs:
        names = " and ".join(next(iter(side), "nothing") for side in (ours_of, published.tensors))
        raise VerifyError(
            f"{label} and {published.source.label} have no tensor in common ({names} are their first): is that the "
            "model meant?"
        )
    parts: dict[tuple[str, int], Part] = {}
    with Shards(published) as theirs:
        if made is None:
            with Shards(stored) as reader:
                _compare_stored(stored, reader, pairs, theirs, parts, threads, progress)
        else:
            result.alpha = made.recipe.asked_alpha
            _compare_planned(made, stored, pairs, theirs, parts, threads, progress)
    _sum_up(result, ours_of, pairs, parts)
    result.seconds = time.perf_counter() - began
    return result


def _pairs(ours: dict[str, Any], published: Checkpoint, result: Against) -> dict[str, TensorSpec]:
    """The published tensors that can be read beside ours; the others are listed."""
    found = {}
    for name, mine in ours.items():
        spec = published.tensors.get(name)
        if getattr(mine, "scales_of", None):
            continue  # part of the numbers that its tensor stands for
        if spec is None:
            result.only_ours.append(name)
            continue
        if getattr(mine, "requantised", None) and spec.view:
            result.unlike.append(f"{name}: {mine.dtype} with scales, compared by its numbers alone")
        elif (spec.dtype, spec.shape) != (mine.dtype, mine.shape):
            forms = [f"{side.dtype} {list(side.shape)}" for side in (mine, spec)]
            result.unlike.append(f"{name}: {forms[0]}, published as {forms[1]}")
        if spec.shape == mine.shape:
            found[name] = spec
    result.only_published = [name for name in published.tensors if name not in ours]
    return found


def _sum_up(result: Against, ours: dict[str, Any], pairs: dict[str, TensorSpec], parts: dict) -> None:
    """Join the segments of each tensor, in their order."""
    every: dict[str, list[Sums]] = {}
    for name in pairs:
        rows = [parts[name, k] for k in range(n_segments(ours[name].n_elements)) if (name, k) in parts]
        compared = [part for part, _, _ in rows if part is not None]
        whole = functools.reduce(Apart.joined, compared) if compared else None
        sums = [row for _, row, _ in rows if row is not None]
        result.n_left_out += sum(n for _, _, n in rows)
        every.setdefault(module_group(name), []).extend(sums)
        result.tensors.append(Beside(name, whole, Fidelity.of(sums)))
    found = {group: Fidelity.of(sums) for group, sums in every.items() if sums}
    result.groups = {group: fidelity for group, fidelity in found.items() if fidelity.multiple is not None}
    result.fidelity = Fidelity.of([row for sums in every.values() for row in sums])


def _compare_stored(
    stored: Checkpoint,
    reader: Shards,
    pairs: dict[str, TensorSpec],
    theirs: Shards,
    parts: dict,
    threads: int,
    progress: Progress | None,
) -> None:
    """Bytes beside bytes."""

    def worker() -> Callable[[tuple[TensorSpec, int]], None]:
        mine, other = bytearray(TILE * 8), bytearray(TILE * 8)

        def work(piece: tuple[TensorSpec, int]) -> None:
            spec, segment = piece
            first, last = (spec.dtype.n_bytes(at) for at in elements_of(segment, spec.n_elements))
            found = None
            if spec.dtype == pairs[spec.name].dtype:
                found = Apart()
                for at, n in cut(first, last, TILE * 8):
                    views = memoryview(mine)[:n], memoryview(other)[:n]
                    reader.read_into(views[0], spec, at)
                    theirs.read_into(views[1], pairs[spec.name], at)
                    found = found.joined(apart(*views, spec.dtype, at * 8 // spec.dtype.bits))
            parts[spec.name, segment] = found, None, 0
            if progress:
                progress(last - first)

        return work

    specs = [spec for name, spec in stored.tensors.items() if name in pairs]
    for_each(segments(specs), worker, threads)


def _compare_planned(
    made: Plan,
    stored: Checkpoint | None,
    pairs: dict[str, TensorSpec],
    theirs: Shards,
    parts: dict,
    threads: int,
    progress: Progress | None,
) -> None:
    """What a plan gives, and what is stored of it if it is, beside the published bytes."""
    settings = settings_for(made)
    chosen = [piece for piece in all_pieces(made.jobs) if made.jobs[piece[0]].name in pairs]
    surveyed = survey(made, settings, threads, jobs={index for index, _ in chosen})
    comparison = _Comparison(made, settings, chosen, surveyed=surveyed, progress=progress)
    comparison.pairs, comparison.theirs, comparison.parts = pairs, theirs, parts
    if stored is None:
        comparison.run(threads)
        return
    with Shards(stored) as reader:
        comparison.stored = (stored, reader)
        comparison.run(threads)


class _Comparison(Pieces):
    """One pass over a plan's jobs that compares what it would write."""

    pairs: dict[str, TensorSpec]
    theirs: Shards
    parts: dict
    stored: tuple[Checkpoint, Shards] | None = None

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.guard = threading.Lock()

    def segment(self, lane: Lane, index: int, segment: int) -> None:
        """Compute one segment, and compare it."""
        job = self.plan.jobs[index]
        first, last = elements_of(segment, job.n_elements)
        found: Apart | None = Apart()
        sums: list[tuple[Sums, int]] = []
        if job.is_raw_copy:
            spans = cut(job.dtype.n_bytes(first), job.dtype.n_bytes(last), self.settings.tile * 4)
            tiles = ((at * 8 // job.dtype.bits, n_bytes * 8 // job.dtype.bits) for at, n_bytes in spans)
        else:
            tiles = tiles_of(job, segment, self.settings.tile)
        for start, n in tiles:
            low, high = max(start, first), min(start + n, last)
            mine, theirs, dtype = self._tile(lane, job, start, n, low, high, sums)
            found = None if theirs is None or found is None else found.joined(apart(mine, theirs, dtype, low))
        moved = tuple(map(total, zip(*(row for row, _ in sums), strict=True))) if sums else None
        with self.guard:
            self.parts[job.name, segment] = found, moved, sum(n for _, n in sums)
        self.progress(job.dtype.n_bytes(last - first))

    def _tile(self, lane: Lane, job: Job, start: int, n: int, low: int, high: int, sums: list):
        """Our bytes, the published ones of elements [low, high) or None for another type, and the type of ours."""
        spec = self.pairs[job.name]
        other, theirs = lane.raw("theirs", spec.dtype.n_bytes(high - low), torch_dtype(spec.dtype))
        self.theirs.read_into(theirs, spec, spec.dtype.n_bytes(low))
        at, n_bytes = job.dtype.n_bytes(low), job.dtype.n_bytes(high - low)
        if job.is_raw_copy:
            mine = lane.copy(job, at, n_bytes)
        else:
            view, _ = lane.compute(job, start, n)
            mine = view[at - job.dtype.n_bytes(start) :][:n_bytes]
            with torch.inference_mode():
                sums.append(lane.tile(job, n).change_of(other, low - start))
        dtype = job.dtype
        if self.stored:
            checkpoint, reader = self.stored
            own = checkpoint.tensors[job.name]
            dtype = own.dtype  # of a tensor with scales: that of its numbers
            _, mine = lane.raw("ours", dtype.n_bytes(high - low))
            reader.read_into(mine, own, dtype.n_bytes(low))
        return mine, theirs if spec.dtype == dtype else None, dtype
