"""A file of answers: the same bytes whatever the batch, the order of work or a kill in between."""

import json

import pytest
import talker
from talker import rows_of, write_jsonl

from expo.errors import BadSetting, OutputError
from expo.generate import Sampling, generate, load, read_answers
from expo.generate.answers import OtherSettings
from expo.generate.local import ModelError, wrap
from expo.generate.prompts import NoChatTemplate
from expo.generate.sampling import BadSampling
from expo.generate.write import PromptTooLong
from expo.rows import Appender, RowsError

THREE = Sampling(samples=3, temperature=1.0, max_tokens=10)


def test_every_question_has_every_sample_in_order(live, questions, tmp_path):
    report = generate(live, questions, tmp_path / "a.jsonl", sampling=THREE)
    rows = rows_of(tmp_path / "a.jsonl")
    assert [(row["id"], row["sample"]) for row in rows] == [(q["id"], s) for q in talker.QUESTIONS for s in range(3)]
    assert all(row["prompt"] == talker.QUESTIONS[i // 3]["prompt"] for i, row in enumerate(rows))
    assert len({row["response"] for row in rows}) > 20
    assert report.n_answers == report.n_new == 33 and report.n_tokens == sum(row["n_tokens"] for row in rows)


@pytest.mark.parametrize("batch_tokens", [1, 60, 100_000])
def test_batch_size_and_order_of_questions_change_no_answer(live, questions, tmp_path, batch_tokens):
    generate(live, questions, tmp_path / "a.jsonl", sampling=THREE)
    generate(live, talker.QUESTIONS[::-1], tmp_path / "b.jsonl", sampling=THREE, batch_tokens=batch_tokens)
    key = lambda row: (row["id"], row["sample"])  # noqa: E731
    assert sorted(rows_of(tmp_path / "a.jsonl"), key=key) == sorted(rows_of(tmp_path / "b.jsonl"), key=key)


def test_a_killed_run_continues_to_the_same_bytes(live, questions, tmp_path):
    generate(live, questions, tmp_path / "whole.jsonl", sampling=THREE)
    path = tmp_path / "killed.jsonl"

    def kill(done, total, tokens):
        if done == 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(live, questions, path, sampling=THREE, batch_tokens=100, progress=kill)
    with open(path, "a") as file:
        file.write('{"id": "q1", "sample": 2, "respo')  # what a kill leaves of the row under way
    assert len(path.read_text().splitlines()) == 15
    report = generate(live, questions, path, sampling=THREE)
    assert report.n_resumed == 14 and report.n_new == 19
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    again = generate(live, questions, path, sampling=THREE)
    assert again.n_new == 0 and path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_more_samples_continue_the_same_file(live, questions, tmp_path):
    generate(live, questions, tmp_path / "a.jsonl", sampling=Sampling(samples=1, temperature=1.0, max_tokens=10))
    report = generate(live, questions, tmp_path / "a.jsonl", sampling=THREE)
    assert report.n_resumed == 11
    generate(live, questions, tmp_path / "b.jsonl", sampling=THREE)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_other_settings_another_model_or_another_question_do_not_continue_a_file(live, questions, tmp_path):
    path = tmp_path / "a.jsonl"
    generate(live, questions, path, sampling=Sampling(max_tokens=4))
    before = path.read_bytes()
    with pytest.raises(OtherSettings, match=r"max_tokens: 4 there, 5 now(.|\n)*--overwrite"):
        generate(live, questions, path, sampling=Sampling(max_tokens=5))
    other = wrap(talker.build_model(1), talker.build_tokenizer(), "tiny")
    with pytest.raises(OtherSettings, match="fingerprint"):
        generate(other, questions, path, sampling=Sampling(max_tokens=4))
    changed = [{**talker.QUESTIONS[0], "prompt": "else"}, *talker.QUESTIONS[1:]]
    with pytest.raises(RowsError, match="q1' was asked differently"):
        generate(live, changed, path, sampling=Sampling(max_tokens=4))
    with pytest.raises(RowsError, match="answers id 'q1', which the questions do not have"):
        generate(live, talker.QUESTIONS[1:], path, sampling=Sampling(max_tokens=4))
    assert path.read_bytes() == before
    generate(other, questions, path, sampling=Sampling(max_tokens=5), overwrite=True)
    assert path.read_bytes() != before


def test_two_runs_do_not_write_one_file(live, questions, tmp_path):
    generate(live, questions, tmp_path / "a.jsonl", sampling=Sampling(max_tokens=2))
    with Appender(tmp_path / "a.jsonl"), pytest.raises(OutputError, match="another process is writing"):
        generate(live, questions, tmp_path / "a.jsonl", sampling=Sampling(max_tokens=2))


def test_an_answer_ends_before_its_stop_text_however_many_tokens_that_spans(live, tmp_path):
    prompt = [{"id": 0, "prompt": "abab 9="}]
    free = Sampling(max_tokens=40, temperature=1.0, seed=5)
    generate(live, prompt, tmp_path / "free.jsonl", sampling=free)
    text = rows_of(tmp_path / "free.jsonl")[0]["response"]
    stop = next(text[i : i + 3] for i in range(8, 30) if text[i : i + 3].isascii() and "\\" not in text[i : i + 3])
    stopped = Sampling(max_tokens=40, temperature=1.0, seed=5, stop=("never there", stop))
    generate(live, prompt, tmp_path / "stopped.jsonl", sampling=stopped)
    row = rows_of(tmp_path / "stopped.jsonl")[0]
    assert row["response"] == text[: text.index(stop)] and row["finish"] == "stop"
    assert row["n_tokens"] < rows_of(tmp_path / "free.jsonl")[0]["n_tokens"]


def test_demos_come_before_the_question_and_stay_out_of_the_answers(live, tmp_path):
    from expo.generate.prompts import plain_text, read_demos, read_questions

    demos = [{"question": "1+1?", "response": "2"}, {"prompt": "Q: x\n", "response": " y"}]
    (asked,) = read_questions([{"id": 1, "question": "2+2?"}])
    assert plain_text(asked, read_demos(demos)) == "Question: 1+1?\nAnswer: 2\n\nQ: x\n y\n\nQuestion: 2+2?\nAnswer:"
    short = Sampling(max_tokens=6)
    generate(live, [{"id": 1, "question": "2+2?"}], tmp_path / "with.jsonl", sampling=short, demos=demos)
    whole = [{"id": 1, "prompt": plain_text(asked, read_demos(demos))}]
    generate(live, whole, tmp_path / "whole.jsonl", sampling=short)
    found, same = rows_of(tmp_path / "with.jsonl")[0], rows_of(tmp_path / "whole.jsonl")[0]
    assert found["prompt"] == "Question: 2+2?\nAnswer:" and found["response"] == same["response"]


def test_messages_go_through_the_chat_template(live, tmp_path):
    from expo.generate.prompts import read_demos, read_questions, rendered

    row = {"id": 1, "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]}
    demos = [{"question": "1+1?", "response": "2"}]
    (asked,) = read_questions([row])
    text, marks = rendered(asked, read_demos(demos, chat=True), live.tokenizer)
    assert text == "<system>be brief\n<user>1+1?\n<assistant>2\n<user>hi\n<assistant>" and not marks
    generate(live, [row], tmp_path / "chat.jsonl", sampling=Sampling(max_tokens=6), demos=demos)
    generate(live, [{"id": 1, "prompt": text}], tmp_path / "plain.jsonl", sampling=Sampling(max_tokens=6))
    chat, plain = rows_of(tmp_path / "chat.jsonl")[0], rows_of(tmp_path / "plain.jsonl")[0]
    assert chat["response"] == plain["response"] and chat["messages"] == row["messages"]


def test_a_model_without_a_chat_template_is_not_asked_to_chat(questions, tmp_path):
    silent = wrap(talker.build_model(), talker.build_tokenizer(chat=False), "base-model")
    with pytest.raises(NoChatTemplate, match=r"base-model has no chat template, and .*questions.jsonl:1"):
        generate(silent, questions, tmp_path / "a.jsonl", chat=True)
    assert not list(tmp_path.glob("a.jsonl*"))


def test_prompts_beyond_the_window_are_counted_and_treated_as_told(questions, tmp_path):
    narrow = wrap(talker.build_model(window=20), talker.build_tokenizer(), "narrow")
    with pytest.raises(PromptTooLong, match=r"4 of 11 prompts(.|\n)*questions.jsonl:9: 21 tokens(.|\n)*--long-prompts"):
        generate(narrow, questions, tmp_path / "a.jsonl", sampling=Sampling(max_tokens=8))
    assert not list(tmp_path.glob("a.jsonl*"))
    report = generate(narrow, questions, tmp_path / "s.jsonl", sampling=Sampling(max_tokens=8), long_prompts="skip")
    rows = rows_of(tmp_path / "s.jsonl")
    assert [row["finish"] for row in rows[-4:]] == ["too long"] * 4 and rows[-1]["response"] == ""
    assert any("4 of 11 prompts" in warning for warning in report.warnings)
    lengths = [len(q["prompt"]) for q in talker.QUESTIONS]
    assert all(n + row["n_tokens"] <= 20 for n, row in zip(lengths, rows, strict=True) if row["finish"] != "too long")
    generate(narrow, questions, tmp_path / "c.jsonl", sampling=Sampling(max_tokens=8), long_prompts="cut")
    tail = [{"id": "q11", "prompt": talker.QUESTIONS[-1]["prompt"][-12:]}]
    generate(narrow, tail, tmp_path / "t.jsonl", sampling=Sampling(max_tokens=8))
    assert rows_of(tmp_path / "c.jsonl")[-1]["response"] == rows_of(tmp_path / "t.jsonl")[0]["response"]


def test_alpaca_eval_s_list(live, tmp_path):
    rows = [{"instruction": "Say hi."}, {"instruction": "Say no."}]
    generate(live, rows, tmp_path / "out.json", sampling=Sampling(max_tokens=5), chat=True, form="alpaca_eval")
    listed = json.loads((tmp_path / "out.json").read_text())
    assert [row["instruction"] for row in listed] == ["Say hi.", "Say no."]
    assert all(set(row) == {"instruction", "output", "generator"} and row["generator"] == "tiny" for row in listed)
    answers = read_answers(tmp_path / "out.json.rows.jsonl")
    assert [row["response"] for row in answers] == [row["output"] for row in listed]


def test_a_folder_is_loaded_and_known_again(folder, live, questions, tmp_path):
    generate(folder, questions, tmp_path / "a.jsonl", sampling=Sampling(max_tokens=6), device="cpu")
    generate(live, questions, tmp_path / "b.jsonl", sampling=Sampling(max_tokens=6))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert load(folder, device="cpu").fingerprint == load(folder, device="cpu").fingerprint
    with pytest.raises(ModelError, match="'float31' is no type"):
        load(folder, dtype="float31")
    (folder.parent / "broken").mkdir(exist_ok=True)
    for path in folder.iterdir():
        (folder.parent / "broken" / path.name).write_bytes(path.read_bytes())
    (folder.parent / "broken" / "config.json").write_text('{"model_type": "nothing-known"}')
    with pytest.raises(ModelError, match="transformers cannot load"):
        generate(folder.parent / "broken", questions, tmp_path / "c.jsonl")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('{"id": 1}\n', ":1: no question"),
        ('{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}\n', r":2: the id 1 stands already at .*:1"),
        ('{"id": 1, "prompt": "a"}\n{"prompt": "b"}\n', ":2: the id is None"),
        ('{"id": 1, "prompt": "a"}\n\n{"id": 2, "prompt": \n', ":3: not JSON"),
        ('{"id": 1, "prompt": "a"}\n[1]\n', ":2: not a JSON object"),
        ('{"id": true, "prompt": "a"}\n', ":1: the id is True"),
        ('{"id": 1, "prompt": " "}\n', ":1: its prompt is ' '"),
        ('{"id": 1, "messages": [{"role": "king", "content": "a"}]}\n', ":1: a message is no"),
        ('{"id": 1, "messages": [{"role": "assistant", "content": "a"}]}\n', ":1: its last message"),
        ("", "no rows"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(live, tmp_path, lines, words):
    path = tmp_path / "bad.jsonl"
    path.write_text(lines)
    with pytest.raises(RowsError, match=words):
        generate(live, path, tmp_path / "a.jsonl")
    assert not list(tmp_path.glob("a.jsonl*"))


def test_bad_settings_are_refused_by_name(live, questions, tmp_path):
    with pytest.raises(BadSampling, match="3 times the same answer"):
        Sampling(samples=3)
    for settings in ({"top_p": 0.0}, {"max_tokens": 0}, {"temperature": -1.0}, {"stop": ("",)}, {"top_k": -1}):
        with pytest.raises(BadSampling, match=next(iter(settings))):
            Sampling(**settings)
    with pytest.raises(BadSetting, match="skip"):
        generate(live, questions, tmp_path / "a.jsonl", long_prompts="skipp")
    with pytest.raises(RowsError, match="no such file"):
        generate(live, tmp_path / "none.jsonl", tmp_path / "a.jsonl")


def test_rows_without_ids_are_numbered_from_zero(live, tmp_path):
    generate(live, [{"prompt": "a"}, {"prompt": "b"}], tmp_path / "a.jsonl", sampling=Sampling(max_tokens=2))
    assert [row["id"] for row in rows_of(tmp_path / "a.jsonl")] == [0, 1]


def test_answers_of_other_tools_are_checked(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"id": 1, "response": "x"}, {"id": 1, "response": "y"}, {"id": 2}])
    with pytest.raises(RowsError, match=r"a.jsonl:2: id 1, sample 0, stands already at .*:1(.|\n)*:3: no response"):
        read_answers(path)
