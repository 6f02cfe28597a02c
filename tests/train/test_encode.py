"""Prompts and completions in tokens: what is taught, what is cut, and how a chat is told apart."""

import re

import pytest
from taught import CHAT

from expo import toy
from expo.train.encode import Limits, check_template, encode_completions, encode_labelled, encode_pairs
from expo.train.errors import BadData, BadRows, NoChatTemplate
from expo.train.rows import Completion, Labelled, Pair

ROOMY = Limits(64, "error")


@pytest.fixture(scope="module")
def plain():
    return toy.build_tokenizer()


@pytest.fixture(scope="module")
def chatty():
    tokenizer = toy.build_tokenizer()
    tokenizer.chat_template = CHAT
    return tokenizer


def taught(tokenizer, row):
    """(prompt, what is learnt) as texts."""
    return tokenizer.decode(row.ids[: row.n_prompt]), tokenizer.decode(row.ids[row.n_prompt :])


def test_the_completion_and_its_end_are_taught(plain):
    rows = [Completion("a", "12=", "13"), Completion("b", "1234=", "1360<eos>")]
    found = encode_completions(plain, rows[:1], ROOMY)
    assert taught(plain, found.rows[0]) == ("12=", "13<eos>")
    found = encode_completions(plain, rows[:1], ROOMY, end_token=False)
    assert taught(plain, found.rows[0]) == ("12=", "13")


def test_messages_are_rendered_by_the_template(chatty):
    rows = [Completion("a", [{"role": "user", "content": "12"}], [{"role": "assistant", "content": "13"}])]
    assert taught(chatty, encode_completions(chatty, rows, ROOMY).rows[0]) == ("12=", "13<eos>")


def test_a_plain_prompt_is_rendered_when_chat_is_asked_for(chatty):
    found = encode_completions(chatty, [Completion("a", "12", "13")], ROOMY, chat=True)
    assert taught(chatty, found.rows[0]) == ("12=", "13<eos>")


def test_messages_without_a_template_are_refused_by_line(plain):
    rows = [Completion("f:1", "12=", "13"), Completion("f:2", [{"role": "user", "content": "1"}], "2")]
    with pytest.raises(NoChatTemplate, match=r"f:2: the row holds messages, and the tokenizer of M has no chat"):
        check_template(plain, rows, False, "M")
    with pytest.raises(NoChatTemplate, match="f:1: chat is asked for"):
        check_template(plain, rows, True, "M")
    check_template(plain, rows[:1], False, "M")


def test_a_template_that_rewrites_the_prompt_is_refused(chatty):
    tokenizer = toy.build_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}=9{% endif %}"
    )
    rows = [Completion("a", [{"role": "user", "content": "12"}], "13")]
    with pytest.raises(NoChatTemplate, match="cannot be told apart"):
        encode_completions(tokenizer, rows, ROOMY)


def test_a_token_across_the_border_never_changes_the_prompt():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<eos>": 0, "a": 1, "b": 2, "ab": 3}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")
    (found,) = encode_completions(tokenizer, [Completion("f", "a", "b")], ROOMY).rows
    assert list(found.ids) == [1, 2, 0] and found.n_prompt == 1
    (found,) = encode_completions(tokenizer, [Completion("f", "ab", "ab")], ROOMY).rows
    assert list(found.ids) == [3, 3, 0]


