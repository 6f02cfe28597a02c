"""Metrics: one number for each example of a live model, whose weights may change between calls.

    metric = metric_of("accuracy", data=Path("val.jsonl"), sampling=Sampling(max_tokens=64))
    scored = metric.score(model, tokenizer, metric.ids)      # [Scored(id, score, length, degenerate)], in that order

    accuracy                  answers are generated and graded (--data: questions with gold answers)
    loss                      mean token negative log-likelihood of answers; lower is better (--data: completions)
    margin, margin:per-token  log p(chosen) - log p(rejected), summed or averaged over tokens (--data: pairs)
    reward:MODEL              answers are generated, and scored by a sequence-classification model with one output
    lm-eval:TASK[:METRIC]     a task of the lm_eval package, which brings its own data
    my_module:function        a callable(model, tokenizer, examples) -> list of floats; path/to/file.py:function too

The same examples in the same order give the same number whatever the batch size, as far as the model's arithmetic
does; draws of a sampler depend on (seed, example, sample, step) alone, so all weights are asked with the same noise.
"""

import importlib
import inspect
from pathlib import Path
from typing import Any

from expo.errors import nearest
from expo.evaluate.metrics.metric import Metric, MetricError, Scored, UnknownMetric, shared_examples
from expo.generate.sampling import Sampling

__all__ = ["Metric", "MetricError", "Scored", "UnknownMetric", "metric_of", "shared_examples"]

NAMES = ("accuracy", "loss", "margin", "margin:per-token", "reward:MODEL", "lm-eval:TASK", "my_module:function")


def metric_of(spec: str, *, data: Path | None = None, sampling: Sampling | None = None, **options: Any) -> Metric:
    """The metric that `spec` names, on its data; reads and checks data, and no weight of any model.

    data: JSONL of the examples. sampling: how answers are generated; metrics that generate none ignore it.
    options: keyword arguments of the metric's own function (extraction=, equivalence=, gold_field=, chat=, template=,
    demos=, long_prompts=, batch_tokens=, num_fewshot=, include_path=, ...); None stands for "not given".
    Raises UnknownMetric, MetricError, RowsError, TrainError, SourceError.
    """
    kind, _, rest = spec.partition(":")
    if spec in ("accuracy", "loss"):
        return _made(spec, spec, data, sampling, options)
    if spec in ("margin", "margin:per-token"):
        return _made(spec, "margin", data, sampling, options, per_token=bool(rest))
    if kind == "reward" and rest:
        return _made(spec, "reward", data, sampling, options, rewarder=rest)
    if kind == "lm-eval" and rest:
        return _made(spec, "lm_eval", data, sampling, options, task=rest)
    module, _, function = spec.rpartition(":")
    if module and function.isidentifier() and kind not in ("accuracy", "loss", "margin", "reward", "lm-eval"):
        return _made(spec, "python", data, sampling, options, module=module, function=function)
    raise UnknownMetric(f"no metric is called {spec!r}.{nearest(spec, NAMES)} They are: {', '.join(NAMES)}.")


def _made(spec: str, name: str, data: Any, sampling: Any, options: dict[str, Any], **own: Any) -> Metric:
    """What the function of a metric's file makes of these; options that it does not take are refused by name."""
    make = getattr(importlib.import_module(f"expo.evaluate.metrics.{name}"), name)
    takes = set(inspect.signature(make).parameters)
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in takes or key in own:
            known = sorted(takes - {"data", "sampling", *own})
            options_known = ", ".join(map(_option, known))
            raise MetricError(f"--metric {spec} takes no {_option(key)}. It takes: {options_known}.")
    if "data" in takes:
        if data is None:
            what = "--prompts" if name == "reward" else "--data"
            raise MetricError(f"--metric {spec} needs examples: {what} FILE.jsonl.")
        own["data"] = data
    elif data is not None:
        raise MetricError(f"--metric {spec} brings its own examples; leave out --data and --prompts.")
    if "sampling" in takes:
        own["sampling"] = sampling or Sampling()
    return make(**own, **given)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
