"""What can be wrong with a pipeline's files, its run file, or one of its stages."""

from expo.errors import ExpoError
from expo.rows import RowsError


class RowError(RowsError):
    """A row of a JSONL or JSON file breaks a rule; the message says which file and line."""

    def __init__(self, where: object, problem: str, remedy: str = ""):
        super().__init__(f"{where}: {problem}", remedy)


class DuplicateId(RowError):
    """Two rows of a file have the same id."""


class IdMismatch(RowError):
    """Two files that belong together hold different ids."""


class RunFileError(ExpoError):
    """A run file asks for something that does not exist or cannot be."""


class StageError(ExpoError):
    """A stage of a pipeline cannot be run, or has not made what it promised."""


class BoostingError(ExpoError):
    """Experts cannot be boosted or combined: weights, errors or members that make no ensemble."""


class DefectsFound(ExpoError):
    """A file that was to be validated has defects; they are listed on stdout."""
