"""How wrong supervision is: the share of wrong outcomes and the share of wrong steps, with 95 % intervals.

Outcome error rate: wrong final answers / samples. Step-wise error rate: wrong steps / steps, over all samples at once.
In the paper people annotated the steps of 50 problems; here a rule or a model judges those of every sample.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from expo.weak_to_strong.supervision.records import Judged, grouped

RESAMPLES = 10_000
NOTE = "step-wise rates are a judge's; the paper's were annotated by people, on 50 problems"


def rates(samples: Sequence[Judged], seed: int = 0) -> dict[str, Any]:
    """Both error rates of some samples, with n and interval; `steps` is None where no sample's steps were judged."""
    judged = [one for one in samples if one.steps is not None]
    return {
        "samples": len(samples),
        "wrong": sum(not one.result for one in samples),
        "outcome": outcome_rate(samples),
        "steps": step_rate(judged, seed) if judged else None,
        **({"steps not judged": len(samples) - len(judged)} if 0 < len(judged) < len(samples) else {}),
    }


def outcome_rate(samples: Sequence[Judged]) -> dict[str, Any] | None:
    """Wrong samples / samples. Of several samples an id, the ids are what the interval counts."""
    from expo.evaluate import wilson

    if not samples:
        return None
    by_id = grouped(samples)
    wrong = sum(sum(not one.result for one in held) / len(held) for held in by_id.values())
    found = wilson(min(wrong, len(by_id)), len(by_id)).record()
    return found | {"value": sum(not one.result for one in samples) / len(samples)}


def step_rate(samples: Sequence[Judged], seed: int = 0) -> dict[str, Any] | None:
    """Wrong steps / steps, with the interval that holds 95 % of 10,000 resamples of the ids.

    Steps of one sample go wrong together, so ids are drawn, not steps. Where no step or every step is wrong, resamples
    are all alike, and the interval is Wilson's with as many trials as ids.
    """
    import numpy as np

    from expo.evaluate import wilson

    counts = [(sum(s.n_errors for s in held), sum(s.n_steps for s in held)) for held in grouped(samples).values()]
    errors, steps = sum(e for e, _ in counts), sum(s for _, s in counts)
    if not steps:
        return None
    told = {"value": errors / steps, "errors": errors, "steps": steps, "n": len(counts)}
    if errors in (0, steps):
        sure = wilson(len(counts) if errors else 0, len(counts))
        return told | {"interval": [sure.low, sure.high], "method": "Wilson over ids"}
    kinds, often = np.unique(np.array(counts), axis=0, return_counts=True)  # (kinds, 2)
    drawn = np.random.default_rng(seed).multinomial(len(counts), often / len(counts), size=RESAMPLES) @ kinds
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return told | {"interval": [float(low), float(high)], "method": "bootstrap over ids"}


def by_teacher(samples: Iterable[Judged]) -> dict[str, dict[str, Any]]:
    """The rates of each teacher's samples, where there are several teachers."""
    found: dict[str, list[Judged]] = {}
    for one in samples:
        found.setdefault(one.teacher, []).append(one)
    return {name: rates(held) for name, held in found.items()} if len(found) > 1 else {}
