"""What a search refuses, and what stops one. Finished tries are kept whatever happens."""

from expo.errors import ExpoError


class SearchError(ExpoError):
    """A search cannot be carried out as it was asked."""


class BadValues(SearchError):
    """Values to try that are no numbers, repeat, or are none at all."""


class NothingVaries(SearchError):
    """Every try would write the same checkpoint."""


class OverlappingSets(SearchError):
    """The test set shares examples with the one that alpha is chosen on."""


class BadBudget(SearchError):
    """A budget of examples that is too small for the tries."""


class BadScore(SearchError):
    """A try whose scores cannot be compared."""


class DoesNotFit(SearchError):
    """Not even one example can be scored in the memory that is there."""


class OptunaUnavailable(SearchError):
    """A sampler was asked for, and optuna (or cmaes) is not installed."""

    def __init__(self, package: str):
        super().__init__(
            f"--sampler needs {package}, which is not installed.\nTo install it: pip install 'expo[search]'"
        )
