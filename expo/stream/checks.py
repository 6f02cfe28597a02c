"""The exact look at each element, taken only when a sum has shown that something is wrong."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from expo.errors import NonFinite, Overflow
from expo.ops import beyond
from expo.planning.jobs import Job, Operand, Plan


def refuse_non_finite(plan: Plan, job: Job, tiles: Iterable[tuple[Operand, Tensor]], start: int) -> None:
    """Raise NonFinite for the lowest element that is not finite in one of the inputs, in that input's own words."""
    found = []
    for operand, tile in tiles:
        bad = (~torch.isfinite(tile)).nonzero()
        if len(bad):
            found.append((start + int(bad[0]), operand, float(tile[bad[0]])))
    if found:
        at, operand, value = min(found, key=lambda one: one[0])
        where = f"{operand.role} ({plan.inputs[operand.role].source.label})"
        raise NonFinite(operand.spec.name, _index_in(operand, at), value, where)


def _index_in(operand: Operand, at: int) -> int:
    """The index in the operand's own tensor of element `at` of the output."""
    width = math.prod(operand.spec.shape[1:])
    for run in operand.rows or ():
        if run.first * width <= at < (run.first + run.n_rows) * width and run.source is not None:
            return at - (run.first - run.source) * width
    return at


def refuse_overflow(job: Job, finite: Tensor, result: Tensor, start: int, *, stochastic: bool) -> None:
    """Raise Overflow for the first result beyond the output type's range where all inputs are finite."""
    bad = (finite & (beyond(result, job.dtype, stochastic=stochastic) | ~torch.isfinite(result))).nonzero()
    if len(bad):
        at = int(bad[0])
        raise Overflow(job.name, start + at, float(result[at]), job.dtype.name, job.dtype.largest)