def test_a_tokenizer_that_adds_both_ends_ends_no_prompt(plain):
    from tokenizers.processors import TemplateProcessing

    tokenizer = toy.build_tokenizer()
    ends = [("<unk>", 2), ("<eos>", 1)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<unk> $A <eos>", special_tokens=ends)
    (found,) = encode_completions(tokenizer, [Completion("f", "12=", "13")], ROOMY).rows
    assert taught(tokenizer, found) == ("<unk>12=", "13<eos>")


def test_weights_belong_to_the_completions_tokens(plain):
    def encode(weights):
        return encode_completions(plain, [Completion("f:1", "12=", "13", weights)], ROOMY).rows[0].weights

    assert encode([0.5, 2.0]) == [0.5, 2.0, 1.25]  # the end token has none, and gets the others' mean
    assert encode([0.5, 2.0, 0.0]) == [0.5, 2.0, 0.0]
    assert encode(0.25) == [0.25] * 3
    assert encode(None) is None
    told = "f:1: 4 weights for a completion of 3 tokens, its end token included: '1' '3' '<eos>'"
    with pytest.raises(BadRows, match=re.escape(told)):
        encode([1.0] * 4)


def test_all_rows_with_a_wrong_number_of_weights_are_told_and_how_they_were_cut(plain):
    rows = [Completion(f"f:{n}", "12=", "13" * n, [1.0, 1.0]) for n in range(1, 21)]
    with pytest.raises(BadRows) as error:
        encode_completions(plain, rows, ROOMY)
    lines = str(error.value).splitlines()
    assert lines[0] == "f:2: 2 weights for a completion of 5 tokens, its end token included: '1' '3' '1' '3' '<eos>'"
    assert "19 of 20 rows cannot be trained on (weights: 19)." in lines
    assert len(error.value.problems[-1].what) < 200 and error.value.problems[-1].what.endswith("... '3' '<eos>'")


def test_without_an_end_token_each_weight_belongs_to_a_written_token(plain, chatty):
    row = Completion("f", "12=", "13", [1.0])
    with pytest.raises(BadRows, match="1 weight for a completion of 2 tokens: '1' '3'"):
        encode_completions(plain, [row], ROOMY, end_token=False)
    (found,) = encode_completions(plain, [row._replace(weights=[1.0, 2.0])], ROOMY, end_token=False).rows
    assert found.weights == [1.0, 2.0]


def test_of_a_chat_the_last_turn_alone_is_taught_and_weighted(chatty):
    turns = [{"role": role, "content": text} for role, text in (("user", "12"), ("assistant", "1"), ("user", "34"))]
    row = Completion("f", turns, [{"role": "assistant", "content": "1350"}], [1.0, 2.0, 3.0, 4.0, 5.0])
    (found,) = encode_completions(chatty, [row], ROOMY).rows
    assert taught(chatty, found) == ("12=1<eos>34=", "1350<eos>") and found.weights == [1.0, 2.0, 3.0, 4.0, 5.0]


# --- Lengths ---------------------------------------------------------------------------------------------------------

LONG = [Completion("f:1", "12=", "13"), Completion("f:2", "1234=", "1360"), Completion("f:3", "12345678=", "1")]


def test_rows_beyond_the_context_are_an_error_that_counts_them(plain):
    with pytest.raises(BadRows) as error:
        encode_completions(plain, LONG, Limits(8, "error"))
    text = str(error.value)
    assert "f:2: it has 10 tokens; at most 8 fit" in text
    assert "f:3: the prompt alone has 9 tokens; at most 8 fit" in text
    assert "2 of 3 rows" in text and "too long: 1, prompt too long: 1" in text and "--too-long truncate" in text


def test_drop_leaves_them_out_and_truncate_cuts_completions_only(plain):
    found = encode_completions(plain, LONG, Limits(8, "drop"))
    assert (len(found.rows), found.truncated) == (1, 0)
    assert found.dropped == {"too long": 1, "prompt too long": 1}
    found = encode_completions(plain, [*LONG[:2], LONG[2]], Limits(8, "truncate"))
    assert [taught(plain, row) for row in found.rows] == [("12=", "13<eos>"), ("1234=", "136")]
    assert found.dropped == {"prompt too long": 1} and found.truncated == 1
    with pytest.raises(BadData, match="The only row does not fit"):
        encode_completions(plain, LONG[2:], Limits(8, "drop"))


def test_truncated_weights_stay_with_their_tokens(plain):
    row = Completion("f", "1234=", "1360", [1.0, 2.0, 3.0, 4.0])
    assert encode_completions(plain, [row], Limits(8, "truncate")).rows[0].weights == [1.0, 2.0, 3.0]


def test_a_pair_is_judged_by_its_longer_side(plain):
    rows = [Pair("f:1", "12=", "13", "1"), Pair("f:2", "12=", "13", "1360360")]
    found = encode_pairs(plain, rows, Limits(8, "drop"))
    assert [row.where for row in found.rows] == ["f:1"]
    found = encode_pairs(plain, rows, Limits(8, "truncate"))
    assert taught(plain, found.rows[1].rejected) == ("12=", "13603") and found.truncated == 1


def test_texts_to_classify_are_cut_at_their_end(plain):
    rows = [Labelled("f:1", "12345", 0), Labelled("f:2", "1", 1)]
    found = encode_labelled(plain, rows, Limits(3, "truncate"))
    assert [plain.decode(row.ids) for row in found.rows] == ["123", "1"]
    assert encode_labelled(plain, rows, Limits(3, "drop")).dropped == {"too long": 1}
