"""The parameters of a live transformers model as the sink of a run: nothing is written to disk."""

from collections.abc import Sequence
from typing import Any

from expo.errors import OutputError


class ModelSink:
    """Fills a model's parameters and persistent buffers in place, by their names in the checkpoint."""

    def __init__(self, model: Any):
        self.model = model
        self.finished: dict = {}
        self.state = model.state_dict(keep_vars=False)
        self.prefix = getattr(model, "base_model_prefix", "")
        self.targets: dict[str, Any] = {}

    def open(self, jobs: Sequence[Any], *, may_differ: bool) -> None:
        """Find every output tensor's place in the model; raises OutputError with all that have none.

        may_differ: tensors that the model ties may hold different values in the result, which it cannot show.
        """
        self.targets = {job.name: self._target(job) for job in jobs}
        if lost := self.lost(jobs):
            raise OutputError(
                f"{type(self.model).__name__} has no parameter for {len(lost)} tensors of the checkpoint:\n"
                + "\n".join(lost[:8])
                + "\nThe model's class stores them under other names; write the checkpoint and load it instead."
            )

        places: dict[int, str] = {}
        for name, target in self.targets.items():
            first = places.setdefault(target.data_ptr(), name) if target.numel() else name
            if may_differ and first != name:
                raise OutputError(
                    f"{type(self.model).__name__} ties {name} and {first}, and the recipe keeps them apart "
                    "(tied: keep). Write the checkpoint and load it instead."
                )

    def lost(self, jobs: Sequence[Any]) -> list[str]:
        """A line for each output tensor that has no place in the model."""
        return [f"  {job.name} {job.shape}" for job in jobs if self._target(job) is None]

    def _target(self, job: Any) -> Any:
        """The flat view of a parameter that a tensor fills."""
        short = job.name.removeprefix(f"{self.prefix}.") if self.prefix else job.name
        for name in (job.name, f"{self.prefix}.{job.name}", short):
            tensor = self.state.get(name)
            if tensor is not None and tuple(tensor.shape) == job.shape:
                return tensor.view(-1)
        return None

    def write(self, job: Any, start: int, data: memoryview) -> None:
        """Put bytes [start, start + len(data)) of one output tensor into the model, in the model's type."""
        import torch

        if not len(data):
            return
        tile = torch.frombuffer(data, dtype=getattr(torch, job.dtype.torch_name))
        first = start * 8 // job.dtype.bits
        self.targets[job.name][first : first + len(tile)].copy_(tile)

    def record(self, job_index: int, segment: int, finished: Any) -> None:
        """A model keeps no journal."""
