"""Errors of the trainers, one class a rule; each message says what, where and what to do."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from expo.errors import ExpoError


class TrainError(ExpoError):
    """Training cannot start, or cannot go on."""


class BadSetting(TrainError):
    """A setting is unknown, of the wrong type, or contradicts another."""


class BadData(TrainError):
    """The data cannot be found or read."""


class NoChatTemplate(TrainError):
    """Rows are messages, and the tokenizer cannot render them."""


class UnfitModel(TrainError):
    """The model cannot be trained this way."""


class MissingPackage(TrainError):
    """A setting needs a package that is not installed."""

    def __init__(self, package: str, wanted_by: str, extra: str):
        super().__init__(f"{wanted_by} needs {package}, which is not installed. To install it: pip install '{extra}'")


class Problem(NamedTuple):
    """One thing that is wrong with one row."""

    kind: str  # a key of REMEDIES
    where: str  # file:line
    what: str


REMEDIES = {
    "malformed": "",
    "fields": "",
    "weights": "`weights` has one entry for each token of the completion, its end token included (or left out: it gets "
    "the others' mean); or one number for all. Leave out a row that shall not count.",
    "label": "",
    "empty": "To leave such rows out, counted: --bad-rows drop.",
    "equal": "To leave such pairs out, counted: --bad-rows drop.",
    "prompt too long": "To leave such rows out, counted: --too-long drop.",
    "too long": "To cut completions at the end: --too-long truncate; to leave rows out: --too-long drop.",
}
SHOWN = 5


class BadRows(TrainError):
    """Rows that cannot be trained on: the first few by file and line, and how many of each kind."""

    def __init__(self, problems: Sequence[Problem], n_rows: int, more: str = ""):
        self.problems = list(problems)
        counts = Counter(problem.kind for problem in problems)
        lines = [f"{problem.where}: {problem.what}" for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"... and {len(problems) - SHOWN:,} more")
        total = ", ".join(f"{kind}: {n:,}" for kind, n in counts.items())
        rows = "row" if n_rows == 1 else "rows"
        lines.append(f"{len(problems):,} of {n_rows:,} {rows} cannot be trained on ({total}).")
        lines += [f"{kind}: {REMEDIES[kind]}" for kind in counts if REMEDIES[kind]]
        lines += [more] if more else []
        super().__init__("\n".join(lines))


class OutOfMemory(TrainError):
    """The device has no room for a step; the last checkpoint is kept."""


class ElsewhereStopped(TrainError):
    """The main process stopped before training, and has said why."""

    second_hand = True


class NonFiniteLoss(TrainError):
    """The loss or its gradient became NaN or infinite; the weights of before are kept."""
