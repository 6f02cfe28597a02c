"""Every accepted form of a row, and every kind of bad one with its file and line."""

import json
from pathlib import Path

import pytest
from taught import write_rows

from expo.train.errors import BadData, BadRows
from expo.train.rows import Row, completions, labelled, pairs, read_rows

ASK, ANSWER = {"role": "user", "content": "12"}, {"role": "assistant", "content": "13"}
WORSE = {"role": "assistant", "content": "99"}
PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "weak_to_strong_reasoning"


def rows(*fields):
    return [Row(f"file:{i}", row) for i, row in enumerate(fields, start=1)]


@pytest.mark.parametrize(
    ("fields", "prompt", "completion"),
    [
        ({"prompt": "12=", "completion": "13"}, "12=", "13"),
        ({"messages": [ASK, ANSWER]}, [ASK], [ANSWER]),
        ({"id": 0, "content": "Question: 1\nAnswer:", "output": "13"}, "Question: 1\nAnswer:", "13"),
        ({"instruction": "Add.", "input": "1 2", "output": "13"}, "Add.\n1 2", "13"),
        ({"instruction": "Add.", "input": "", "output": "13"}, "Add.", "13"),
        ({"prompt": [ASK], "completion": [ANSWER]}, [ASK], [ANSWER]),
        ({"messages": None, "prompt": "12=", "completion": "13"}, "12=", "13"),
    ],
)
def test_completions_come_in_these_forms(fields, prompt, completion):
    (found,) = completions(rows(fields)).rows
    assert (found.prompt, found.completion) == (prompt, completion)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "12=", "chosen": "13", "rejected": "99"},
        {"id": 1, "instruction": "12=", "input": "", "output": ["13", "99"]},
    ],
)
def test_pairs_come_in_these_forms(fields):
    (found,) = pairs(rows(fields)).rows
    assert (found.prompt, found.chosen, found.rejected) == ("12=", "13", "99")


def test_conversations_share_all_but_their_last_message():
    for extra in ({}, {"prompt": "12"}):
        (found,) = pairs(rows({"chosen": [ASK, ANSWER], "rejected": [ASK, WORSE], **extra})).rows
        assert (found.prompt, found.chosen, found.rejected) == ([ASK], [ANSWER], [WORSE])


def test_labels_are_names_numbers_or_probabilities():
    found = labelled(
        rows(
            {"text": "a", "label": "yes"},
            {"prompt": "a", "completion": "b", "label": 1, "weight": 0.5},
            {"messages": [ASK], "label": [0.25, 0.75]},
            {"text": "a", "label": True},
        )
    ).rows
    assert [row.label for row in found] == ["yes", 1, [0.25, 0.75], 1]
    assert [row.text for row in found[:2]] == ["a", "ab"] and found[1].weight == 0.5


@pytest.mark.parametrize(
    ("form", "fields", "what"),
    [
        (completions, {"question": "12"}, "its fields are question"),
        (completions, {"prompt": "12=", "completion": 13}, "completion is neither a text nor a list of messages"),
        (completions, {"prompt": "12=", "completion": " \n"}, "completion is empty"),
        (completions, {"messages": [ANSWER, ASK]}, "the last message is by 'user'"),
        (completions, {"messages": [{"role": "user"}]}, "a message has no content"),
        (completions, {"messages": "hello"}, "no list of messages"),
        (completions, {"prompt": "1", "completion": "2", "weights": [-1.0]}, "a weight is a number of at least 0"),
        (completions, {"prompt": "1", "completion": "2", "weights": [float("nan")]}, "a weight is a number"),
        (completions, {"prompt": "1", "completion": "2", "weights": [0, 0.0]}, "all of its weights are 0"),
        (completions, {"prompt": "1", "completion": "2", "weights": []}, "its list of weights is empty"),
        (completions, {"prompt": "1", "completion": "2", "weights": [1.0, 1e-40]}, "from 1e-30 to 1e+30"),
        (completions, {"prompt": "1", "completion": "2", "weights": float("inf")}, "a weight is a number"),
        (pairs, {"prompt": "1", "chosen": "2"}, "no chosen/rejected"),
        (pairs, {"chosen": "2", "rejected": "3"}, "no prompt beside"),
        (pairs, {"prompt": "1", "chosen": "2", "rejected": "2"}, "chosen and rejected are equal"),
        (pairs, {"prompt": "1", "chosen": "", "rejected": "2"}, "chosen is empty"),
        (pairs, {"instruction": "1", "output": ["2"]}, "output holds 1 texts"),
        (pairs, {"chosen": [ASK, ANSWER], "rejected": [ANSWER, WORSE]}, "differ before their last message"),
        (labelled, {"text": "a"}, "no label"),
        (labelled, {"text": "a", "label": [0.5, 0.2]}, "add up to 0.7"),
        (labelled, {"text": "a", "label": 1.5}, "a name, a whole number or a list of probabilities, not 1.5"),
        (labelled, {"text": "a", "label": 1, "weight": "heavy"}, "a weight is a number"),
    ],
)
def test_a_bad_row_is_named_with_its_place(form, fields, what):
    with pytest.raises(BadRows) as error:
        form(rows({"prompt": "1", "chosen": "2", "rejected": "3", "completion": "2", "label": 0}, fields))
    assert str(error.value).startswith("file:2: ") and what in str(error.value)
    assert "1 of 2 rows" in str(error.value)


