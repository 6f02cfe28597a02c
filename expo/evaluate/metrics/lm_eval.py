"""lm-eval:TASK: a task of EleutherAI's lm-evaluation-harness on the live model, one score for each of its documents.

TASK is a name of the harness, a task's YAML file, or a name from the folder --include-path; a group or tag counts all
documents of its tasks. :METRIC picks one of the task's metrics; without it the first that the task lists counts.
The harness downloads the data of its own tasks; a task of local files needs no network.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from numbers import Real
from pathlib import Path
from typing import Any

from expo.errors import nearest
from expo.evaluate.metrics.metric import BadScores, Metric, MetricError, Scored, hash_of
from expo.generate.memory import OutOfMemory, free_memory, is_out_of_memory

_SEED = 1234  # the harness's own for its few-shot examples
_ROWS = 8  # sequences at a time, halved where memory is short


class TaskError(MetricError):
    """lm_eval does not know a task, cannot load it, or does not score it as asked."""


def lm_eval(
    task: str,
    *,
    num_fewshot: int | None = None,
    include_path: str | Path | None = None,
    chat: bool | None = None,
    batch_size: int | None = None,
) -> Metric:
    """num_fewshot: demonstrations; None: the task's own number. include_path: a folder with more tasks.

    chat: prompts go through the tokenizer's chat template. batch_size: sequences at a time.
    An example is TASK/NUMBER of a document. Which demonstrations a document gets depends on which documents are asked
    with it (the harness draws them in turn), so scores are comparable over one and the same set of ids only.
    Raises TaskError.
    """
    with quiet_harness():
        name, wanted, tasks = _loaded(task, include_path)
        for one in tasks.values():
            fixed = one.get_config("num_fewshot")
            if num_fewshot is not None and fixed != 0:  # a task that says 0 means it
                one.set_config(key="num_fewshot", value=num_fewshot)
            elif fixed is None:
                one.set_config(key="num_fewshot", value=0)
        metrics = {key: _metric_of(one, key, wanted) for key, one in tasks.items()}
        documents = {key: list(one.eval_docs) for key, one in tasks.items()}
    better = {bool(one.higher_is_better().get(metrics[key], True)) for key, one in tasks.items()}
    if len(better) > 1:
        raise TaskError(f"lm-eval:{task}: higher is better in some of its tasks, lower in others. Name one task.")
    places = {f"{key}/{i}": (key, i) for key, docs in documents.items() for i in range(len(docs))}

    def measure(model: Any, tokenizer: Any, ids: Sequence[str]) -> list[Scored]:
        asked: dict[str, list[int]] = {}
        for key, number in (places[one] for one in ids):
            asked.setdefault(key, []).append(number)
        # The harness walks through documents in their order, and takes an empty list for all of them.
        ordered = {key: sorted(numbers) for key, numbers in asked.items()}
        with quiet_harness():
            found = _halved(model, tokenizer, {key: tasks[key] for key in ordered}, ordered, batch_size, bool(chat))
        scores = {
            f"{key}/{one['doc_id']}": _number(one, metrics[key], key)
            for key, samples in found.items()
            for one in _one_filter(samples)
        }
        missing = [one for one in ids if one not in scores]
        if missing:
            raise BadScores(f"lm-eval:{task} gave no score for {missing[0]} and {len(missing) - 1} more.")
        return [Scored(one, scores[one]) for one in ids]

    return Metric(
        name=f"lm-eval:{task}",
        ids=tuple(places),
        asked=tuple(hash_of(documents[key][number]) for key, number in places.values()),
        data=hash_of(documents),
        measure=measure,
        settings={
            "task": name,
            "metrics": metrics,
            "num_fewshot": {key: one.get_config("num_fewshot") for key, one in tasks.items()},
            "config": _config_of(tasks),
            "chat": bool(chat),
            "lm_eval": metadata.version("lm_eval"),
        },
        higher_is_better=better == {True},
        generates=any(one.OUTPUT_TYPE == "generate_until" for one in tasks.values()),
    )


def _config_of(tasks: Mapping[str, Any]) -> str:
    """A hash of all that the tasks' files say: another prompt is another metric."""
    said = json.dumps({key: one.dump_config() for key, one in tasks.items()}, sort_keys=True, default=str)
    return hash_of(re.sub(r" at 0x[0-9a-f]+", "", said))  # where a function lies differs from run to run


