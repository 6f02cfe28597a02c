"""The two forms of an ensemble run, behind the same functions: `as_classes` and `as_tokens`.

train(run, settings, model, rows, folder, *, weights=None, again=0) -> facts     the checkpoint is folder/model
missed(run, model, rows) -> [1 - p(truth)]
sampled(run, model, rows) -> Sampled       what boosting weighs
test(run, model, rows, folder) -> facts    results.jsonl, each row with id and result
test_ensemble(run, experts, tested, rows, folder) -> facts
label(run, experts, rows, output) -> facts
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Sampled(NamedTuple):
    """One entry a sample, row after row: rows themselves, or the tokens of their answers."""

    rows: list[int]  # the positions of the rows that have samples
    lengths: list[int]  # samples of each
    wrong: NDArray[np.bool_]
    classes: int  # K

    def by_row(self, values: NDArray) -> list[NDArray]:
        """Values of samples, cut into rows."""
        return np.split(values, np.cumsum(self.lengths)[:-1])


def form_of(run: Any) -> Any:
    """The module that does a run's form."""
    from expo.weak_to_strong import as_classes, as_tokens

    return as_classes if run.kind == "classification" else as_tokens
