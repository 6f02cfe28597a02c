"""Progress on stderr: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

_EVERY = 10.0  # seconds between plain lines
_REDRAW = 0.1  # seconds between two pictures of the bar


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
        self.name = ""
        self.drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def phase(self, name: str, total: int) -> None:
        """Begin to count anew: another pass over the inputs, of `total` bytes of output."""
        with self.lock:
            self.name, self.total, self.done = name, max(1, total), 0
            self.began = self.last = time.monotonic()

    def __call__(self, n_bytes: int) -> None:
        with self.lock:
            self.done += n_bytes
            if not self.quiet and self.bar is None and is_terminal(sys.stderr):
                self.bar = _bar()
                self.task = self.bar.add_task("", total=self.total, rate="", name="")
                self.bar.start()
            if self.bar and time.monotonic() - self.drawn >= _REDRAW:
                self.drawn = time.monotonic()
                state = {"completed": self.done, "total": self.total, "rate": self._rate(), "name": self.name}
                self.bar.update(self.task, **state, refresh=True)
            elif self.bar:
                pass
            elif not self.quiet and sys.stderr is not None and time.monotonic() - self.last >= _EVERY:
                self.last = time.monotonic()
                left = (self.last - self.began) * (self.total / self.done - 1)
                name = f"{self.name} " if self.name else ""
                share = self.done / self.total
                print(f"{name}{share:4.0%}  {self._rate()}  {left:.0f} s left", file=sys.stderr, flush=True)

    def _rate(self) -> str:
        seconds = time.monotonic() - self.began
        return f"{self.done * self.moved_for_each / 1e9 / seconds:.2f} GB/s" if seconds > 0 else ""


def _bar():
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    text = "{task.percentage:>3.0f} %  {task.fields[rate]}  {task.fields[name]}"
    columns = (BarColumn(), TextColumn(text), TimeRemainingColumn())
    # Drawn by hand: a thread of its own would keep the workers from being forked.
    return Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
