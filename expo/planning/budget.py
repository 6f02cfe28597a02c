"""What a plan costs: memory, disk, bytes to move; and how it reads in words."""

import math
import os

from expo.checkpoint.blocks import BLOCK, room_for
from expo.checkpoint.neighbours import HELD, RUN
from expo.checkpoint.views.gathered import Gathered
from expo.errors import PlanError
from expo.methods import find_method
from expo.planning.jobs import Job, Plan
from expo.planning.traffic import traffic, wide_bytes

INTERPRETER = 240 * 2**20  # bytes: Python with torch, pydantic and rich, measured on Linux
CONVERSIONS = 50 * 2**20  # bytes: a lean transformers in a fork of its own, before the first tensor; measured
HEADER, RELAID = 2_048, 6_144  # bytes for each tensor of the inputs: as a record, and while its layout is changed
TILE = 65_536  # elements a worker holds of each input at a time
WINDOWS = 64 * 2**20  # bytes of a batch of tensors that a survey may keep to find exact thresholds
PASSING = 2  # shards on the disk of a result that only passes through to the Hub
SURVEY = 2**20  # bytes for each term of a survey: a histogram or lanes, and what is added to them


def default_threads() -> int:
    """One a core that this process may use, at most 8: more gain nothing on one disk."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)


def scratch_bytes(job: Job, tile: int = TILE) -> int:
    """Bytes that one worker needs for one tile of a job: more where the method takes whole rows or tensors."""
    n = {"tile": tile, "row": max(tile, job.width), "tensor": max(tile, job.n_elements)}[job.reads]
    raw = sum(operand.spec.dtype.bits for operand in job.operands) + job.dtype.bits
    # Wide copies of each input, the result, and four temporaries of rounding and of the report.
    wide = (len(job.operands) + 5) * wide_bytes(job)
    method = find_method(job.method) if job.method else None
    further = math.ceil(method.scratch * wide_bytes(job)) if method else 0
    survey = SURVEY * (len(job.operands) + 1) if method and method.survey else 0
    views = sum(operand.spec.view.scratch_bytes for operand in job.operands if operand.spec.view)
    return n * (raw // 8 + wide + further) + survey + views


def worker_bytes(plan: Plan, tile: int = TILE) -> int:
    """Bytes that one worker needs for the costliest job."""
    return max((scratch_bytes(job, tile) for job in plan.jobs), default=0)


def peak_memory(plan: Plan, threads: int, tile: int = TILE) -> int:
    """Bytes of memory a run needs, whatever the size of the checkpoints."""
    n_tensors = sum(len(checkpoint.tensors) for checkpoint in plan.inputs.values())
    surveyed = WINDOWS if any(job.method and find_method(job.method).survey for job in plan.jobs) else 0
    specs = [operand.spec for job in plan.jobs for operand in job.operands]
    relaid = any(isinstance(spec.view, Gathered) for spec in specs)
    ahead = BLOCK * room_for(plan.n_streamed) + HELD * RUN * plan.n_streamed
    streamed = HEADER * n_tensors + surveyed + ahead + threads * worker_bytes(plan, tile)
    return INTERPRETER + max(streamed, CONVERSIONS + RELAID * n_tensors if relaid else 0)


def disk_bytes(plan: Plan, *, passes: bool = False) -> int:
    """Bytes of the output that lie on the disk at a time. passes: it goes to the Hub alone."""
    if not passes:
        return plan.n_bytes_written
    return sum(sorted((shard.n_bytes for shard in plan.shards), reverse=True)[:PASSING])


def free_memory() -> int | None:
    """Bytes that the machine has to give; None where it does not say."""
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def check_memory(plan: Plan, threads: int) -> None:
    """Raise PlanError where the run needs more memory than the machine has to give."""
    free, needed = free_memory(), peak_memory(plan, threads)
    if free is not None and needed > free:
        raise PlanError(
            f"{threads} workers need {size(needed)} of memory, and {size(free)} are free. Ask for fewer: --threads."
            + _why(plan)
        )


def _why(plan: Plan) -> str:
    """The tensor that makes a plan large, where it must be in memory whole."""
    largest = max(plan.jobs, key=scratch_bytes)
    if largest.reads != "tensor":
        return ""
    return f" {largest.method} takes tensors whole, and {largest.name} needs {size(scratch_bytes(largest))}."


def size(n_bytes: float) -> str:
    """Bytes for a person: 2.47 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def count(n: float) -> str:
    """A number of parameters for a person: 1.24 B."""
    for unit in ("", " K", " M", " B"):
        if n < 999.5:
            return f"{n:.3g}{unit}"
        n /= 1000
    return f"{n:.3g} T"


def totals(plan: Plan, threads: int, *, passes: bool = False) -> dict[str, int]:
    """The plan's budget in numbers; bytes unless the name says otherwise. passes: the output goes to the Hub alone.

    What a survey reads counts each time that it is read.
    """
    copied = sum(job.method is None for job in plan.jobs)
    moved = traffic(plan)
    return {
        "tensors": len(plan.jobs),
        "tensors_computed": len(plan.jobs) - copied,
        "tensors_copied": copied,
        "tensors_left_out": len(plan.left_out),
        "parameters": sum(job.n_elements for job in plan.jobs),
        "bytes_to_read": moved.read,
        "bytes_from_hub": moved.from_hub,
        "most_passes": moved.passes,
        "bytes_to_write": plan.n_bytes_written,
        "peak_disk": disk_bytes(plan, passes=passes),
        "peak_memory": peak_memory(plan, threads),
    }


def summary(plan: Plan, threads: int, *, passes: bool = False) -> str:
    """The plan in a few lines, as --dry-run prints it. passes: the output goes to the Hub alone."""
    recipe, cost = plan.recipe, totals(plan, threads, passes=passes)
    lines = [recipe.title]
    for role, checkpoint in plan.inputs.items():
        types = sorted({spec.stored_dtype.name for spec in checkpoint.tensors.values()})
        lines.append(
            f"  {role:<8} {checkpoint.source.label}: {len(checkpoint.tensors)} tensors, "
            f"{count(checkpoint.n_parameters)} parameters, {' '.join(types)}, {size(checkpoint.n_bytes)}"
        )
    types = sorted({job.dtype.name for job in plan.jobs})
    lines.append(
        f"  output   {cost['tensors']} tensors ({cost['tensors_computed']} computed, {cost['tensors_copied']} copied, "
        f"{cost['tensors_left_out']} left out), {' '.join(types)} {recipe.rounding}, "
        f"{len(plan.shards)} file{'s' if len(plan.shards) != 1 else ''}"
    )
    held = size(cost["peak_disk"]) + " of disk" + (" at a time" if passes else "")
    lines.append(f"  needs    {size(cost['peak_memory'])} of memory, {held}; {_moved(cost)}")
    return "\n".join(lines)


def _moved(cost: dict[str, int]) -> str:
    """What is read, from where, and what that means for the time."""
    often = f" in up to {cost['most_passes']} passes" if cost["most_passes"] > 1 else ""
    hub = cost["bytes_from_hub"]
    disk = cost["bytes_to_read"] - hub + cost["bytes_to_write"]
    there = f", {size(hub)} of it from the Hub" if hub else ""
    return (
        f"reads {size(cost['bytes_to_read'])}{often}{there}, about {math.ceil(disk / 1e9)} s for each GB/s of the disk"
    )
