"""The exact look at each element, taken only when a sum has shown that something is wrong."""

import torch
from torch import Tensor

from expo.errors import NonFinite, Overflow
from expo.ops import first_bad
from expo.planning.jobs import Job, Plan


def refuse_non_finite(plan: Plan, job: Job, tiles: dict[str, Tensor], start: int) -> None:
    """Raise NonFinite for the lowest element that is not finite in one of the inputs; tiles by role."""
    found = []
    for role, tile in tiles.items():
        bad = (~torch.isfinite(tile)).nonzero()
        if len(bad):
            found.append((int(bad[0]), role, float(tile[bad[0]])))
    if found:
        at, role, value = min(found)
        raise NonFinite(job.name, start + at, value, f"{role} ({plan.inputs[role].source.label})")


def refuse_overflow(job: Job, tiles: list[Tensor], result: Tensor, start: int, *, saturate: bool) -> None:
    """Raise Overflow for the first result beyond the output type's range that finite inputs gave."""
    finite = torch.stack([torch.isfinite(tile) for tile in tiles]).all(0)
    result = torch.where(finite, result, 0.0)
    at = first_bad(result, job.dtype, saturate=saturate)
    if at is not None:
        raise Overflow(job.name, start + at, float(result[at]), job.dtype.name, job.dtype.largest)
