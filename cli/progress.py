"""Progress on stderr: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

_EVERY = 10.0  # seconds between plain lines


def is_terminal(stream: Any) -> bool:
    """Whether a person watches; a daemon may have closed the stream altogether."""
    return stream is not None and stream.isatty()


class Progress:
    """Counts bytes of output; call it with the bytes finished since the last call. Safe from threads."""

    def __init__(self, total: int, *, moved_for_each: float = 1.0, quiet: bool = False):
        self.total = total
        self.moved_for_each = moved_for_each  # bytes read and written for each byte of output
        self.quiet = quiet
        self.done = 0
        self.lock = threading.Lock()
        self.began = self.last = time.monotonic()
        self.bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def __call__(self, n_bytes: int) -> None:
        with self.lock:
            self.done += n_bytes
            if not self.quiet and self.bar is None and is_terminal(sys.stderr):
                # Not before the first segment: the bar has a thread, and workers are forked while there is none.
                self.bar = _bar()
                self.task = self.bar.add_task("", total=self.total, rate="")
                self.bar.start()
            if self.bar:
                self.bar.update(self.task, completed=self.done, rate=self._rate())
            elif not self.quiet and sys.stderr is not None and time.monotonic() - self.last >= _EVERY:
                self.last = time.monotonic()
                left = (self.last - self.began) * (self.total / self.done - 1)
                print(f"{self.done / self.total:4.0%}  {self._rate()}  {left:.0f} s left", file=sys.stderr, flush=True)

    def _rate(self) -> str:
        seconds = time.monotonic() - self.began
        return f"{self.done * self.moved_for_each / 1e9 / seconds:.2f} GB/s" if seconds > 0 else ""


def _bar():
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f} %  {task.fields[rate]}"), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