def test_bad_rows_are_counted_and_the_first_ones_shown():
    with pytest.raises(BadRows) as error:
        completions(rows(*[{"prompt": "1", "completion": ""}] * 9, {"prompt": "1", "completion": "2"}))
    text = str(error.value)
    assert "file:5" in text and "file:6" not in text and "... and 4 more" in text
    assert "9 of 10 rows cannot be trained on (empty: 9)." in text and "--bad-rows drop" in text


def test_empty_completions_and_equal_sides_can_be_left_out_by_name():
    kept = completions(rows({"prompt": "1", "completion": ""}, {"prompt": "1", "completion": "2"}), bad_rows="drop")
    assert len(kept.rows) == 1 and kept.dropped == {"empty": 1}
    equal, fine = ({"prompt": "1", "chosen": "2", "rejected": side} for side in "23")
    kept = pairs(rows(equal, fine, equal), bad_rows="drop")
    assert len(kept.rows) == 1 and kept.dropped == {"equal": 2}
    with pytest.raises(BadData, match="nothing to train on"):
        pairs(rows(equal), bad_rows="drop")


# --- Reading ---------------------------------------------------------------------------------------------------------


def test_jsonl_keeps_the_numbers_of_its_lines(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"a": "one\u2028line"}\n\n{"a": 2}\n')
    assert [row.where for row in read_rows(path)] == [f"{path}:1", f"{path}:3"]


def test_a_json_list_is_read_as_published_files_are(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps([{"id": 0, "content": "1", "output": "2"}], indent=4))
    (row,) = read_rows(path)
    assert row.where == f"{path}, row 1" and row.fields["output"] == "2"


def test_lines_that_are_no_json_objects_are_named(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text('{"a": 1}\n{"a": \n[1]\n')
    with pytest.raises(BadRows, match=rf"{path}:2: not JSON"):
        read_rows(path)
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(BadRows, match="1 of 2 rows cannot"):
        read_rows(path)
    path.write_text('{"a": 1}\n"text"\n')
    with pytest.raises(BadRows, match=rf"{path}:2: not an object"):
        read_rows(path)


@pytest.mark.parametrize("start", ["", '{"a": '])
def test_json_that_is_too_deep_is_an_error_like_another(start, tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(start + "[" * 100_000)
    with pytest.raises((BadData, BadRows), match=r"starts as a JSON list|d.jsonl:1: not JSON"):
        read_rows(path)


def test_some_row_must_weigh_something():
    found = labelled(rows({"text": "a", "label": 0, "weight": 0}, {"text": "a", "label": 1, "weight": 1}))
    assert [row.weight for row in found.rows] == [0, 1]
    with pytest.raises(BadData, match="The weight of each row is 0"):
        labelled(rows({"text": "a", "label": 0, "weight": 0}))
    with pytest.raises(BadData, match="The weight of each row is 0"):
        completions(rows({"prompt": "a", "completion": "b", "weights": 0}))


def test_two_rows_may_answer_one_question(tmp_path):
    path = write_rows(tmp_path / "d.jsonl", [{"id": 1, "content": "1=", "output": text} for text in "12"])
    assert len(read_rows(path)) == 2  # published hybrid files hold two answers an id


def test_a_hub_id_is_loaded_by_datasets_and_its_failure_told(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name, *, revision, split):
        asked.append((name, revision, split))
        if name == "org/none":
            raise FileNotFoundError("no such data")
        return datasets.Dataset.from_list([{"prompt": "1", "completion": "2"}] * 2)

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = read_rows("org/name@v1", split="half")
    assert asked == [("org/name", "v1", "half")]
    assert found[1].where == "org/name@v1, half row 2" and len(completions(found).rows) == 2
    with pytest.raises(BadData, match=r"cannot load the split 'train': no such data"):
        read_rows("org/none")


@pytest.mark.parametrize("data", ["missing.jsonl", "org/missing.jsonl", "."])
def test_data_that_is_not_there_is_said_so(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadData, match=r"does not exist|is a folder"):
        read_rows(data)


def test_empty_data_is_said_so(tmp_path):
    (tmp_path / "d.jsonl").write_text("\n")
    with pytest.raises(BadData, match="holds no rows"):
        read_rows(tmp_path / "d.jsonl")
    with pytest.raises(BadData, match="no rows"):
        read_rows([])


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the authors' published files are not here")
def test_the_authors_files_are_read_whole():
    found = completions(read_rows(PUBLISHED / "llama2_7b_iter1_weak.json"))
    assert len(found.rows) == 2683
    found = pairs(read_rows(PUBLISHED / "llama2_7b_iter2_hybrid_paired.json"))
    assert len(found.rows) == 2563
