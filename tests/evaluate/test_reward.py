"""Rewards against transformers' own pipeline, and models that are no reward models."""

import json

import pytest
import talker
import torch
from rewarding import MARK, save_rewarder

from expo.evaluate.metrics import metric_of
from expo.evaluate.metrics.rewarder import RewardError, open_rewarder
from expo.generate import Sampling
from expo.generate.prompts import NoChatTemplate

CHAT = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "well then"}]


@pytest.fixture(scope="module")
def rewarder(tmp_path_factory):
    return save_rewarder(tmp_path_factory.mktemp("reward") / "rm")


def by_pipeline(folder, chats) -> list[float]:
    """As the authors of ExPO ask it: the template's text without its beginning mark, which the pipeline adds."""
    from transformers import AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [tokenizer.apply_chat_template(chat, tokenize=False).replace(MARK, "") for chat in chats]
    pipe = pipeline("text-classification", model=str(folder), tokenizer=tokenizer, device="cpu", dtype=torch.float32)
    return [found[0]["score"] for found in pipe(texts, top_k=None, function_to_apply="none", batch_size=1)]


def test_rewards_are_the_pipeline_s_on_the_answers_that_expo_generates(model, tokenizer, questions, rewarder):
    metric = metric_of(f"reward:{rewarder}", data=questions, sampling=Sampling(max_tokens=12))
    found = metric.score(model, tokenizer, metric.ids)
    answers = metric_of("accuracy", data=questions, sampling=Sampling(max_tokens=12))
    assert [one.length for one in found] == [one.length for one in answers.score(model, tokenizer, answers.ids)]
    from expo.evaluate.metrics.answering import asking_of
    from expo.evaluate.metrics.reward import chat_of

    asking = asking_of(questions, Sampling(max_tokens=12), template=None, chat=None, demos=None, long_prompts="error",
                       batch_tokens=None)  # fmt: skip
    written = asking.answers(model, tokenizer, asking.questions)
    chats = [chat_of(one, written[one.id][0].response) for one in asking.questions]
    assert [one.score for one in found] == pytest.approx(by_pipeline(rewarder, chats), rel=1e-4, abs=1e-5)
    assert metric.higher_is_better and metric.generates and json.dumps(metric.record())


def test_the_beginning_mark_stands_once(tmp_path, rewarder):
    for folder in (rewarder, save_rewarder(tmp_path / "bare", template=talker.TEMPLATE)):
        judge = open_rewarder(str(folder))
        ids = judge.encode("q1", CHAT)
        assert ids[0] == judge.tokenizer.bos_token_id and ids.count(judge.tokenizer.bos_token_id) == 1


def test_padding_and_batches_change_no_reward(rewarder):
    judge = open_rewarder(str(rewarder))
    chats = [(i, [CHAT[0], {"role": "assistant", "content": "word " * i}]) for i in range(7)]
    one_by_one = [judge.rewards([chat], "cpu")[0] for chat in chats]
    assert judge.rewards(chats, "cpu", 4096) == pytest.approx(one_by_one, rel=1e-5)
    judge.model.config.pad_token_id = None
    assert judge.rewards(chats, "cpu", 4096) == pytest.approx(one_by_one, rel=1e-5)


def test_the_mean_of_several_samples_counts(model, tokenizer, questions, rewarder):
    def scores(**how):
        metric = metric_of(
            f"reward:{rewarder}", data=questions, sampling=Sampling(max_tokens=6, temperature=1.0, **how)
        )
        return [one.score for one in metric.score(model, tokenizer, metric.ids)]

    first, both = scores(samples=1), scores(samples=2)
    assert first != both and scores(samples=2) == both


def test_more_than_one_output_is_refused_before_any_weight_is_read(tmp_path, questions):
    folder = save_rewarder(tmp_path / "two", labels=2)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(RewardError, match=r"has 2 outputs \(LlamaForSequenceClassification\); a reward model has one"):
        metric_of(f"reward:{folder}", data=questions)


def test_a_language_model_is_no_reward_model(tmp_path, questions, model, tokenizer):
    with pytest.raises(RewardError, match="has 2 outputs"):
        metric_of(f"reward:{talker.save(tmp_path / 'causal')}", data=questions)
    metric = metric_of(f"reward:{save_rewarder(tmp_path / 'headless', head=False)}", data=questions)
    with pytest.raises(RewardError, match=r"tensors are missing, such as score.weight"):
        metric.score(model, tokenizer, metric.ids)


def test_a_reward_model_without_a_template_is_refused(tmp_path, questions):
    with pytest.raises(NoChatTemplate, match="how it reads a question"):
        metric_of(f"reward:{save_rewarder(tmp_path / 'silent', template=None)}", data=questions)


def test_an_answer_beyond_its_window_is_named(rewarder):
    with pytest.raises(RewardError, match=r"q9: question and answer have \d+ tokens, and .* reads 128"):
        open_rewarder(str(rewarder)).rewards([("q9", [CHAT[0], {"role": "assistant", "content": "long" * 50}])], "cpu")
