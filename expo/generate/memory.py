"""When a device's memory is full: how to know, what to give back."""

import gc

from expo.errors import ExpoError


class OutOfMemory(ExpoError):
    """Not even one example fits into the device's memory beside the model."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full; on a CPU torch says so in an ordinary RuntimeError."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in said or "not enough memory" in said)


def free_memory() -> None:
    """Give back what a failed batch held."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
