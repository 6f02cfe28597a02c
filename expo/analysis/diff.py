"""diff(A, B): how far B's weights lie from A's, and how much of an alpha the output's grid would let through."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from expo.analysis.measure import Measure, Sums
from expo.analysis.pairs import Pairing, pair_up
from expo.analysis.pool import for_each, segments
from expo.checkpoint import Shards, open_checkpoint
from expo.checkpoint.names import layer_of, module_group
from expo.checkpoint.spec import Checkpoint
from expo.errors import DataError, PlanError
from expo.planning import Job, Plan, plan
from expo.planning.budget import default_threads
from expo.recipe import Recipe, extrapolation
from expo.stream import Fidelity, Report, Stream
from expo.stream.loop import report_of, settings_for
from expo.stream.probe import pair_warnings


@dataclass(frozen=True)
class Difference:
    """One tensor, or some of them together: A against B, and what the asked alpha would write."""

    name: str
    n_tensors: int
    computed: bool  # False where nothing in it is a float
    sums: Sums
    fidelity: Fidelity

    def record(self, alpha: float) -> dict[str, Any]:
        """The figures as plain data."""
        held = self.fidelity.multiple
        return {
            "name": self.name,
            "n_tensors": self.n_tensors,
            "n_elements": self.sums.n_elements,
            "equal": self.sums.n_changed == 0,
            "changed": self.sums.changed,
            "relative_delta": self.sums.relative if self.computed else None,
            "cosine": self.sums.cosine if self.computed else None,
            "n_non_finite": self.sums.n_non_finite,
            "effective_alpha": None if held is None else float(f"{alpha * held:.4g}"),
            "effective_cosine": self.fidelity.cosine,
        }


@dataclass
class Diff:
    """Two checkpoints compared."""

    a: Checkpoint
    b: Checkpoint
    alpha: float
    pairing: Pairing
    tensors: list[Difference] = field(default_factory=list)
    groups: list[Difference] = field(default_factory=list)
    whole: Difference | None = None
    refused: str | None = None  # why a run would not start or end, so that there is no effective alpha
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def verdict(self) -> str:
        """One line: what the asked alpha comes to."""
        if not self.pairing.pairs:
            return "A and B have no tensor in common."
        if self.refused:
            return f"no effective alpha: {self.refused}"
        whole, asked = self.whole, f"alpha {self.alpha:g}"
        if whole.sums.n_changed == 0:
            return f"A and B hold the same values: {asked} would move nothing."
        if whole.fidelity.multiple is None:
            return f"{asked} would move nothing."
        held = f"{asked} would hold {self.alpha * whole.fidelity.multiple:.3g} (cosine {whole.fidelity.cosine:.2f})"
        if Report(None, alpha=self.alpha, fidelity=whole.fidelity).fidelity_warnings("nearest"):
            return f"{held}: --dtype float32 or --rounding stochastic."
        return f"{held}: the output's grid is fine enough."

    def record(self) -> dict[str, Any]:
        """The comparison as one JSON object."""
        return {
            "a": self.a.source.label,
            "b": self.b.source.label,
            "alpha": self.alpha,
            **{key: value for key, value in self.whole.record(self.alpha).items() if key != "name"},
            "groups": [group.record(self.alpha) for group in self.groups],
            "tensors": [tensor.record(self.alpha) for tensor in self.tensors],
            "only_a": self.pairing.only_a,
            "only_b": self.pairing.only_b,
            "unlike": [
                {"name": b.name, "a": [a.dtype.name, list(a.shape)], "b": [b.dtype.name, list(b.shape)]}
                for a, b in self.pairing.unlike
            ],
            "refused": self.refused,
            "warnings": self.warnings,
            "verdict": self.verdict(),
            "seconds": round(self.seconds, 4),
        }

    def by_layer(self) -> dict[tuple[str, int | None], Sums]:
        """(module group, layer's number) -> sums over floats; None for what lies in no layer. What the plot shows."""
        cells: dict[tuple[str, int | None], list[Sums]] = {}
        for tensor in self.tensors:
            if tensor.computed:
                place = layer_of(tensor.name)
                cells.setdefault((module_group(tensor.name), place and place[1]), []).append(tensor.sums)
        return {cell: Sums.total(parts) for cell, parts in cells.items()}


class _Discard:
    """A sink that keeps nothing: it measures the tiles that a run has just read, while they are at hand."""

    def __init__(self, measure: Measure):
        self.measure = measure
        self.finished: dict = {}

    def write(self, job: Job, start: int, data: memoryview) -> None:
        self.measure.tile(job.name, start * 8 // job.dtype.bits, len(data) * 8 // job.dtype.bits)


def diff(
    a: str | Path | Checkpoint,
    b: str | Path | Checkpoint,
    *,
    alpha: float = 0.3,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
    **settings: Any,
) -> Diff:
    """Compare A with B tile by tile, and find what B + alpha * (B - A) would hold once written.

    a, b: folder, file or Hub id, or opened checkpoints. settings: fields of Recipe, such as rename or dtype.
    Tensors on one side only, or of different shapes, are listed. Nothing is written.
    Raises SourceError, HeaderError or IndexMismatch for what cannot be opened or read.
    """
    began = time.perf_counter()
    policies = {"on_mismatch": "copy", "vocabulary": "keep-base", "tied": "keep"}
    settings = {**policies, "allow_non_finite": True, **settings}
    recipe = extrapolation(sft=_text(a), dpo=_text(b), alpha=alpha, **settings)
    a, b = (_opened(side, recipe.max_header) for side in (a, b))
    inputs = {"sft": a, "dpo": b}
    result = Diff(a, b, alpha, pair_up(recipe, inputs))
    planned = _plan_of_floats(recipe, inputs, result)
    with Shards(a) as read_a, Shards(b) as read_b:
        measure = Measure(result.pairing.pairs, read_a, read_b)
        report, of_tensor = _stream(planned, measure, result, threads or default_threads(), progress)
    _sum_up(result, measure, report, of_tensor)
    result.seconds = time.perf_counter() - began
    return result


def _text(side: str | Path | Checkpoint) -> str:
    return side.source.text if isinstance(side, Checkpoint) else str(side)


def _opened(side: str | Path | Checkpoint, max_header: int) -> Checkpoint:
    return side if isinstance(side, Checkpoint) else open_checkpoint(side, max_header=max_header)


def _plan_of_floats(recipe: Recipe, inputs: dict[str, Checkpoint], result: Diff) -> Plan | None:
    """The plan of a run, less the tensors that it would only copy; None where a run would not start."""
    try:
        planned = plan(recipe, inputs)
    except PlanError as error:
        result.refused = str(error)
        return None
    result.warnings += [*planned.warnings, *pair_warnings(planned)]
    return replace(planned, jobs=tuple(job for job in planned.jobs if job.method and job.name in result.pairing.pairs))


def _stream(
    planned: Plan | None, measure: Measure, result: Diff, threads: int, progress: Callable[[int], None] | None
) -> tuple[Report, dict[str, Fidelity]]:
    """Measure every pair; the report of a run, and what it holds of each tensor that it would compute."""
    report, of_tensor = Report(None), {}
    jobs = planned.jobs if planned else ()
    if jobs:
        # The run itself, into a sink that keeps nothing.
        stream = Stream(planned, _Discard(measure), settings_for(planned), journal=False, progress=progress)
        try:
            stream.run(threads)
        except DataError as error:
            result.refused = str(error)
            measure.parts.clear()
            jobs = ()
        else:
            report = report_of(stream, None)
    for index, job in enumerate(jobs):
        of_tensor[job.name] = Fidelity.of(stream.finished.sums_of(index))
    _measure_rest(measure, [name for name in measure.pairs if name not in of_tensor], threads, progress)
    return report, of_tensor


def _measure_rest(measure: Measure, names: list[str], threads: int, progress: Callable[[int], None] | None) -> None:
    """Pairs that a run would copy, and all of them where a run would not start."""

    def work(piece) -> None:
        n_bytes = measure.segment(*piece)
        if progress:
            progress(n_bytes)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for_each(segments(measure.pairs[name].b for name in names), lambda: work, threads)
    finally:
        torch.set_num_threads(before)


def _sum_up(result: Diff, measure: Measure, report: Report, of_tensor: dict[str, Fidelity]) -> None:
    nothing = Fidelity(None, None)
    for name, pair in result.pairing.pairs.items():
        fidelity = of_tensor.get(name, nothing)
        result.tensors.append(Difference(name, 1, pair.computed, measure.sums(name), fidelity))
    groups: dict[str, list[Difference]] = {}
    for tensor in result.tensors:
        groups.setdefault(module_group(tensor.name), []).append(tensor)
    result.groups = [_together(name, found, report.groups.get(name, nothing)) for name, found in groups.items()]
    result.whole = _together("total", result.tensors, report.fidelity)
    if n := result.whole.sums.n_non_finite:
        result.warnings.append(f"{n} elements are not finite: a run stops there, unless it has --allow-non-finite.")


def _together(name: str, found: list[Difference], fidelity: Fidelity) -> Difference:
    sums = Sums.total([difference.sums for difference in found])
    return Difference(name, len(found), any(difference.computed for difference in found), sums, fidelity)
