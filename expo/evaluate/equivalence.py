"""Whether two answers are the same: as text, as numbers, as mathematics, or as a judge of the user's says.

math-verify and a judge run outside this process, so that an answer like 9**9**9 costs its time bound and nothing else.
"""

import os
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from expo.errors import ExpoError, nearest
from expo.evaluate.numeric import same_number

NAMES = ("string", "numeric", "math-verify")
SECONDS = 10.0  # for one answer


class JudgeError(ExpoError):
    """A judge cannot be run, failed, took too long or answered something else than verdicts."""


class Pair(NamedTuple):
    """A predicted and a gold answer; a judge of the user's also sees the rest."""

    pred: str
    gold: str
    id: Any = None
    sample: int = 0
    question: str | None = None
    response: str | None = None


class Verdict(NamedTuple):
    """Whether a pair is the same; `decided` is False where the time bound ended the comparison, which counts as not."""

    correct: bool
    decided: bool = True


Judge = Callable[[Sequence[Pair]], list[Verdict]]


def judge(name: str, *, seconds: float = SECONDS) -> Judge:
    """The comparison of that name, or the one that a command line makes; it takes all pairs at once.

    string: equal text. numeric: equal as exact numbers, else as text. math-verify: equal by math-verify, each pair
    in at most `seconds`. Anything else is a command: it reads a JSON object {n, id, sample, question, response, pred,
    gold} a line and writes {"n": ..., "correct": true | false} a line, in `seconds` times the number of pairs (one
    minute at least). An empty prediction is wrong under every name but a command. Raises JudgeError.
    """
    if name == "string":
        return lambda pairs: [Verdict(pair.pred == pair.gold and pair.pred != "") for pair in pairs]
    if name == "numeric":
        return lambda pairs: [Verdict(pair.pred != "" and same_number(pair.pred, pair.gold)) for pair in pairs]
    if name == "math-verify":
        from expo.evaluate.symbolic import same_mathematics

        return lambda pairs: same_mathematics(pairs, seconds)
    return _command(name, seconds)


def _command(line: str, seconds: float) -> Judge:
    from expo.evaluate.command import run_judge

    try:
        words = shlex.split(line)
    except ValueError as error:
        raise JudgeError(f"--equivalence {line!r} is no command line: {error}.") from None
    if not words or shutil.which(words[0]) is None:
        known = ", ".join(NAMES)
        raise JudgeError(
            f"--equivalence {line!r} is neither {known} nor a command that can be run.{nearest(line, NAMES)}"
        )
    interpreter = re.fullmatch(r"(python[\d.]*|perl|ruby|node|(ba|z|da)?sh)", os.path.basename(words[0]))
    if interpreter and len(words) > 1 and not words[1].startswith("-") and not os.path.exists(words[1]):
        raise JudgeError(f"--equivalence {line!r}: {words[1]}: no such file.")
    return lambda pairs: run_judge(words, pairs, seconds)