@contextmanager
def quiet_harness() -> Iterator[None]:
    """The harness without its remarks and bars, and without its marks on the generators of the whole process."""
    import os
    import random

    log, bars = logging.getLogger("lm_eval"), os.environ.get("TQDM_DISABLE")
    level, state = log.level, random.getstate()
    log.setLevel(logging.ERROR)
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        log.setLevel(level)
        random.setstate(state)
        if bars is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = bars


def _loaded(text: str, include_path: str | Path | None) -> tuple[str, str | None, dict[str, Any]]:
    """(The task's name, the metric that is asked for, the tasks behind that name)."""
    name, _, wanted = text.partition(":")
    manager = _manager(str(include_path or ""), False)
    if name not in manager.all_tasks and not Path(name).is_file():
        manager = _manager(str(include_path or ""), True)
        if name not in manager.all_tasks:
            raise _unknown(name, include_path, manager.all_tasks)
    try:
        tasks = manager.load([name])["tasks"]
    except Exception as error:  # data sets and tasks are programs, and raise what they like
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TaskError(f"lm_eval cannot load the task {name!r}: {said}\nIts data may need a network.") from error
    return name, wanted or None, tasks


@cache
def _manager(include_path: str, shipped: bool) -> Any:
    """The harness's index of tasks: the folder's, and the shipped ones only if needed, which are thousands of files."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise TaskError(
            "--metric lm-eval:TASK needs the package lm_eval, which is not installed.\n"
            "To install it: pip install 'expo[eval]'"
        ) from error
    return TaskManager(include_path=include_path or None, include_defaults=shipped)


def _unknown(name: str, include_path: str | Path | None, known: Sequence[str]) -> TaskError:
    where = f" and {include_path}" if include_path else ""
    return TaskError(
        f"lm_eval {metadata.version('lm_eval')}{where} knows no task {name!r}.{nearest(name, known)} "
        f"It knows {len(known):,}: lm-eval ls tasks.\n"
        "For a task of your own: --include-path FOLDER, or its YAML file in the place of the name."
    )


def _metric_of(task: Any, name: str, wanted: str | None) -> str:
    known = list(task.higher_is_better())
    if not known:
        raise TaskError(f"lm-eval: the task {name!r} lists no metric.")
    if wanted is not None and wanted not in known:
        raise TaskError(
            f"lm-eval: the task {name!r} has no metric {wanted!r}.{nearest(wanted, known)} It has: {known}."
        )
    return wanted or known[0]


def _halved(
    model: Any, tokenizer: Any, tasks: dict[str, Any], samples: dict[str, list[int]], rows: int | None, chat: bool
) -> Mapping[str, list[dict[str, Any]]]:
    """The harness's samples by task; with half as many sequences at a time wherever memory is full."""
    rows, tried = rows or _ROWS, []
    while True:
        try:
            return _samples(model, tokenizer, tasks, samples, rows, chat)
        except Exception as error:  # a task's code, or the harness's
            if not is_out_of_memory(error):
                said = (str(error).strip().splitlines() or ["no reason given"])[0]
                names = ", ".join(tasks)
                raise TaskError(f"lm_eval failed on {names}: {type(error).__name__}: {said}") from error
            tried.append(str(rows))
            if rows == 1:
                raise OutOfMemory(
                    f"The device ran out of memory with one sequence alone.\nTried, sequences: {', '.join(tried)}."
                ) from None
        rows //= 2
        free_memory()


def _samples(
    model: Any, tokenizer: Any, tasks: dict[str, Any], samples: dict[str, list[int]], rows: int, chat: bool
) -> Mapping[str, list[dict[str, Any]]]:
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=rows)
    for one in tasks.values():
        one.set_fewshot_seed(seed=_SEED)
    found = evaluator.evaluate(
        lm=lm, task_dict={"tasks": tasks, "groups": {}, "group_map": {}}, samples=samples, bootstrap_iters=0,
        log_samples=True, apply_chat_template=chat,
    )  # fmt: skip
    return found["samples"]


def _one_filter(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The samples under the task's first filter; it may read an answer in several ways."""
    return [one for one in samples if one["filter"] == samples[0]["filter"]]


def _number(sample: Mapping[str, Any], metric: str, task: str) -> float:
    value = sample.get(metric)
    if not isinstance(value, Real):
        raise TaskError(
            f"lm-eval: {metric} of {task} is {value!r:.60} for one document, not a number; it is one of the metrics "
            "that exist for the whole set only.\nName another: --metric lm-eval:TASK:METRIC."
        )
    return float(value)
