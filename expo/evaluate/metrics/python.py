"""my_module:function: a metric of the user's own.

    def function(model, tokenizer, examples):
        '''model: a transformers model in evaluation mode, without gradients; its weights change between calls.
        tokenizer: the one it is written with. examples: rows of --data, as dictionaries.
        Returns a finite number for each example, in their order.'''
        return [len(example["prompt"]) for example in examples]

    function.higher_is_better = False       # where less is better; absent: True

Whatever the function keeps between calls must not depend on the weights. Its file belongs to the metric: an edited one
is another metric.
"""

import inspect
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from numbers import Real
from pathlib import Path
from typing import Any

from expo.errors import nearest
from expo.evaluate.metrics.metric import BadScores, Metric, MetricError, Scored, hash_of, texts_of
from expo.generate.prompts import check_ids
from expo.methods.plugins import imported
from expo.rows import RowsError, as_rows


def python(module: str, function: str, data: str | Path | Sequence[Mapping]) -> Metric:
    """The callable `function` of a module (found from the current directory too) or of a .py file.

    Raises MetricError where it cannot be imported or called, RowsError.
    """
    name = f"{module}:{function}"
    call = _callable(module, function)
    rows = as_rows(data)
    found, problems = check_ids(rows)
    if problems:
        raise RowsError(problems)
    ids = texts_of(found, name)
    at = {key: dict(row.values) for key, row in zip(ids, rows, strict=True)}

    def measure(model: Any, tokenizer: Any, wanted: Sequence[str]) -> list[Scored]:
        try:
            with redirect_stdout(sys.stderr):  # stdout is for results, such as those of --json
                values = call(model, tokenizer, [dict(at[key]) for key in wanted])
        except Exception as error:  # it is the user's, and raises what it likes
            raise MetricError(f"--metric {name} failed: {type(error).__name__}: {error}") from error
        values = _listed(values, wanted, name)
        return [Scored(key, float(value)) for key, value in zip(wanted, values, strict=True)]

    return Metric(
        name=name,
        ids=ids,
        asked=tuple(hash_of({key: value for key, value in row.items() if key != "id"}) for row in at.values()),
        data=hash_of(list(at.items())),
        measure=measure,
        settings={"code": _code_of(call)},
        higher_is_better=bool(getattr(call, "higher_is_better", True)),
    )


def _callable(module: str, function: str) -> Any:
    try:
        loaded = imported(module)
    except Exception as error:  # a module is a program, and raises what it likes
        raise MetricError(f"--metric {module}:{function}: {module} cannot be imported: {error}") from error
    call = getattr(loaded, function, None)
    if not callable(call):
        known = [key for key in vars(loaded) if callable(getattr(loaded, key)) and not key.startswith("_")]
        raise MetricError(
            f"--metric {module}:{function}: {module} has no function {function!r}.{nearest(function, known)}"
        )
    return call


def _code_of(call: Any) -> str | None:
    """A hash of the file that a function stands in, so that scores of an edited one are not taken for its own."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(call))
        return hash_of(Path(path).read_text()) if path else None
    except (TypeError, OSError, ValueError):  # an object, or a function of a module without a file
        return None


def _listed(values: Any, wanted: Sequence[str], name: str) -> list:
    """The values as a list of numbers, one an example."""
    try:
        values = values.tolist() if hasattr(values, "tolist") else list(values)  # tensors and arrays
    except TypeError:
        raise BadScores(f"--metric {name} returned a {type(values).__name__}, not a list of numbers.") from None
    if not isinstance(values, list) or len(values) != len(wanted):
        n = len(values) if isinstance(values, list) else 1
        raise BadScores(f"--metric {name} returned {n:,} numbers for {len(wanted):,} examples.")
    for key, value in zip(wanted, values, strict=True):
        if not isinstance(value, Real):
            raise BadScores(f"--metric {name}: the score of example {key} is {value!r:.80}, not a number.")
    return values
