"""The decoding loop writes what transformers writes, whatever the batch; members that are joined answer as one."""

import pytest
import talker
import torch

from expo.generate.batches import Task, batches
from expo.generate.decode import Member, decode
from expo.generate.noise import draw_key, gumbel
from expo.generate.pick import pick
from expo.generate.prompts import Question
from expo.generate.sampling import Sampling

PROMPTS = [[ord(c) % 200 + 1 for c in q["prompt"]] for q in talker.QUESTIONS]
LONGEST = 12


def written(members, prompts, *, pick_one=None, length=LONGEST, **how):
    def finish(row, tokens):
        return "stop" if tokens[-1] == 0 else "length" if len(tokens) == length else None

    pick_one = pick_one or (lambda logits, rows, step: logits.argmax(-1))
    found = {row: (tokens, why) for row, tokens, why in decode(members, prompts, pick=pick_one, finish=finish, **how)}
    return [found[row][0] for row in range(len(prompts[0]))]


def brute_force(models, prompt, length=LONGEST):
    """Greedy tokens from the mean of the logits, each step from scratch, without cache, padding or batch."""
    tokens = []
    with torch.inference_mode():
        while len(tokens) < length and (not tokens or tokens[-1] != 0):
            logits = [model(torch.tensor([[*prompt, *tokens]])).logits[0, -1] for model in models]
            tokens.append(int(torch.stack(logits).mean(0).argmax()))
    return tokens


def test_greedy_answers_are_those_of_transformers_generate(live):
    expected = [
        live.model.generate(torch.tensor([prompt]), max_new_tokens=LONGEST, do_sample=False)[0, len(prompt) :].tolist()
        for prompt in PROMPTS
    ]
    assert written([Member(live.model)], [PROMPTS]) == expected


def test_a_prompt_that_comes_twice_is_read_once_and_answered_twice(live):
    member = Member(live.model)
    read = []
    forward = member._forward
    member._forward = lambda tokens: read.append(len(tokens)) or forward(tokens)
    twice = [PROMPTS[3], PROMPTS[5], PROMPTS[3]]
    assert written([member], [twice]) == [brute_force([live.model], prompt) for prompt in twice]
    assert read[0] == 2


def test_two_members_answer_as_the_mean_of_both(live):
    other = talker.build_model(1)
    mean = written([Member(live.model), Member(other)], [PROMPTS, PROMPTS], join=lambda x: (x[0] + x[1]) / 2)
    assert mean == [brute_force([live.model, other], prompt) for prompt in PROMPTS]
    assert mean != written([Member(live.model)], [PROMPTS])


def test_members_may_read_prompts_of_their_own(live):
    others = [[7, 8, 9], [5]]
    found = written([Member(live.model)] * 1 + [Member(live.model)], [PROMPTS[:2], others], join=lambda x: x[1])
    assert found == [brute_force([live.model], prompt) for prompt in others]


def test_rows_that_ended_are_dropped_from_the_cache(live):
    member, slots = Member(live.model), []
    keep = member.keep
    member.keep = lambda rows: slots.append(len(rows)) or keep(rows)
    ends = [2, 2, 2, 9, 9, 2, 2, 9, 2, 2, 2]

    def finish(row, tokens):
        return "length" if len(tokens) == ends[row] else None

    found = dict(
        (row, tokens)
        for row, tokens, _ in decode(
            [member], [PROMPTS], pick=lambda logits, rows, step: logits.argmax(-1), finish=finish
        )
    )
    assert slots == [3]
    for row in (3, 4, 7):
        assert found[row][: len(brute_force([live.model], PROMPTS[row], 9))] == brute_force(
            [live.model], PROMPTS[row], 9
        )


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0), Sampling(temperature=0.7, top_p=0.9)])
def test_neither_batch_nor_order_changes_a_token(live, sampling):
    def drawn(order):
        keys = [draw_key(0, row, 0) for row in order]
        found = written(
            [Member(live.model)],
            [[PROMPTS[row] for row in order]],
            pick_one=lambda logits, rows, step: pick(logits, sampling, [keys[row] for row in rows], [step] * len(rows)),
        )
        return dict(zip(order, found, strict=True))

    everything = list(range(len(PROMPTS)))
    whole = drawn(everything)
    assert drawn(everything[::-1]) == whole
    for row in everything:
        assert drawn([row])[row] == whole[row]


def test_draws_follow_the_model_s_distribution():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5]).repeat(20_000, 1)
    keys = [draw_key(3, question, 0) for question in range(len(logits))]
    drawn = pick(logits, Sampling(temperature=0.8), keys, [5] * len(logits))
    expected = torch.softmax(logits[0].double() / 0.8, 0) * len(logits)
    chi2 = ((torch.bincount(drawn, minlength=5) - expected) ** 2 / expected).sum()
    assert chi2 < 23.5  # 4 degrees of freedom: exceeded once in 10,000


def test_steps_samples_questions_and_seeds_have_draws_of_their_own():
    keys = {draw_key(seed, q, s) for seed in (0, 1) for q in ("1", 1, "2") for s in (0, 1)}
    assert len(keys) == 12
    noise = gumbel([1, 1, 2], [0, 1, 0], 1000, "cpu")
    assert len({tuple(row) for row in noise.tolist()}) == 3
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 0.15


def test_the_nucleus_and_top_k_by_hand():
    logits = torch.log(torch.tensor([0.1, 0.4, 0.3, 0.2])).repeat(2000, 1)
    keys = [draw_key(0, i, 0) for i in range(2000)]
    for settings, allowed in (
        ({"top_p": 0.6}, {1, 2}),  # 0.4 is not 0.6 yet, 0.4 + 0.3 is more
        ({"top_p": 0.4}, {1}),
        ({"top_k": 3}, {1, 2, 3}),
        ({"top_p": 0.95, "top_k": 2}, {1, 2}),
    ):
        drawn = pick(logits, Sampling(temperature=1.0, **settings), keys, [0] * 2000)
        assert set(drawn.tolist()) == allowed, settings


def test_batches_keep_to_the_room_and_hold_every_task_once():
    question = Question("q", "here", "p")
    tasks = [Task(question, i, (1,) * length, 10, False) for i, length in enumerate([5, 90, 3, 40, 41, 2, 2, 300])]
    found = batches(tasks, 200)
    assert sorted(task.sample for batch in found for task in batch) == list(range(8))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(len(task.tokens) + task.limit for task in batch) <= 200
    assert len(found[0][0].tokens) == 300
    assert all(len({len(task.tokens) for task in batch}) == 1 for batch in batches(tasks, 200, padded=False))
