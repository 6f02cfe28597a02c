"""A callable of the user's as a metric, and all that it can do wrong."""

import pytest

from expo.evaluate.metrics import MetricError, metric_of
from expo.evaluate.metrics.metric import BadScores

CODE = """
import torch

def weight(model, tokenizer, examples):
    assert not torch.is_grad_enabled() and not model.training
    return [model.lm_head.weight[0, 0].item() + len(example["prompt"]) for example in examples]

def less(model, tokenizer, examples):
    return torch.zeros(len(examples))
less.higher_is_better = False

def nan(model, tokenizer, examples):
    return [float("nan") if example["id"] == "q2" else 1 for example in examples]

def few(model, tokenizer, examples):
    return [1.0]

def words(model, tokenizer, examples):
    return ["good"] * len(examples)

def one(model, tokenizer, examples):
    return 1.0

def broken(model, tokenizer, examples):
    raise KeyError("prompt?")

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The code as a module of the current directory."""
    (tmp_path / "own_metrics.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return "own_metrics"


def test_it_gets_model_tokenizer_and_rows_and_its_numbers_are_the_scores(module, model, tokenizer, questions):
    for name in (module, f"./{module}.py"):
        metric = metric_of(f"{name}:weight", data=questions)
        found = metric.score(model, tokenizer, ("q3", "q1"))
        first = model.lm_head.weight[0, 0].item()
        assert [(one.id, one.score) for one in found] == [("q3", first + 9), ("q1", first + 5)]
        assert metric.higher_is_better


def test_it_says_itself_where_less_is_better(module, model, tokenizer, questions):
    metric = metric_of(f"{module}:less", data=questions)
    assert not metric.higher_is_better
    assert [one.score for one in metric.score(model, tokenizer, metric.ids)] == [0.0] * 6


def test_an_edited_function_is_another_metric(tmp_path, questions):
    """Scores that an earlier version gave are not its own."""
    path, records = tmp_path / "mine.py", []
    for number in (1, 1, 2):
        path.write_text(f"def f(model, tokenizer, examples):\n    return [{number}.0 for _ in examples]\n")
        records.append(metric_of(f"{path}:f", data=questions).record())
    assert records[0] == records[1] != records[2]


def test_what_it_prints_goes_to_stderr(tmp_path, model, tokenizer, questions, capsys):
    (tmp_path / "loud.py").write_text(
        "def f(model, tokenizer, examples):\n    print('hm')\n    return [1.0] * len(examples)\n"
    )
    metric = metric_of(f"{tmp_path / 'loud.py'}:f", data=questions)
    metric.score(model, tokenizer, metric.ids)
    found = capsys.readouterr()
    assert found.out == "" and "hm" in found.err


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        ("nan", BadScores, r"1 of 6 scores are no finite number. Examples: q2 \(nan\)"),
        ("few", BadScores, "returned 1 numbers for 6 examples"),
        ("words", BadScores, "the score of example q0 is 'good', not a number"),
        ("one", BadScores, "returned a float, not a list"),
        ("broken", MetricError, "failed: KeyError: 'prompt\\?'"),
    ],
)
def test_what_is_no_score_is_refused_by_example(module, model, tokenizer, questions, function, kind, words):
    metric = metric_of(f"{module}:{function}", data=questions)
    with pytest.raises(kind, match=words):
        metric.score(model, tokenizer, metric.ids)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("own_metrics:wait", "has no function 'wait'"),
        ("own_metrics:brokn", "Did you mean 'broken'"),
        ("own_metrics:number", "has no function 'number'"),
        ("no_such_module:f", "no_such_module cannot be imported"),
        ("./missing.py:f", "no such file"),
    ],
)
def test_what_cannot_be_called_is_refused_at_once(module, questions, spec, words):
    with pytest.raises(MetricError, match=words):
        metric_of(spec, data=questions)
