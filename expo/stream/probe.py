"""A look at a few tiles before the run: does the pair look swapped, unrelated, or wrongly tied?"""

import math
import re
from pathlib import Path

import torch

from expo.checkpoint import Shards
from expo.checkpoint.model_card import card_head
from expo.checkpoint.read_ahead import READ_AHEAD, ReadAhead
from expo.checkpoint.spec import Checkpoint
from expo.errors import PlanError
from expo.ops import torch_dtype
from expo.planning.jobs import Job, Plan, TiedPair

_TENSORS = 8  # how many of the largest computed tensors are looked at
_ELEMENTS = 65_536  # of each
_CHUNK = 4 * 2**20  # bytes compared at a time


def pair_warnings(plan: Plan) -> list[str]:
    """Sentences about a pair that looks swapped (by its cards) or unrelated (by a sample of its weights)."""
    if plan.recipe.method != "extrapolate":
        return []
    return _swapped(plan) + _unrelated(plan)


def _swapped(plan: Plan) -> list[str]:
    """What the base says it was made from is what was given as the aligned model."""
    base, aligned = plan.inputs[plan.recipe.base], plan.donor
    name = aligned.source.repo_id or aligned.source.folder.name
    if name in _made_from(base) and name not in (base.source.repo_id, base.source.folder.name):
        return [
            f"the pair looks swapped: {base.source.label}, given as {plan.recipe.base}, names {name}, "
            f"given as {plan.recipe.donor}, as the model it was made from."
        ]
    return []


def _made_from(checkpoint: Checkpoint) -> set[str]:
    """The models that a checkpoint's card and config name as its origin: Hub ids, and the last parts of paths."""
    named = {str(checkpoint.config.get("_name_or_path", ""))}
    if head := card_head(checkpoint.source):
        entries = re.findall(r"^base_model:\s*(.*(?:\n\s*- .*)*)", head, re.MULTILINE)
        named |= {word.strip("\"'- ") for entry in entries for word in re.split(r"[\s,\[\]]+", entry)}
    return (named | {Path(name).name for name in named}) - {""}


def _unrelated(plan: Plan) -> list[str]:
    """The two models' weights point in different directions, or differ by as much as they are long."""
    jobs = [job for job in plan.jobs if job.method and len(job.shape) > 1 and job.operands[0].rows is None]
    jobs = sorted(jobs, key=lambda job: -job.n_elements)[:_TENSORS]
    dot = base_norm = norm = moved = 0.0
    pair = plan.inputs[plan.recipe.base], plan.donor
    with Shards(pair[0], scattered=True) as base, Shards(pair[1], scattered=True) as aligned:
        for job in jobs:
            a, b = _sample(base, job, 0), _sample(aligned, job, 1)
            dot += float((a * b).sum())
            base_norm += float((a * a).sum())
            norm += float((b * b).sum())
            moved += float(((b - a) ** 2).sum())
    if not (base_norm > 0 and norm > 0 and math.isfinite(dot + moved)):
        return []
    cosine, relative = dot / math.sqrt(base_norm * norm), math.sqrt(moved / norm)
    if cosine < 0.5 or relative > 0.9:
        return [
            f"the pair looks unrelated: in a sample of the largest tensors the cosine of the weights is {cosine:.2f} "
            f"and the delta is {relative:.0%} of the weights. ExPO needs an aligned model and the one it started from."
        ]
    return []


def _sample(reader: Shards, job: Job, position: int) -> torch.Tensor:
    spec = job.operands[position].spec
    n = min(_ELEMENTS, spec.n_elements)
    raw = torch.empty(spec.dtype.n_bytes(n), dtype=torch.uint8)
    reader.read_into(memoryview(raw.numpy()), spec, 0)
    return raw.view(torch_dtype(spec.dtype)).to(torch.float64)


def check_tied(plan: Plan, ahead: ReadAhead = READ_AHEAD) -> None:
    """Stored copies of tied weights must hold the same bytes; raises PlanError for all that do not."""
    problems = [_differs(plan, pair, ahead) for pair in plan.tied]
    if problems := [problem for problem in problems if problem]:
        raise PlanError(problems)


def _differs(plan: Plan, pair: TiedPair, ahead: ReadAhead) -> str | None:
    checkpoint = plan.inputs[pair.role]
    by_name = {spec.name: spec for spec in checkpoint.tensors.values()}  # in the input's own spelling
    one, other = by_name[pair.name], by_name[pair.copy]
    if one.dtype == other.dtype and one.n_bytes == other.n_bytes:
        left, right = bytearray(_CHUNK), bytearray(_CHUNK)
        with Shards(checkpoint, ahead=ahead) as reader:
            for at in range(0, one.n_bytes, _CHUNK):
                n = min(_CHUNK, one.n_bytes - at)
                reader.read_into(memoryview(left)[:n], one, at)
                reader.read_into(memoryview(right)[:n], other, at)
                if left[:n] != right[:n]:
                    break
            else:
                return None
    return (
        f"{pair.copy} and {pair.name} are tied by the config of {pair.role} ({checkpoint.source.label}), "
        "but both are stored and they differ.\nTo take each as it is stored: --tied keep."
    )
