"""Equality by math-verify, in a child process with a hard bound on time and memory for each pair.

Run as a module it is that child: a JSON pair a line on stdin, true or false a line on stdout.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence

from expo.errors import ExpoError
from expo.evaluate.equivalence import Pair, Verdict

_MEMORY = 4 << 30  # bytes of address space: an expression like 9**9**9 asks for more than any machine has
_START = 120.0  # seconds for the child's imports on a busy machine


class MathVerifyMissing(ExpoError):
    """math-verify is not installed."""

    def __init__(self) -> None:
        super().__init__("--equivalence math-verify needs a package.\nTo install it: pip install 'expo[eval]'")


def same_mathematics(pairs: Sequence[Pair], seconds: float) -> list[Verdict]:
    """A verdict for each pair; equal texts are equal, an empty prediction is wrong, the rest is math-verify's.

    Raises MathVerifyMissing.
    """
    import importlib.util

    if importlib.util.find_spec("math_verify") is None:
        raise MathVerifyMissing
    known: dict[tuple[str, str], Verdict] = {}
    child = _Child()
    try:
        for pair in pairs:
            key = (pair.pred, pair.gold)
            if pair.pred == "" or pair.pred == pair.gold:
                known[key] = Verdict(pair.pred != "")
            elif key not in known:
                known[key] = child.compare(*key, seconds)
    finally:
        child.stop()
    return [known[pair.pred, pair.gold] for pair in pairs]


class _Child:
    """The process that compares; it is started when needed and again after each end."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None

    def compare(self, pred: str, gold: str, seconds: float) -> Verdict:
        if self.process is None:
            self._start()
        asked = json.dumps({"pred": pred, "gold": gold}) + "\n"
        try:
            self.process.stdin.write(asked.encode())
            answer = self._answer(seconds)
        except BrokenPipeError:
            answer = b""
        if answer in (b"true", b"false"):
            return Verdict(answer == b"true")
        self.stop()  # too slow, or it died of what it was asked
        return Verdict(False, decided=False)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "expo.evaluate.symbolic"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
        )  # fmt: skip
        if self._answer(_START) != b"ready":
            self.stop()
            raise ExpoError(
                "math-verify does not start in a process of its own.\n"
                f"To see why: {sys.executable} -m expo.evaluate.symbolic"
            )

    def _answer(self, seconds: float) -> bytes:
        """The child's next line, empty where the time is over or the child has ended."""
        line, until = b"", time.monotonic() + seconds
        while not line.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return b""
            more = os.read(self.process.stdout.fileno(), 4096)
            if not more:
                return b""
            line += more
        return line.strip()


def _serve() -> None:
    """The child: one line in, one line out, until stdin ends."""
    import logging
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    print("ready", flush=True)
    for line in sys.stdin:
        pair = json.loads(line)
        # The parent bounds the time: math-verify's own bound is a signal, which long integer arithmetic does not see.
        try:
            gold, pred = (parse(f"${pair[side]}$", parsing_timeout=None) for side in ("gold", "pred"))
            same = bool(gold) and bool(pred) and verify(gold, pred, timeout_seconds=None)
        except Exception:  # what cannot be read (nested too deeply, too large) is not the same
            same = False
        print("true" if same else "false", flush=True)


if __name__ == "__main__":
    _serve()
