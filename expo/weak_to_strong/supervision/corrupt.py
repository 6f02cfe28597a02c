"""Sets with a wanted outcome error rate, and with a wanted step-wise error rate at that outcome error rate.

One sample of every task is taken. Which tasks get a wrong one is decided by a hash of seed and id, so that the set of
20 % holds the wrong tasks of the set of 10 %, and the same seed gives the same set. The published code has no sampler.
"""

import math
from collections.abc import Sequence
from typing import Any

from expo.weak_to_strong.provenance import pick, text_hash
from expo.weak_to_strong.supervision.errors import BadRate, NotEnoughSamples
from expo.weak_to_strong.supervision.records import Judged, grouped

Candidates = list[list[Judged]]  # of each task, those of the side that the outcome error rate gave it


def corrupt(
    samples: Sequence[Judged], outcome: float, *, steps: float | None = None, seed: int = 0, only_pairs: bool = False
) -> list[Judged]:
    """One sample of each task, so that round(outcome * tasks) of them are wrong; in the order of the tasks.

    steps: the wanted share of wrong steps, reached within one sample by choosing among each task's samples (and so
    among teachers) whose steps were judged. only_pairs: leave out the tasks that have not both a correct and an
    incorrect sample, as the published pairs do. Raises BadRate, NotEnoughSamples.
    """
    check_rate("outcome error rate", outcome)
    kept = paired(samples) if only_pairs else None
    sides = {key: _sides(held) for key, held in grouped(samples).items() if kept is None or key in kept}
    if not sides:
        raise NotEnoughSamples("no task has both a correct and an incorrect sample." if samples else "no samples.")
    wrong = _wrong_ids(sides, outcome, seed)
    candidates = {key: both[key in wrong] for key, both in sides.items()}
    if steps is None:
        return [pick(held, 1, seed, key, "sample")[0] for key, held in candidates.items()]
    return _at_step_rate(candidates, steps, seed)


def paired(samples: Sequence[Judged]) -> set[Any]:
    """The ids that have both a correct and an incorrect sample."""
    return {key for key, held in grouped(samples).items() if all(_sides(held))}


def check_rate(name: str, rate: float) -> None:
    """Raise BadRate unless it is a number from 0 to 1."""
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise BadRate(f"{name}: {rate!r} is not a number from 0 to 1 (20 % is 0.2).")


def shown(rate: float) -> str:
    """A rate as part of a name: as short as it can be without meaning another rate."""
    return f"{rate:g}" if float(f"{rate:g}") == rate else repr(float(rate))


def wrong_count(outcome: float, n: int) -> int:
    """How many of n samples are to be wrong."""
    return math.floor(outcome * n + 0.5)


def _sides(held: Sequence[Judged]) -> tuple[list[Judged], list[Judged]]:
    return [one for one in held if one.result], [one for one in held if not one.result]


def _wrong_ids(sides: dict[Any, tuple], outcome: float, seed: int) -> set:
    """Which tasks get a wrong sample: those without any correct one first, then by the hash of seed and id."""
    n = len(sides)
    wanted = wrong_count(outcome, n)
    forced = [key for key, (right, _) in sides.items() if not right]
    both = [key for key, (right, wrong) in sides.items() if right and wrong]
    possible = len(forced) + len(both)
    if wanted > possible:
        raise NotEnoughSamples(_missing(outcome, n, wanted, "incorrect", possible))
    if wanted < len(forced):
        raise NotEnoughSamples(_missing(outcome, n, n - wanted, "correct", n - len(forced)))
    order = sorted(both, key=lambda key: text_hash(str(seed), str(key), "wrong"))
    return set(forced + order[: wanted - len(forced)])


def _missing(outcome: float, n: int, wanted: int, kind: str, there: int) -> str:
    return (
        f"outcome error rate {outcome:g} of {n:,} tasks needs {wanted:,} with {'an' if kind[0] == 'i' else 'a'} {kind} "
        f"sample; {there:,} have one: {wanted - there:,} are missing.\n"
        f"Draw more samples for the others, ask for another rate, or leave out the tasks without both kinds: "
        "--only-pairs."
    )


# --- A wanted share of wrong steps -----------------------------------------------------------------------------------


def _at_step_rate(candidates: dict[Any, list[Judged]], rate: float, seed: int) -> list[Judged]:
    """One candidate of each task, so that wrong steps / steps is `rate` within one sample.

    In the hash's order every task takes the candidate that brings errors - rate * steps, summed so far, nearest to 0:
    samples are about equally wrong, rather than some perfect and some hopeless. What is left is mended at the end.
    """
    check_rate("step-wise error rate", rate)
    judged = {key: [one for one in held if one.steps is not None] for key, held in candidates.items()}
    bare = [key for key, held in judged.items() if not held]
    if bare:
        raise BadRate(
            f"step-wise error rate {rate:g}: the steps of no sample are judged that {len(bare):,} of {len(judged):,} "
            f"tasks could take; the first is {bare[0]!r}.\n"
            "To judge them: expo w2s judge --steps RULE or --judge MODEL; what a judge failed at, with more --attempts."
        )
    candidates = judged
    _check_reach(list(candidates.values()), rate)
    order = sorted(candidates, key=lambda key: text_hash(str(seed), str(key), "steps"))
    taken, total = {}, 0.0
    for key in order:
        taken[key] = _nearest(candidates[key], total, rate)
        total += _excess(taken[key], rate)
    for key in order:
        others = total - _excess(taken[key], rate)
        better = _nearest(candidates[key], others, rate)
        if abs(others + _excess(better, rate)) < abs(total):
            taken[key], total = better, others + _excess(better, rate)
    return [taken[key] for key in candidates]


def _excess(one: Judged, rate: float) -> float:
    """Wrong steps beyond what the rate allows; below 0 where there are fewer."""
    return one.n_errors - rate * one.n_steps


def _nearest(held: Sequence[Judged], total: float, rate: float) -> Judged:
    return min(held, key=lambda one: abs(total + _excess(one, rate)))


def _check_reach(candidates: Candidates, rate: float) -> None:
    """Raise BadRate, with the range that can be had, where the rate is outside of it."""
    for choose, beyond, word in ((min, lambda total: total > 1e-9, "lowest"), (max, lambda t: t < -1e-9, "highest")):
        if beyond(sum(choose(_excess(one, rate) for one in held) for held in candidates)):
            reached = _extreme(candidates, rate, choose)
            raise BadRate(
                f"step-wise error rate {rate:g}: at this outcome error rate the {word} that these samples give is "
                f"{reached:.3f}.\nAdd samples, or those of a {'better' if choose is min else 'worse'} teacher."
            )


def _extreme(candidates: Candidates, rate: float, choose: Any) -> float:
    """The lowest or highest pooled rate, by Dinkelbach's iteration: the choice at one rate gives a better rate."""
    for _ in range(50):
        taken = [choose(held, key=lambda one: _excess(one, rate)) for held in candidates]
        found = sum(one.n_errors for one in taken) / sum(one.n_steps for one in taken)
        if abs(found - rate) < 1e-12:
            break
        rate = found
    return rate
