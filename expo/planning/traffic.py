"""The bytes that a plan moves: every pass over the inputs, from the disk and from the Hub, and through a GPU."""

from dataclasses import dataclass, replace

from expo.methods import Surveyed, find_method
from expo.planning.jobs import Job, Plan


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that a whole run moves."""

    read: int  # of the inputs, each pass counted
    from_hub: int  # of these, over the network
    written: int
    to_gpu: int  # where tensors are computed on one: what is copied there, each pass counted
    from_gpu: int
    passes: int  # most passes over one tensor; 1: read once
    to_download: int = 0  # before the run, into the Hub's cache

    @property
    def disk(self) -> int:
        """Bytes that the run reads from the disk and writes to it."""
        return self.read - self.from_hub + self.written


def surveyed(job: Job) -> Surveyed:
    """A job as its method's survey knows it."""
    return Surveyed(job.shape, job.n_elements, job.n_models, wide_bytes(job), job.parameters)


def wide_bytes(job: Job) -> int:
    """Bytes of one element while it is computed on: 4 where nothing has over 16 bits, else 8."""
    narrow = job.dtype.bits <= 16 and all(operand.spec.stored_dtype.bits <= 16 for operand in job.operands)
    return 4 if narrow else 8


def passes(job: Job) -> int:
    """How often a job's inputs are read: for its survey, for the scales that it is written with, and to write it."""
    method = find_method(job.method) if job.method else None
    asked = method.survey_passes(surveyed(job)) if method and job.n_elements else 0
    return asked + (job.requantised is not None and job.scales_of is None) + 1


def traffic(plan: Plan) -> Traffic:
    """What a run of the plan moves, nothing of which an earlier pass left in memory."""
    read = from_hub = to_gpu = from_gpu = 0
    most = 1
    for job in plan.jobs:
        times = passes(job)
        most = max(most, times)
        for operand in job.operands:
            n_bytes = times * operand.spec.n_bytes_stored
            read += n_bytes
            from_hub += n_bytes * _is_remote(plan, operand.role, operand.spec)
            to_gpu += n_bytes * (job.method is not None)
        from_gpu += job.n_bytes * (job.method is not None)
    for pair in plan.tied:  # stored copies of one tensor are compared before the run
        tensors = plan.inputs[pair.role].tensors
        for spec in (tensors[name] for name in (pair.name, pair.copy) if name in tensors):
            read += spec.n_bytes_stored
            from_hub += spec.n_bytes_stored * _is_remote(plan, pair.role, spec)
    return Traffic(read, from_hub, plan.n_bytes_written, to_gpu, from_gpu, most)


def _is_remote(plan: Plan, role: str, spec) -> bool:
    files = plan.inputs[role].files
    return any(part.file in files and files[part.file].remote is not None for part in spec.parts)


def downloaded(plan: Plan) -> tuple[Plan, int]:
    """The plan as it is once all files are in the Hub's cache, and the bytes that must come there for it."""
    files = {id(f.remote): f.n_bytes for c in plan.inputs.values() for f in c.every_file if f.remote}
    here = {
        role: replace(
            checkpoint,
            files={name: replace(file, remote=None) for name, file in checkpoint.files.items()},
            extra_files={name: replace(file, remote=None) for name, file in checkpoint.extra_files.items()},
        )
        for role, checkpoint in plan.inputs.items()
    }
    return replace(plan, inputs=here), sum(files.values())
