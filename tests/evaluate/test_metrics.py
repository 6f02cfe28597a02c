"""Metrics of a live model: against plain float64 arithmetic, against `expo eval`, and on bad input."""

import json

import pytest
import talker
import torch

from expo.evaluate import evaluate
from expo.evaluate.metrics import MetricError, UnknownMetric, metric_of, shared_examples
from expo.evaluate.metrics.metric import BadScores
from expo.generate import Sampling
from expo.generate.memory import OutOfMemory, is_out_of_memory
from expo.rows import RowsError
from expo.train.errors import BadRows

SHORT = Sampling(max_tokens=12)
BY_LETTER = {"extraction": "regex:^(.)", "equivalence": "string"}
LETTERS = [{"id": i, "prompt": f"{i}: " + "ab" * i, "gold": letter} for i, letter in enumerate("&sP!bH0e")]


def plain_logps(model, tokenizer, prompt: str, completion: str) -> torch.Tensor:
    """log p of each token of the completion and of its end, in float64, from whole logits."""
    model = model.double()
    before = tokenizer(prompt)["input_ids"]
    taught = [*tokenizer(completion)["input_ids"], tokenizer.eos_token_id]
    logits = model(torch.tensor([[*before, *taught]])).logits[0].double()
    return logits.log_softmax(-1)[len(before) - 1 : -1].gather(-1, torch.tensor(taught)[:, None])[:, 0]


def values(metric, model, tokenizer, ids=None) -> list[float]:
    return [one.score for one in metric.score(model, tokenizer, ids or metric.ids)]


def test_loss_is_the_mean_of_plain_token_losses(model, tokenizer, answers):
    metric = metric_of("loss", data=answers)
    found = values(metric, model, tokenizer)
    with torch.no_grad():
        wanted = [-plain_logps(model, tokenizer, row["prompt"], row["completion"]).mean().item() for row in answers]
    assert found == pytest.approx(wanted, rel=1e-5)
    assert not metric.higher_is_better and not metric.generates and metric.ids == tuple(map(str, range(10)))


@pytest.mark.parametrize("spec", ["margin", "margin:per-token"])
def test_the_margin_is_the_difference_of_plain_log_probabilities(model, tokenizer, pairs, spec):
    metric = metric_of(spec, data=pairs)
    found = values(metric, model, tokenizer)
    wanted = []
    with torch.no_grad():
        for row in pairs:
            sides = [plain_logps(model, tokenizer, row["prompt"], row[side]) for side in ("chosen", "rejected")]
            sums = [(side.mean() if spec == "margin:per-token" else side.sum()).item() for side in sides]
            wanted.append(sums[0] - sums[1])
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    assert metric.higher_is_better and metric.name == spec


