"""`--requantize`: the output's tensors are float8 with fresh scales, as the donor's are. Reads no data.

A scale is the largest magnitude in its block over the type's largest number, rounded up, so that no quotient is beyond
the range. The magnitudes are those of the results, which a pass before the writing one takes (`stream/rescale.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from expo.checkpoint.spec import Checkpoint
from expo.checkpoint.views.scaled import ScaledTensor
from expo.dtypes import DType
from expo.planning.jobs import Job, Operand, Requantised
from expo.recipe import Recipe

if TYPE_CHECKING:
    from expo.planning.resolve import Match


@dataclass
class Stored:
    """The matches of an output that is stored as the donor is, and what stands in the way."""

    matches: "list[Match]"
    problems: list[str]


def as_donor_stores(recipe: Recipe, donor: Checkpoint, matches: "list[Match]") -> Stored:
    """Each float8 tensor of the donor with its scale behind it; scales of activations are copied."""
    known = donor.quantised
    if not (known and known.scaled):
        label = f"{recipe.donor} ({donor.source.label})"
        return Stored(matches, [f"--requantize writes {label}'s own format, and it holds no float8 with scales."])
    found, problems = [], []
    for match in matches:
        spec = match.spec
        if not isinstance(spec.view, ScaledTensor):
            found.append(match)
            if spec.name in known.scaled or (spec.view and any(part.name in known.scaled for part in spec.parts)):
                problems.append(
                    f"{match.name} is float8 in another layout, and its blocks are not the output's: "
                    "--requantize keeps the donor's layout."
                )
            continue
        scaling = _requantised(spec.view, powers=spec.name in known.powers)
        found.append(replace(match, requantised=scaling))
        scale = spec.view.scale
        twin = replace(match, name=scale.name, spec=scale, operands=[Operand(recipe.donor, scale)], target=None)
        found.append(replace(twin, must_equal=False, requantised=scaling, scales_of=match.name))
    for spec in known.dropped.values() if matches else ():
        kept = [Operand(recipe.donor, spec)]
        found.append(replace(matches[0], name=spec.name, spec=spec, operands=kept, target=None, must_equal=False))
    return Stored(found, problems)


def _requantised(view: ScaledTensor, *, powers: bool) -> Requantised:
    n_scales = view.scale.n_elements
    return Requantised(view.block, view.matrix, view.grid, n_scales, view.scale.name, view.scale.dtype, powers)


def form(match: "Match") -> tuple[DType, tuple[int, ...]]:
    """Type and shape of a tensor that is stored as the donor's is."""
    view = match.spec.view
    return (view.weight if isinstance(view, ScaledTensor) else match.spec).dtype, match.spec.shape


def with_stored_copies(jobs: Sequence[Job], role: str) -> list[Job]:
    """The jobs with what the donor gives unchanged, weight and scale, as copies of its stored bytes."""
    copied = {job.name: job.operands[job.donor].spec.view for job in jobs if _is_unchanged(job, role)}
    found = []
    for job in jobs:
        if job.name in copied:
            weight = Operand(role, copied[job.name].weight)
            job = replace(job, operands=(weight,), donor=0, requantised=None)
        elif job.scales_of in copied:
            job = replace(job, requantised=None, scales_of=None)
        found.append(job)
    return found


def _is_unchanged(job: Job, role: str) -> bool:
    given = job.operands[job.donor]
    requantised = job.requantised is not None and job.scales_of is None
    return requantised and job.method is None and given.role == role and isinstance(given.spec.view, ScaledTensor)
