"""Teacher forcing says of each answer's token what plain forward passes say, on the trainer's own tokens."""

import numpy as np
import pytest
import talker
import torch
from taught import CHAT, TINY, questions, write_rows

from expo import toy
from expo.evaluate import teacher_forced as room
from expo.evaluate.teacher_forced import teacher_forced, tokenized
from expo.generate.local import wrap
from expo.generate.members import Members
from expo.ops import one_thread
from expo.train import SftSettings, train_sft
from expo.train.errors import BadRows


@pytest.fixture(scope="module", autouse=True)
def single():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def members():
    tokenizer = toy.build_tokenizer()
    models = [wrap(toy.build_model(TINY, seed).eval(), tokenizer, f"m{seed}") for seed in range(3)]
    return Members(models, [0.5, 0.0, 1.25])


ROWS = questions(12, terms=(3, 5, 6))


def by_hand(local, row, weights):
    """(whether each of the answer's tokens is the likeliest, its log p), one row at a time, in float64."""
    prompt = local.tokenizer(row["prompt"])["input_ids"]
    answer = [*local.tokenizer(row["completion"])["input_ids"], local.tokenizer.eos_token_id]
    shares = 0.0
    for model, weight in zip(local.models, weights, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double()
        shares = shares + weight / sum(weights) * logits.softmax(-1).numpy()
    return answer, shares.argmax(-1) == answer, np.log(shares[range(len(answer)), answer])


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
@pytest.mark.parametrize("alone", [True, False])
def test_each_token_is_judged_as_a_plain_forward_pass_judges_it(alone, batch_tokens, members, monkeypatch):
    monkeypatch.setattr(room, "_PIECE", 14 * 5)  # five tokens at a time
    local, weights = (members.members[0], [1.0]) if alone else (members, [0.5, 1.25])
    seen = []
    found = teacher_forced(local, ROWS, batch_tokens=batch_tokens, progress=lambda done, n: seen.append((done, n)))
    assert seen[-1] == (12, 12) and len(seen) == {1: 12, 40: 5, 4096: 1}[batch_tokens]
    for number, (one, row) in enumerate(zip(found, ROWS, strict=True), start=1):
        answer, correct, logps = by_hand(local, row, weights)
        assert one.where == f"row {number}" and one.tokens.tolist() == answer
        assert one.correct.dtype == bool and one.correct.tolist() == correct.tolist()
        np.testing.assert_allclose(one.logps, logps, atol=1e-5)


def test_a_head_that_caps_its_logits_is_judged_by_them():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=14, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.5, initializer_range=0.3, pad_token_id=0,
        max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    local = wrap(Gemma2ForCausalLM(config).eval(), toy.build_tokenizer(), "capped")
    for one, row in zip(teacher_forced(local, ROWS), ROWS, strict=True):
        np.testing.assert_allclose(one.logps, by_hand(local, row, [1.0])[2], atol=1e-5)


def test_one_number_a_token_is_what_the_trainer_takes_as_weights(members, tmp_path):
    start = tmp_path / "start"
    toy.save(toy.build_model(TINY, 0), toy.build_tokenizer(), start)
    data = write_rows(tmp_path / "d.jsonl", ROWS)
    counts = [len(answer.ids) - answer.n_prompt for answer in tokenized(start, data)]
    found = teacher_forced(start, data)
    assert [len(one.correct) for one in found] == counts == [len(row["completion"]) + 1 for row in ROWS]
    assert found[3].where == f"{data}:4"
    weighted = [{**row, "weights": (2.0 - one.correct).tolist()} for row, one in zip(ROWS, found, strict=True)]
    assert train_sft(start, weighted, tmp_path / "out", dry_run=True).rows == 12


def test_rows_are_cut_as_the_trainer_s_settings_say(members):
    local = members.members[0]
    local.tokenizer.chat_template = CHAT
    chat = [{"messages": [{"role": "user", "content": "12"}, {"role": "assistant", "content": "13"}]}]
    (one,) = teacher_forced(local, chat)
    assert local.tokenizer.decode(one.tokens) == "13<eos>"
    (one,) = teacher_forced(local, [{"prompt": "12", "completion": "13"}], chat=True)
    assert local.tokenizer.decode(one.tokens) == "13<eos>"
    (one,) = teacher_forced(local, [{"prompt": "12=", "completion": "13"}], SftSettings(end_token=False))
    assert local.tokenizer.decode(one.tokens) == "13"
    longer = [*ROWS[:2], {"prompt": "1" * 12, "completion": "2" * 12}]
    assert len(teacher_forced(local, longer, max_length=20, too_long="drop")) == 2
    with pytest.raises(BadRows, match="row 3: it has 25 tokens; at most 20 fit"):
        teacher_forced(local, longer, max_length=20)


def test_an_answer_without_a_prompt_is_refused(members):
    with pytest.raises(BadRows, match="row 1: its prompt has no token"):
        teacher_forced(members, [{"prompt": "", "completion": "13"}])


def test_an_ensemble_is_read_from_its_file(tmp_path):
    import json

    for seed in range(2):
        talker.save(tmp_path / f"e{seed}", seed)
    listed = [{"model": f"e{seed}", "weight": 1 + seed} for seed in range(2)]
    (tmp_path / "experts.json").write_text(json.dumps({"kind": "generation", "experts": listed}))
    live = [wrap(talker.build_model(seed), talker.build_tokenizer(), "x") for seed in range(2)]
    rows = [{"prompt": "ab=", "completion": "xyz"}]
    (found,), (expected,) = teacher_forced(tmp_path / "experts.json", rows), teacher_forced(Members(live, [1, 2]), rows)
    assert found.logps.tolist() == expected.logps.tolist() and len(found.logps) == 4
