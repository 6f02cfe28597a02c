"""An external judge: pairs go to its stdin as JSONL, verdicts come from its stdout, all within a bounded time."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

from expo.evaluate.equivalence import JudgeError, Pair, Verdict

_AT_LEAST = 60.0  # seconds: a judge may have a model to load
_MOST_OUTPUT = 1 << 28  # bytes of verdicts that are read


def run_judge(words: Sequence[str], pairs: Sequence[Pair], seconds: float) -> list[Verdict]:
    """One verdict for each pair, from one run of the command `words`.

    Raises JudgeError where it fails, is silent for too long, or leaves a pair without a verdict.
    """
    if not pairs:
        return []
    said = shlex.join(words)
    bound = max(_AT_LEAST, seconds * len(pairs))
    asked = "".join(json.dumps({"n": n, **pair._asdict()}) + "\n" for n, pair in enumerate(pairs))
    output = _run(words, asked.encode(), bound, said)
    return _verdicts(output, len(pairs), said)


def _run(words: Sequence[str], asked: bytes, bound: float, said: str) -> bytes:
    # Files rather than pipes for what it says: nothing has to be read while it runs, and nothing can block.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, start_new_session=True
            )
        except OSError as error:
            raise JudgeError(f"the judge {said} cannot be run: {error.strerror}.") from None
        feeder = threading.Thread(target=_feed, args=(process, asked), daemon=True)
        feeder.start()
        try:
            code = process.wait(bound)
        except subprocess.TimeoutExpired:
            raise JudgeError(
                f"the judge {said} did not end within {bound:.0f} s and was stopped.\n"
                "To give it longer: --judge-seconds, the time for one answer."
            ) from None
        finally:
            _stop(process)
            feeder.join(5)
        stderr.seek(0)
        if code:
            last = stderr.read()[-2000:].decode(errors="replace").strip()
            raise JudgeError(f"the judge {said} failed with exit code {code}:\n{last or '(it said nothing)'}")
        stdout.seek(0)
        return stdout.read(_MOST_OUTPUT)


def _feed(process: subprocess.Popen, asked: bytes) -> None:
    # A judge may stop reading early; whether it did its work is seen from its verdicts.
    with contextlib.suppress(BrokenPipeError, OSError):
        process.stdin.write(asked)
    with contextlib.suppress(BrokenPipeError, OSError):
        process.stdin.close()


def _stop(process: subprocess.Popen) -> None:
    """End the judge and all that it started; they have a session of their own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _verdicts(output: bytes, n_pairs: int, said: str) -> list[Verdict]:
    found: dict[int, bool] = {}
    for number, line in enumerate(output.splitlines(), start=1):
        if not line.strip():
            continue
        n, correct = _verdict(line)
        if n is None or not 0 <= n < n_pairs or n in found:
            shown = line[:200].decode(errors="replace")
            raise JudgeError(
                f"line {number} of the judge {said} is no verdict, or a second one for the same pair: {shown!r}\n"
                'A verdict is {"n": the n of the pair, "correct": true or false}; other text belongs on stderr.'
            )
        found[n] = correct
    missing = [n for n in range(n_pairs) if n not in found]
    if missing:
        raise JudgeError(
            f"the judge {said} gave no verdict on {len(missing):,} of {n_pairs:,} pairs, first n = {missing[0]}."
        )
    return [Verdict(found[n]) for n in range(n_pairs)]


def _verdict(line: bytes) -> tuple[int | None, bool]:
    try:
        value: Any = json.loads(line)
        n, correct = value["n"], value["correct"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, False
    good = isinstance(correct, bool) and isinstance(n, int) and not isinstance(n, bool)
    return (n, correct) if good else (None, False)
