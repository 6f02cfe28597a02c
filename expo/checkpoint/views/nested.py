"""Views over views: how one reads a part that is computed itself, and which bytes of its parts a piece of it needs."""

from collections.abc import Callable, Iterator
from typing import Any

from expo.checkpoint.spec import TensorSpec

Read = Callable[[memoryview, TensorSpec, int], None]
Touched = Iterator[tuple[TensorSpec, int, int]]


def through(read: Read, held: dict[str, Any]) -> Read:
    """A `read` that computes a part which is a view itself; `held` keeps the buffers of one such part at a time."""

    def inner(out: memoryview, spec: TensorSpec, at: int) -> None:
        if spec.view is None:
            read(out, spec, at)
        else:
            spec.view.read_into(out, at, read, held.setdefault("below", {}))

    return inner


def stored_parts(parts: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The stored tensors behind some parts, each once, in order."""
    return tuple(dict.fromkeys(stored for part in parts for stored in part.parts))


def touched(spec: TensorSpec, start: int, n_bytes: int) -> Touched:
    """(stored tensor, first byte, how many) of what bytes [start, start + n_bytes) of a tensor are computed from."""
    n_bytes = min(n_bytes, spec.n_bytes - start)
    if n_bytes <= 0:
        return
    if spec.view is None:
        yield spec, start, n_bytes
    elif own := getattr(spec.view, "touched", None):
        yield from own(start, n_bytes)
    else:  # the same share of each part
        for part in spec.parts:
            first, last = (at * part.n_bytes // spec.n_bytes for at in (start, start + n_bytes))
            yield part, first, last - first
