"""What grades add up to: accuracy, pass@k, their intervals, and the difference between two models."""

import math
from collections.abc import Sequence
from typing import Any

from expo.errors import ExpoError
from expo.evaluate.grade import Graded
from expo.evaluate.statistics import Interval, Paired, paired, pass_at_k, wilson


class BadK(ExpoError):
    """pass@k of more samples than there are."""


def accuracy(graded: Graded) -> Interval:
    """The mean over questions of the share of right samples, with its interval; n counts questions."""
    shares = graded.shares
    return wilson(math.fsum(shares.values()), len(shares))


def pass_rates(graded: Graded, ks: Sequence[int] | None = None) -> dict[int, Interval]:
    """pass@k, unbiased, for each k; by default 1, 2, 5, 10, ... up to the number of samples, and that number."""
    counts = [(len(grades), sum(g.correct for g in grades)) for grades in graded.by_question.values()]
    n = counts[0][0]
    if ks is None:
        ks = sorted({k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500) if k < n} | {n})
    for k in ks:
        if not 1 <= k <= n:
            raise BadK(f"pass@{k} needs at least {k} samples a question; there are {n}. To draw more: --samples {k}.")
    return {k: wilson(math.fsum(pass_at_k(n, c, k) for n, c in counts), len(counts)) for k in ks}


def difference(before: Graded, after: Graded) -> Paired:
    """after - before, question by question."""
    old, new = before.shares, after.shares
    return paired([old[key] for key in old], [new[key] for key in old])


def summary(graded: Graded, ks: Sequence[int] | None = None) -> dict[str, Any]:
    """All that is known of one model, as JSON values."""
    samples = len(next(iter(graded.by_question.values())))
    rates = pass_rates(graded, ks)
    return {
        "n": len(graded.by_question),
        "samples": samples,
        "correct": sum(one.correct for one in graded.grades),
        "accuracy": accuracy(graded).record(),
        "pass_at": {str(k): rate.record() for k, rate in rates.items()},
        "empty": sum(one.pred == "" for one in graded.grades),
        "undecided": sum(not one.decided for one in graded.grades),
        "extraction": graded.extraction,
        "equivalence": graded.equivalence,
    }
