"""The embedded task: true answers, splits that never meet, and models that are ordinary checkpoints."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from expo import toy

TINY = toy.Size(width=16, layers=1)


@pytest.fixture(scope="module")
def tokenizer():
    return toy.build_tokenizer()


@pytest.fixture(scope="module")
def model():
    return toy.build_model(toy.WEAK, seed=0)


# --- The task --------------------------------------------------------------------------------------------------------


def test_a_question_by_hand():
    assert toy.solve([3, 1, 4, 7, 5]) == ("31475=", "34850")
    assert toy.answer("34850") == "0" and toy.answer("") == ""


@pytest.mark.parametrize("n_terms", range(1, 8))
def test_answers_are_the_sums_of_the_digits_of_the_question(n_terms):
    for prompt, completion in toy.draw(n_terms, min(10 ** (n_terms - 1), 10), "test", seed=3):
        digits = [int(c) for c in prompt.removesuffix("=")]
        assert len(digits) == n_terms
        assert completion == "".join(str(sum(digits[: i + 1]) % 10) for i in range(n_terms))


@pytest.mark.parametrize("n_terms", range(1, 6))
def test_the_splits_hold_every_question_once(n_terms):
    pools = [toy._pool(n_terms, split) for split in ("train", "validation", "test")]
    assert [len(pool) * 10 for pool in pools] == [8 * 10**n_terms, 10**n_terms, 10**n_terms]
    assert torch.cat(pools).sort().values.tolist() == list(range(10**n_terms))


def test_no_split_is_a_pattern_in_the_digits():
    digits = torch.tensor([[int(d) for d in e.prompt[:-1]] for e in toy.draw(5, 10_000, "test", seed=0)])
    for place in range(5):
        assert torch.bincount(digits[:, place]).tolist() == pytest.approx([1000] * 10, abs=150)
    sums = digits.sum(dim=1) % 10
    assert torch.bincount(sums).tolist() == pytest.approx([1000] * 10, abs=150)


def test_splits_are_disjoint_whatever_the_seeds():
    drawn = [set(toy.draw(4, 500, split, seed)) for seed, split in enumerate(toy.SPLITS)]
    assert not drawn[0] & drawn[1] and not drawn[0] & drawn[2] and not drawn[1] & drawn[2]


def test_questions_differ_and_follow_the_seed():
    first, again, other = (toy.draw(5, 2000, "test", seed) for seed in (0, 0, 1))
    assert first == again and first != other
    assert len(set(first)) == 2000


def test_more_questions_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="were asked for"):
        toy.draw(2, 100, "test", seed=0)
    with pytest.raises(ValueError, match="1 to 7"):
        toy.draw(8, 1, "test", seed=0)


def test_a_mixture_has_the_same_number_of_every_length():
    examples = toy.mixture((1, 3), each=50, split="train", seed=0)
    assert [len(e.completion) for e in examples] == [1] * 50 + [3] * 50


# --- Tokenizer and models --------------------------------------------------------------------------------------------


def test_the_tokenizer_returns_what_it_was_given(tokenizer, tmp_path):
    text = "0123456789=34850"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer(text)["input_ids"]) == len(text)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (again.pad_token, again.eos_token, again.decode([3, 4])) == ("<pad>", "<eos>", "01")


def test_a_saved_model_reloads_with_transformers_and_generates_the_same(model, tokenizer, tmp_path):
    toy.save(model, tokenizer, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    asked = AutoTokenizer.from_pretrained(tmp_path)("314=", return_tensors="pt")
    with torch.inference_mode():
        written = again.generate(input_ids=asked["input_ids"], do_sample=False, max_new_tokens=5)[0, 4:].tolist()
    expected = toy.complete(model, tokenizer, ["314="], max_new_tokens=5)[0]
    ended = tokenizer.decode([token for token in written if token != tokenizer.eos_token_id])
    assert ended == expected


def test_models_follow_their_seed_and_leave_the_global_one_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (toy.build_model(TINY, seed).lm_head.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


# --- Learning and answering ------------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_follows_its_seed(tokenizer):
    examples = toy.draw(2, 64, "train", seed=0)
    runs = []
    for seed in (0, 0, 1):
        model = toy.build_model(TINY, seed=0)
        runs.append(toy.train(model, tokenizer, examples, steps=30, lr=1e-2, batch_size=16, seed=seed))
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][-1] < 0.8 * runs[0][0]


def test_only_the_completion_and_its_end_are_learnt(tokenizer):
    examples = [toy.Example("12=", "13"), toy.Example("1234=", "1360")]
    tokens, labels = next(toy._batches(tokenizer, examples, 2, seed=0))
    for row, taught in zip(tokens, labels, strict=True):
        prompt, _, rest = tokenizer.decode(row).partition("=")
        assert tokenizer.decode(taught[taught >= 0]) == rest.replace("<pad>", "")
        assert (taught[: len(prompt) + 1] == -100).all()
        assert (taught[row == tokenizer.pad_token_id] == -100).all()


def test_training_calls_back_after_each_step_and_restores_the_threads(tokenizer):
    steps, before = [], torch.get_num_threads()
    course = toy.Course(lengths=(1, 2), steps=3, lr=1e-3, batch_size=8)
    losses = toy.teach(toy.build_model(TINY, 0), tokenizer, course, 0, lambda: steps.append(torch.get_num_threads()))
    assert len(losses) == 3 and steps == [1, 1, 1]
    assert torch.get_num_threads() == before


def test_greedy_answers_are_the_same_with_and_without_a_cache(model, tokenizer):
    prompts = [e.prompt for n in (2, 5, 3) for e in toy.draw(n, 5, "test", seed=0)]
    cached = toy.complete(model, tokenizer, prompts)
    assert cached == toy.complete(model, tokenizer, prompts, cache=False)
    assert len(set(cached)) > 1


def test_answers_come_in_the_order_of_the_questions(model, tokenizer):
    prompts = ["12=", "12345=", "90=", "54321=", "12="]
    alone = [toy.complete(model, tokenizer, [prompt])[0] for prompt in prompts]
    assert toy.complete(model, tokenizer, prompts) == alone


def test_grading_compares_the_last_digit(monkeypatch, tokenizer):
    examples = [toy.solve(terms) for terms in ([1, 2], [3, 4], [5, 6])]
    monkeypatch.setattr(toy, "complete", lambda *_: ["13", "07", "5"])
    assert toy.grade(None, tokenizer, examples).tolist() == [True, True, False]


# --- How sure one can be ---------------------------------------------------------------------------------------------


def test_the_paired_difference_by_hand():
    before = torch.tensor([True, False, False, True])
    after = torch.tensor([True, True, False, True])
    half = toy.Z * 0.5 / math.sqrt(4)  # changes 0, 1, 0, 0: standard deviation 0.5
    assert toy.paired_difference(before, after) == pytest.approx((0.25, 0.25 - half, 0.25 + half))
    assert toy.paired_difference(before, before) == (0, 0, 0)
