"""Where tiles are computed, and how many elements a GPU is given at a time. Knows plans and budgets, computes nothing.

A GPU works through one queue a lane: while one lane's tile is computed, others copy theirs and read the next. Copies
wait for their own queue alone, so that no buffer is filled again before it has been read.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from expo.errors import ExpoError
from expo.launcher import place
from expo.ops import SEGMENT
from expo.planning.budget import TILE, scratch_bytes, size, worker_bytes
from expo.planning.jobs import Plan

_FREE = 0.9  # of the GPU's free memory is taken where no bound is given; the rest is the driver's and other programs'


class GpuMemory(ExpoError):
    """The GPU's memory, or the part of it that was given, does not hold the tiles."""


def pick_device(device: str) -> torch.device:
    """'cpu', 'cuda', 'cuda:1', or 'auto': the GPU where arithmetic is the limit, which for now is nowhere."""
    if device == "auto":
        return torch.device("cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ExpoError(f"--device {device!r} is not a device; use cpu, cuda, cuda:1 or auto.") from None
    if found.type not in ("cpu", "cuda"):
        raise ExpoError(f"--device {device!r} is not one that expo runs on; use cpu, cuda, cuda:1 or auto.")
    if found.type == "cuda" and found.index is None and (n_devices := torch.cuda.device_count()):
        found = torch.device("cuda", place().local_rank % n_devices)
    if found.type == "cuda" and (not torch.cuda.is_available() or (found.index or 0) >= torch.cuda.device_count()):
        raise ExpoError(f"--device {device}: torch {torch.__version__} finds no such GPU here. Use --device cpu.")
    return found


def tile_on(device: torch.device, plan: Plan, workers: int, gpu_memory: int | None = None) -> int:
    """Elements of a tile; on a GPU as many as its memory has room for, up to a segment. Never changes a byte.

    gpu_memory: bytes that this process may take of the GPU; default nine tenths of what is free, shared among the
    processes of a launcher that use it.
    Raises GpuMemory where the workers' smallest tiles do not fit.
    """
    if device.type == "cpu":
        return TILE
    free, total = torch.cuda.mem_get_info(device)
    room = int(free * _FREE) // _sharers() if gpu_memory is None else gpu_memory
    if gpu_memory is not None:
        torch.cuda.set_per_process_memory_fraction(min(1.0, room / total), device)
    return largest_tile(plan, workers, room)


def _sharers() -> int:
    """Processes of this node that use one GPU."""
    here = place()
    return -(-(here.size // here.n_nodes) // torch.cuda.device_count())


def largest_tile(plan: Plan, workers: int, room: int) -> int:
    """The largest tile, in elements, with which the workers need at most `room` bytes. Raises GpuMemory."""
    tile = SEGMENT
    while tile > TILE and workers * worker_bytes(plan, tile) > room:
        tile //= 2
    if (needed := workers * worker_bytes(plan, tile)) > room:
        job = max(plan.jobs, key=scratch_bytes)
        whole = f" {job.method} takes {job.reads}s whole, and {job.name} is the largest." if job.reads != "tile" else ""
        raise GpuMemory(
            f"{workers} workers need {size(needed)} of the GPU, and may take {size(room)}.{whole} "
            "Ask for fewer (--threads), give more (--gpu-memory), or use --device cpu."
        )
    return tile


def own_queue(device: torch.device) -> torch.cuda.Stream | None:
    """A queue on a GPU that nothing else waits for; None on the CPU, whose calls return when their work is done."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def host_buffer(n_bytes: int, queue: torch.cuda.Stream | None) -> Tensor:
    """Bytes of the host: page-locked beside a GPU, which copies from there without the processor."""
    return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=queue is not None)


def within(queue: torch.cuda.Stream | None) -> AbstractContextManager:
    """Everything that this thread does meanwhile goes into the queue."""
    return torch.cuda.stream(queue) if queue else nullcontext()


def settle(device: torch.device) -> None:
    """Wait for all queues of a GPU: what one thread made may then be used, or given back, in another."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def out_of_memory(tensor: str) -> GpuMemory:
    """What is said when the GPU has no room for a tile, whatever the plan expected."""
    return GpuMemory(
        f"{tensor}: the GPU ran out of memory. Another program may hold it: ask for fewer workers (--threads), "
        "bound what this run takes (--gpu-memory), or use --device cpu. The same command continues."
    )
