"""Batches by tokens, the longest examples first; where memory does not hold one, half as many at a time."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from expo.generate.memory import OutOfMemory, free_memory, is_out_of_memory

T, R = TypeVar("T"), TypeVar("R")

ON_CPU = 256  # tokens a batch: a CPU gains nothing from more, and activations stay small beside the model
ON_GPU = 16_384


def default_tokens(model: Any) -> int:
    """Tokens of a batch that suit the model's device."""
    return ON_CPU if next(model.parameters()).device.type == "cpu" else ON_GPU


def in_batches(
    rows: Sequence[T],
    length: Callable[[T], int],
    run: Callable[[list[T]], Sequence[R]],
    *,
    tokens: int,
    most_rows: int | None = None,
) -> list[R]:
    """What `run` makes of each row, in the rows' order; a batch's rows times its longest stay within `tokens`.

    A batch that memory does not hold is tried again with half its rows, and no later batch is larger than what then
    fitted. Raises OutOfMemory, with what was tried, where one row alone does not fit.
    """
    order = sorted(range(len(rows)), key=lambda i: (-length(rows[i]), i))
    found: list[Any] = [None] * len(rows)
    tried: list[str] = []
    at, most = 0, most_rows or len(rows)
    while at < len(order):
        longest = max(1, length(rows[order[at]]))
        batch = order[at : at + max(1, min(most, tokens // longest))]
        try:
            results = run([rows[i] for i in batch])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            tried.append(f"{len(batch)} x {longest:,}")
            if len(batch) == 1:
                raise OutOfMemory(_nothing_fits(tried, error)) from None
            results = None
        if results is None:  # outside of the handler, whose traceback holds the failed batch's tensors
            most = len(batch) // 2
            free_memory()
            continue
        for i, result in zip(batch, results, strict=True):
            found[i] = result
        at += len(batch)
    return found


def _nothing_fits(tried: Sequence[str], error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"The device ran out of memory with one example alone: {first}\n"
        f"Tried, examples x tokens: {', '.join(tried)}.\n"
        "Leave the longest examples out, use a larger device, or a narrower --dtype."
    )
