"""AdaBoost's arithmetic: an expert's error, its weight in the vote (alpha), and the samples' weights of the next round.

A sample is a row (classification) or one token of an answer (generation). Knows arrays of numbers; no model, no file.

The binary form is EnsemW2S's published code (arXiv:2410.04571): alpha = ln((1 - eps) / eps) / 2. Of its generative form
no code was published; ours is SAMME's alpha (Hastie et al. 2009) with ln(K - 1), the log odds of a random guess's
error, replaced by those of a reference predictor: alpha = ln((1 - eps) / eps) + ln(reference / (1 - reference)).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expo.weak_to_strong.errors import BoostingError

PRIORS = ("binary", "samme", "pretrained")
_ROUNDING = 1e-15  # of a sum of weights that is 1
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """alpha = scale * (log odds of `reference` - log odds of eps); an expert counts where eps < reference."""

    reference: float  # the error of who knows nothing, in (0, 1)
    scale: float = 1.0
    name: str = "value"

    def __post_init__(self) -> None:
        if not 0 < self.reference < 1:
            raise BoostingError(f"the prior's error is {self.reference:g}; it must lie between 0 and 1.")


class Judged(NamedTuple):
    """What a round's expert is worth."""

    error: float
    alpha: float  # 0: it is left out
    verdict: str  # kept | perfect | not better than the prior
    said: str  # the same for people; empty where there is nothing to say


def rule_of(prior: str | float, *, classes: int = 2, measured: float | None = None, n: int = 0) -> Rule:
    """The rule of a prior: binary | samme | pretrained, or an error of one's own.

    classes: K of samme, the vocabulary where samples are tokens. measured: the pre-trained model's error on n samples.
    """
    if prior == "binary":
        return Rule(0.5, 0.5, "binary")
    if prior == "samme":
        if classes < 2:
            raise BoostingError(f"samme needs at least 2 classes; there is {classes}.")
        return Rule(1 - 1 / classes, 1.0, "samme")
    if prior == "pretrained":
        if measured is None:
            raise BoostingError("the prior `pretrained` needs the error of the pre-trained model.")
        if measured == 0:
            raise BoostingError("the pre-trained model makes no mistake, so no expert is better. Take another prior.")
        return Rule(min(measured, 1 - _least(n)), 1.0, "pretrained")
    return Rule(float(prior))


def start(n: int) -> Values:
    """Equal weights with the sum 1."""
    return np.full(n, 1 / n)


def checked(weights: Values) -> Values:
    """The weights with the sum 1. Raises BoostingError where one is negative or not finite, or all are 0."""
    total = float(np.sum(weights))
    if not np.all(np.isfinite(weights)) or np.any(weights < 0) or not 0 < total < math.inf:
        raise BoostingError("weights must be finite numbers of at least 0, not all of them 0.")
    return weights / total


def error_of(wrong: NDArray[np.bool_], weights: Values) -> float:
    """The share of the weight that lies on wrong samples."""
    return float(np.sum(checked(weights)[wrong]))


def judge(error: float, rule: Rule, n: int) -> Judged:
    """An expert's alpha, with two guards that the published code lacks.

    An eps of 0, or of no more than rounding, counts as half a sample of n, as its alpha would be infinite; boosting has
    nothing more to learn from then. Any other eps counts as it is, as AdaBoost's does, however little weight the wrong
    samples have. An eps at or above the reference has an alpha of 0 or less: such an expert is left out.
    """
    if error >= rule.reference:
        said = f"its weighted error {error:.4f} is not below the prior's {rule.reference:.4f}: it is left out"
        return Judged(error, 0.0, "not better than the prior", said)
    perfect = error < _ROUNDING
    counted = min(_least(n), rule.reference / 2) if perfect else error
    alpha = rule.scale * (_log_odds(rule.reference) - _log_odds(counted))
    if perfect:
        said = f"it makes no mistake on its training set, which counts as an error of {counted:.2g}; boosting ends"
        return Judged(error, alpha, "perfect", said)
    return Judged(error, alpha, "kept", "")


def reweighted(weights: Values, wrong: NDArray[np.bool_], alpha: float, rule: Rule) -> Values:
    """The next round's weights, with the sum 1: those of wrong samples grow by exp(alpha / scale) before that.

    With scale 1/2 that is the published exp(-alpha) for right and exp(alpha) for wrong samples.
    """
    return checked(weights * np.where(wrong, math.exp(alpha / rule.scale), 1.0))


def combined(votes: Values, alphas: Sequence[float], *, discrete: bool = False) -> Values:
    """The experts' weighted mean of probabilities; discrete: of their single votes, as AdaBoost's own.

    votes: (experts, rows, classes) probabilities. The result is (rows, classes), each row with the sum 1.
    """
    shares = checked(np.asarray(alphas, dtype=np.float64))
    if discrete:
        votes = (votes.argmax(-1)[..., None] == np.arange(votes.shape[-1])).astype(np.float64)
    return np.tensordot(shares, votes, axes=1)


def resampled(weights: Values, seed: int) -> NDArray[np.int64]:
    """As many rows as there are, drawn with replacement by their weights; sorted."""
    return np.sort(np.random.default_rng(seed).choice(len(weights), size=len(weights), p=checked(weights)))


def best_round(accuracies: Sequence[float]) -> int:
    """The first of the rounds with the highest accuracy."""
    return int(np.argmax(np.asarray(accuracies)))


def exhausted(accuracies: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` rounds brought nothing better than a round before them."""
    return len(accuracies) - 1 - best_round(accuracies) >= patience


def _least(n: int) -> float:
    """Half a sample: the error of who makes none on n."""
    return 1 / (2 * max(n, 1))


def _log_odds(share: float) -> float:
    return math.log(share) - math.log1p(-share)