def test_the_margin_is_the_implicit_reward_of_trl_without_its_reference(model, tokenizer, pairs):
    trl = pytest.importorskip("trl.trainer.utils")
    found = values(metric_of("margin", data=pairs), model, tokenizer)
    row = pairs[3]
    wanted = []
    for side in ("chosen", "rejected"):
        before = tokenizer(row["prompt"])["input_ids"]
        ids = torch.tensor([[*before, *tokenizer(row[side])["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            logps = trl.selective_log_softmax(model(ids).logits[:, :-1], ids[:, 1:])
        wanted.append(logps[0, len(before) - 1 :].sum().item())
    assert found[3] == pytest.approx(wanted[0] - wanted[1], rel=1e-4)


@pytest.mark.parametrize("spec", ["loss", "margin"])
def test_neither_batch_nor_order_nor_company_changes_a_score(model, tokenizer, pairs, answers, spec):
    data = pairs if spec == "margin" else answers
    whole = dict(zip(metric_of(spec, data=data).ids, values(metric_of(spec, data=data), model, tokenizer), strict=True))
    for tokens in (1, 40, 10_000):
        metric = metric_of(spec, data=data, batch_tokens=tokens)
        some = metric.ids[7:2:-2]
        assert values(metric, model, tokenizer, some) == pytest.approx([whole[key] for key in some], rel=1e-4)


def test_scores_follow_the_weights_and_come_back_with_them(model, tokenizer, answers):
    accuracy = metric_of("accuracy", data=LETTERS, sampling=SHORT, **BY_LETTER)
    for metric in (metric_of("loss", data=answers), accuracy):
        first = metric.score(model, tokenizer, metric.ids)
        with torch.no_grad():
            model.model.layers[0].mlp.down_proj.weight.mul_(-4)
        other = metric.score(model, tokenizer, metric.ids)
        with torch.no_grad():
            model.model.layers[0].mlp.down_proj.weight.div_(-4)
        assert other != first
        assert [one.score for one in metric.score(model, tokenizer, metric.ids)] == [one.score for one in first]


def test_the_model_is_left_as_it_was(model, tokenizer, answers):
    before = set(vars(model))
    model.train()
    values(metric_of("loss", data=answers), model, tokenizer)
    assert set(vars(model)) == before and model.training and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("sampling", [SHORT, Sampling(samples=3, temperature=1.0, max_tokens=4, seed=5)])
def test_accuracy_is_what_expo_eval_says_of_the_saved_model(tmp_path, model, tokenizer, sampling):
    folder = talker.save(tmp_path / "saved")
    data = talker.write_jsonl(tmp_path / "data.jsonl", LETTERS)
    record = evaluate(data, models=[str(folder)], output=tmp_path / "eval", sampling=sampling, **BY_LETTER)
    metric = metric_of("accuracy", data=data, sampling=sampling, **BY_LETTER)
    found = metric.score(model, tokenizer, metric.ids)
    grades = talker.rows_of(next((tmp_path / "eval").glob("grades-*.jsonl")))
    rows = talker.rows_of(next((tmp_path / "eval").glob("answers-*.jsonl")))
    for one in found:
        own = [grade["correct"] for grade in grades if str(grade["id"]) == one.id]
        lengths = [row["n_tokens"] for row in rows if str(row["id"]) == one.id]
        assert len(own) == sampling.samples
        assert one.score == sum(own) / len(own) and one.length == round(sum(lengths) / len(lengths))
    mean = sum(one.score for one in found) / len(found)
    assert mean == pytest.approx(next(iter(record["models"].values()))["accuracy"]["value"])
    assert metric.generates and {one.degenerate for one in found} <= {True, False}


def test_answers_that_loop_are_degenerate(tokenizer, questions):
    model = talker.build_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[66] = torch.arange(32.0) - 9  # one of two letters, whatever was said
        model.lm_head.weight[67] = -model.lm_head.weight[66]
    metric = metric_of("accuracy", data=questions, sampling=Sampling(max_tokens=40))
    found = metric.score(model, tokenizer, metric.ids)
    assert all(one.degenerate and one.length == 40 for one in found)


# --- What identifies a metric ----------------------------------------------------------------------------------------


def test_the_record_names_data_and_settings(answers, questions):
    one = metric_of("accuracy", data=questions, sampling=SHORT)
    assert json.loads(json.dumps(one.record())) == metric_of("accuracy", data=list(questions), sampling=SHORT).record()
    changed = [dict(questions[0], gold="77"), *questions[1:]]
    others = [
        metric_of("accuracy", data=changed, sampling=SHORT),
        metric_of("accuracy", data=questions, sampling=Sampling(max_tokens=13)),
        metric_of("accuracy", data=questions, sampling=SHORT, equivalence="string"),
        metric_of("accuracy", data=questions[:-1], sampling=SHORT),
        metric_of("loss", data=answers),
    ]
    records = [json.dumps(metric.record(), sort_keys=True) for metric in (one, *others)]
    assert len(set(records)) == len(records)


def test_shared_examples_are_found_whatever_their_ids(questions):
    one = metric_of("accuracy", data=questions[:4], sampling=SHORT)
    moved = [{**row, "id": f"other-{row['id']}"} for row in questions[3:]]
    assert shared_examples(one, metric_of("accuracy", data=moved, sampling=SHORT)) == [("q3", "other-q3")]
    assert shared_examples(one, metric_of("accuracy", data=moved[1:], sampling=SHORT)) == []


def test_an_id_on_several_pairs_is_told_apart(pairs):
    rows = [{**row, "id": "same"} for row in pairs[:3]]
    assert metric_of("margin", data=rows).ids == ("same", "same#2", "same#3")


# --- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [("acuracy", "Did you mean 'accuracy'"), ("loss:x", "loss"), ("reward:", "reward:MODEL"), ("nothing", "They are")],
)
def test_an_unknown_metric_is_named_with_those_there_are(spec, words, questions):
    with pytest.raises(UnknownMetric, match=words):
        metric_of(spec, data=questions)


def test_what_a_metric_does_not_take_is_refused(questions, answers):
    with pytest.raises(MetricError, match=r"--metric loss takes no --extraction\. It takes: --batch-tokens, --chat"):
        metric_of("loss", data=answers, extraction="whole")
    assert metric_of("loss", data=answers, extraction=None).name == "loss"
    with pytest.raises(MetricError, match="needs examples: --data"):
        metric_of("loss")


def test_too_few_examples_are_refused(tmp_path, answers, questions):
    with pytest.raises(MetricError, match=r"one example.*no score has an interval"):
        metric_of("loss", data=answers[:1])
    with pytest.raises(MetricError, match="one example"):
        metric_of("accuracy", data=questions[:1], sampling=SHORT)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(RowsError, match=r"empty.jsonl: no rows"):
        metric_of("accuracy", data=empty, sampling=SHORT)
    with pytest.raises(Exception, match=r"empty.jsonl holds no rows"):
        metric_of("margin", data=empty)


def test_bad_rows_are_named_by_file_and_line(tmp_path, pairs):
    path = talker.write_jsonl(tmp_path / "p.jsonl", [pairs[0], {"prompt": "x", "chosen": "y"}])
    with pytest.raises(BadRows, match=r"p\.jsonl:2: no chosen/rejected"):
        metric_of("margin", data=path)


def test_a_number_and_its_text_cannot_both_be_ids(questions):
    rows = [{**questions[0], "id": 1}, {**questions[1], "id": "1"}]
    with pytest.raises(MetricError, match="'1' stands in the data as a number and as a text"):
        metric_of("accuracy", data=rows, sampling=SHORT)


def test_a_score_that_is_no_number_names_its_examples(model, tokenizer, answers):
    with torch.no_grad():
        model.lm_head.weight[5, 3] = float("nan")
    with pytest.raises(BadScores, match=r"10 of 10 scores are no finite number. Examples: 0 \(nan\), 1 \(nan\)"):
        values(metric_of("loss", data=answers), model, tokenizer)


def test_strange_ids_are_refused(model, tokenizer, answers):
    with pytest.raises(MetricError, match="no example '99'"):
        metric_of("loss", data=answers).score(model, tokenizer, ["1", "99"])


# --- Memory ----------------------------------------------------------------------------------------------------------


def narrow(model, *, rows: int = 99, length: int = 99):
    """The model runs out of memory beyond so many rows or so long ones, as torch says it on a CPU."""

    def hook(module, inputs):
        if inputs[0].shape[0] > rows or inputs[0].shape[1] > length:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"
            )

    model.model.embed_tokens.register_forward_pre_hook(hook)
    return model


def test_a_full_memory_halves_the_batch_and_changes_no_score(tokenizer, answers, questions):
    for metric in (metric_of("loss", data=answers), metric_of("accuracy", data=questions, sampling=SHORT)):
        wanted = values(metric, talker.build_model(), tokenizer)
        assert values(metric, narrow(talker.build_model(), rows=2), tokenizer) == pytest.approx(wanted, rel=1e-4)


def test_what_never_fits_says_what_was_tried(tokenizer, answers, questions):
    with pytest.raises(OutOfMemory, match=r"Tried, examples x tokens: 10 x \d+, 5 x \d+, 2 x \d+, 1 x \d+"):
        values(metric_of("loss", data=answers, batch_tokens=512), narrow(talker.build_model(), length=8), tokenizer)
    with pytest.raises(OutOfMemory, match="Tried, answers at a time: 6, 3, 2, 1"):
        values(metric_of("accuracy", data=questions, sampling=SHORT), narrow(talker.build_model(), length=0), tokenizer)


def test_a_memory_that_holds_nothing_at_all_is_no_stranger_s_error(tokenizer, answers):
    with pytest.raises(OutOfMemory, match="--metric loss: the device's memory is full"):
        values(metric_of("loss", data=answers), narrow(talker.build_model(), rows=0), tokenizer)


def test_torch_s_own_word_for_a_full_memory_is_understood():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch")) and not is_out_of_memory(ValueError())
