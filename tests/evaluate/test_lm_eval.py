"""lm_eval's tasks on a live model: a task of local data, offline. Skipped where lm_eval is not installed."""

import sys

import pytest
import talker
import torch

from expo.evaluate.metrics import metric_of
from expo.evaluate.metrics.lm_eval import TaskError, _manager
from expo.generate.memory import OutOfMemory

DOCS = [{"question": f"{'ab' * i}?", "choices": ["x", "yy", "zzz"], "gold": i % 3} for i in range(7)]
CHOICE = """
task: expo_choice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}} "
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
metadata: {version: 1}
"""
WRITE = """
task: expo_write
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["b"], max_gen_toks: 8, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 1}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two tasks and their data."""
    pytest.importorskip("lm_eval")
    home = tmp_path_factory.mktemp("tasks")
    data = talker.write_jsonl(home / "docs.jsonl", DOCS)
    for name, text in (("choice", CHOICE), ("write", WRITE)):
        (home / f"{name}.yaml").write_text(text.replace("DATA", str(data)))
    return home


@pytest.fixture(scope="module", autouse=True)
def offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        yield


def right(model, tokenizer, doc) -> float:
    """Whether the true choice is the likeliest, from whole logits in float64."""
    sums = []
    before = tokenizer(f"{doc['question']} ")["input_ids"]
    for choice in doc["choices"]:
        taught = tokenizer(choice)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([[*before, *taught]])).logits[0].double().log_softmax(-1)
        sums.append(logits[len(before) - 1 : -1].gather(-1, torch.tensor(taught)[:, None]).sum().item())
    return float(sums.index(max(sums)) == doc["gold"])


def test_each_document_s_score_is_the_harness_s_own(folder, model, tokenizer):
    metric = metric_of("lm-eval:expo_choice", include_path=folder)
    assert metric.ids == tuple(f"expo_choice/{i}" for i in range(7)) and metric.higher_is_better
    found = [one.score for one in metric.score(model, tokenizer, metric.ids)]
    assert found == [right(model, tokenizer, doc) for doc in DOCS] and 0 < sum(found) < 7
    some = ("expo_choice/5", "expo_choice/0", "expo_choice/3")
    assert [one.score for one in metric.score(model, tokenizer, some)] == [found[5], found[0], found[3]]
    with torch.no_grad():
        model.lm_head.weight.neg_()
    assert [one.score for one in metric.score(model, tokenizer, metric.ids)] == [
        right(model, tokenizer, doc) for doc in DOCS
    ]


def test_a_task_s_file_a_metric_by_name_and_generation(folder, model, tokenizer):
    normed = metric_of(f"lm-eval:{folder / 'choice.yaml'}:acc_norm")
    assert normed.record()["metrics"] == {"expo_choice": "acc_norm"}
    assert len(normed.score(model, tokenizer, normed.ids)) == 7
    written = metric_of("lm-eval:expo_write", include_path=folder)
    assert written.generates and {one.score for one in written.score(model, tokenizer, written.ids)} <= {0.0, 1.0}


def test_what_the_harness_refuses_is_one_error(folder, model):
    metric = metric_of("lm-eval:expo_choice", include_path=folder, chat=True)
    with pytest.raises(TaskError, match=r"lm_eval failed on expo_choice: ValueError: .*chat"):
        metric.score(model, talker.build_tokenizer(chat=False), metric.ids)


def test_a_full_memory_halves_the_batch_and_changes_no_score(folder, model, tokenizer):
    metric = metric_of("lm-eval:expo_choice", include_path=folder)
    wanted = metric.score(model, tokenizer, metric.ids)

    def hook(module, inputs):
        if inputs[0].shape[0] > most:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to")

    model.model.embed_tokens.register_forward_pre_hook(hook)
    most = 2
    assert metric.score(model, tokenizer, metric.ids) == wanted
    most = 0
    with pytest.raises(OutOfMemory, match="Tried, sequences: 8, 4, 2, 1"):
        metric.score(model, tokenizer, metric.ids)


@pytest.mark.slow
def test_an_unknown_task_is_named_with_the_nearest_of_all(folder):
    with pytest.raises(TaskError, match=r"knows no task 'expo_choise'\. Did you mean 'expo_choice'\?"):
        metric_of("lm-eval:expo_choise", include_path=folder)
    with pytest.raises(TaskError, match=r"knows no task 'helaswag'\. Did you mean '.*hellaswag.*'\?"):
        metric_of("lm-eval:helaswag")


def test_unknown_metrics_and_broken_tasks_are_named(folder, questions):
    with pytest.raises(TaskError, match=r"no metric 'acc_nrm'\. Did you mean 'acc_norm'\?"):
        metric_of("lm-eval:expo_choice:acc_nrm", include_path=folder)
    with pytest.raises(TaskError, match="cannot load the task"):
        broken = folder / "broken.yaml"
        broken.write_text(CHOICE.replace("DATA", "/nowhere/docs.jsonl").replace("expo_choice", "expo_broken"))
        metric_of(f"lm-eval:{broken}")
    with pytest.raises(Exception, match="brings its own examples"):
        metric_of("lm-eval:expo_choice", include_path=folder, data=questions)


def test_without_the_package_the_extra_is_named(monkeypatch):
    from expo.evaluate.metrics.lm_eval import _manager

    _manager.cache_clear()
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(TaskError, match=r"pip install 'expo\[eval\]'"):
        metric_of("lm-eval:hellaswag")


def test_a_task_s_metric_is_the_same_in_every_process_and_another_once_its_file_is_edited(folder, tmp_path):
    """Its scores are kept under it, across runs."""
    import shutil

    home = shutil.copytree(folder, tmp_path / "tasks")
    (home / "fn.py").write_text("def same(docs):\n    return docs\n")
    text = (home / "choice.yaml").read_text().replace("test_split", "process_docs: !function fn.same\ntest_split", 1)
    records = []
    for prompt in ("{{question}} ", "{{question}} ", "Q: {{question}} "):
        (home / "choice.yaml").write_text(text.replace("{{question}} ", prompt))
        _manager.cache_clear()
        records.append(metric_of("lm-eval:expo_choice", include_path=home).record())
    assert records[0] == records[1] and records[0]["config"] != records[2]["config"]
