"""What follows from a model's size: its window, and how many threads are worth their while."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

_SMALL = 5_000_000  # parameters below which threads only wait for each other (measured: 10 times slower on two cores)


def window_of(config: Any) -> int | None:
    """Tokens that fit into the window of a model with this config; None where it does not say."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def threads_for(models: Iterable[Any]) -> AbstractContextManager:
    """One thread where all of these models are small and on the CPU; else torch's own number."""
    from expo.ops import one_thread

    small = all(model.device.type == "cpu" and model.num_parameters() < _SMALL for model in models)
    return one_thread() if small else nullcontext()
