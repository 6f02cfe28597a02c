"""Optuna's samplers over any number of dimensions: TPE, or CMA-ES for evolutionary search. Seeded, so repeatable.

A search that is continued asks for the same points again, as long as their scores are the same, and these are known.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from expo.search.errors import BadValues, OptunaUnavailable
from expo.search.space import Point
from expo.search.values import Dimension

SAMPLERS = ("tpe", "cmaes")
_DIGITS = 6  # of a value that is drawn from a range


def check_sampler(name: str, dimensions: Sequence[Dimension]) -> None:
    """Raise OptunaUnavailable or BadValues before anything is scored."""
    for package in ("optuna", *(["cmaes"] if name == "cmaes" else [])):
        if find_spec(package) is None:
            raise OptunaUnavailable(package)
    if name != "cmaes":
        return
    if len(dimensions) < 2:
        raise BadValues("--sampler cmaes needs two dimensions or more; for one there are a grid, --bracket and tpe.")
    if words := next((d for d in dimensions if not d.numeric), None):
        raise BadValues(f"--sampler cmaes draws numbers, and {words.path} varies over words. Use --sampler tpe.")


def sampled(
    dimensions: Sequence[Dimension], sampler: str, n_trials: int, seed: int, value: Callable[[Point], float]
) -> None:
    """Let the sampler ask for `n_trials` points, and tell it what each is worth; more is better."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds = {"tpe": optuna.samplers.TPESampler, "cmaes": optuna.samplers.CmaEsSampler}
    study = optuna.create_study(direction="maximize", sampler=kinds[sampler](seed=seed))
    asked = {dimension.path: _distribution(optuna, dimension) for dimension in dimensions}
    for _ in range(n_trials):
        trial = study.ask(asked)
        study.tell(trial, value({d.path: _chosen(d, trial.params[d.path]) for d in dimensions}))


def _distribution(optuna: Any, dimension: Dimension) -> Any:
    kinds = optuna.distributions
    if dimension.is_range:
        return kinds.FloatDistribution(dimension.low, dimension.high)
    if dimension.numeric and list(dimension.values) == sorted(dimension.values):
        return kinds.IntDistribution(0, len(dimension.values) - 1)  # which of them: order is known, spacing may vary
    return kinds.CategoricalDistribution(list(range(len(dimension.values))))


def _chosen(dimension: Dimension, drawn: Any) -> Any:
    return float(f"{drawn:.{_DIGITS}g}") if dimension.is_range else dimension.values[drawn]
