"""Threads over segments of stored tensors: each worker has buffers of its own, and order shows in no result."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from expo.checkpoint.spec import TensorSpec
from expo.errors import Interrupted
from expo.ops import n_segments

Item = TypeVar("Item")


def segments(specs: Iterable[TensorSpec]) -> Iterator[tuple[TensorSpec, int]]:
    """(tensor, segment) in the order of the tensors given."""
    for spec in specs:
        yield from ((spec, segment) for segment in range(n_segments(spec.n_elements)))


def for_each(items: Iterable[Item], new_worker: Callable[[], Callable[[Item], Any]], threads: int) -> None:
    """Call a worker on every item. Each thread makes one worker, and with it its buffers.

    Raises the first failure that a thread met, or Interrupted; the other threads stop at their next item.
    """
    waiting, lock, stop = iter(items), threading.Lock(), threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            worker = new_worker()
            while not stop.is_set():
                with lock:
                    item = next(waiting, stop)
                if item is stop:
                    return
                worker(item)
        except BaseException as error:
            failures.append(error)
            stop.set()

    pool = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for thread in pool:
        thread.start()
    try:
        for thread in pool:
            while thread.is_alive():
                thread.join(0.2)
    except KeyboardInterrupt:
        stop.set()
        for thread in pool:
            thread.join()
        raise Interrupted("interrupted. Nothing was written.") from None
    if failures:
        raise failures[0]
