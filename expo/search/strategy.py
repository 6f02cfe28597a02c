"""How a space is searched: a grid, a grid within a budget of examples, a bracket, or one of Optuna's samplers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from expo.errors import BadSetting
from expo.search.bracket import bracket, most_looks
from expo.search.errors import BadBudget, BadValues
from expo.search.halving import Round, halving, rounds
from expo.search.sampled import SAMPLERS, check_sampler, sampled
from expo.search.space import Point, Space
from expo.search.values import Dimension

FIRST_ALPHA, LAST_ALPHA = 0.1, 51.2  # of a bracket: the paper's alphas lie between 0.1 and 25
TRIALS = 20
KINDS = ("grid", *SAMPLERS)


@dataclass(frozen=True)
class Strategy:
    """Which points are looked at, and in which order. kind: grid | halving | bracket | tpe | cmaes."""

    kind: str
    points: tuple[Point, ...] = ()  # of a grid
    budget: int = 0  # scored examples, of halving
    rounds: tuple[Round, ...] = ()
    trials: int = 0  # most tries of the others, the baseline not counted
    start: float = 0.0  # of a bracket
    limit: float = 0.0
    seed: int = 0

    @property
    def most_tries(self) -> int:
        """Beside the baseline."""
        return len(self.points) or self.trials

    def most_scored(self, n_examples: int) -> int:
        """Examples that are scored at most, the baseline's included."""
        if not self.rounds:
            return (self.most_tries + 1) * n_examples
        before = [0, *(one.n_examples for one in self.rounds)]
        return sum((one.n_tries + 1) * (one.n_examples - old) for one, old in zip(self.rounds, before, strict=False))

    def record(self) -> dict[str, Any]:
        """What identifies it, as JSON values."""
        own = {
            "halving": {"budget": self.budget, "rounds": [one._asdict() for one in self.rounds]},
            "bracket": {"start": self.start, "limit": self.limit, "trials": self.trials},
        }
        drawn = {"trials": self.trials, "seed": self.seed}
        return {"kind": self.kind, **own.get(self.kind, drawn if self.kind in SAMPLERS else {})}

    def run(self, space: Space, ids: Sequence[str], value: Callable[..., float]) -> None:
        """Look at the points. value(point[, ids]) scores one; more is better."""
        if self.kind == "halving":
            halving(self.points, ids, self.budget, value)
            return
        value({})
        if self.kind == "grid":
            for point in self.points:
                value(point)
        elif self.kind == "bracket":
            path = space.dimensions[0].path
            looks = {"start": self.start, "limit": self.limit, "most": self.trials}
            bracket(lambda x: value({path: x} if x else {}), **looks)
        else:
            sampled(space.dimensions, self.kind, self.trials, self.seed, value)


def strategy_for(
    space: Space,
    n_examples: int,
    *,
    use_bracket: bool = False,
    sampler: str | None = None,
    trials: int | None = None,
    budget: int | None = None,
    seed: int = 0,
) -> Strategy:
    """The strategy that these settings ask for; raises BadValues, BadBudget, BadSetting, OptunaUnavailable."""
    if sampler not in (None, *KINDS):
        raise BadSetting("sampler", sampler, KINDS)
    if budget is not None and (use_bracket or sampler in SAMPLERS):
        raise BadBudget("--budget shares examples out among values that are known beforehand: leave out --bracket and "
                        "--sampler.")  # fmt: skip
    if trials is not None and trials < 1:
        raise BadValues(f"--trials must be at least 1, not {trials}.")
    if use_bracket:
        return _bracket(space.dimensions, trials)
    if sampler in SAMPLERS:
        check_sampler(sampler, space.dimensions)
        return Strategy(sampler, trials=trials or TRIALS, seed=seed)
    if trials is not None:
        raise BadValues("--trials limits --bracket and --sampler; a grid has as many tries as values.")
    points = tuple(space.points)
    if budget is None:
        return Strategy("grid", points)
    if len(points) < 2:
        raise BadBudget("--budget shares examples out among several tries, and there is one.")
    return Strategy("halving", points, budget, tuple(rounds(len(points), n_examples, budget)))


def _bracket(dimensions: Sequence[Dimension], trials: int | None) -> Strategy:
    if len(dimensions) != 1 or not dimensions[0].is_range:
        raise BadValues("--bracket searches one range: alpha's own, or that of --vary PATH=START:LIMIT.")
    start, limit = dimensions[0].low, dimensions[0].high
    if start <= 0:
        raise BadValues(f"--bracket doubles from its start, which must be above 0; {start:g} is not.")
    # Doubling to the end, and as many looks again to close in.
    return Strategy("bracket", start=start, limit=limit, trials=trials or 2 * most_looks(start, limit))
