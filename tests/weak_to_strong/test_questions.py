"""Questions become the pipelines' rows; without the authors' files the public data sets are split by a fixed hash."""

import sys
from types import SimpleNamespace

import pytest
from w2s_files import read, write

from expo.errors import ExpoError
from expo.weak_to_strong import questions
from expo.weak_to_strong.errors import RowError


def test_a_gsm8k_row_by_hand():
    row = {"question": "How many?", "answer": "There are 2*3=<<2*3=6>>6.\n#### 6"}
    made = {"prompt": "Question: How many?\nAnswer:", "completion": "There are 2*3=6.\n#### 6", "gold": "6"}
    assert questions.from_gsm8k(row) == made
    test = {"question": "How many?", "solution": row["answer"], "answer": "6"}
    assert questions.from_gsm8k_test(test) == made


def test_a_gsm8k_row_without_an_answer_is_refused(tmp_path):
    for name in ("train_2", "test"):
        write(tmp_path / f"{name}.jsonl", [{"question": "a", "answer": "#### 1"}])
    write(tmp_path / "train_1.jsonl", [{"question": "a", "answer": "#### 1"}, {"question": "b", "answer": "one"}])
    with pytest.raises(RowError, match=r"train_1.jsonl:2: 'answer' does not end in '#### NUMBER'"):
        questions.gsm8k(tmp_path / "out", raw=tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("solution", "expected"),
    [
        ("so \\boxed{5}.", "5"),
        ("first \\boxed{1}, then \\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("so $\\boxed 3$.", "3"),
        ("so \\fbox{x}", "x"),
    ],
)
def test_the_answer_of_math_is_its_last_box(solution, expected):
    assert questions.with_answer({"solution": solution})["answer"] == expected


def test_an_olympicarena_row_by_hand():
    row = {"id": "Math_1", "prompt": "Solve.\n\nproblem:\nWhat?", "answer": ["4"], "answer_type": "NV", "unit": None}
    assert questions.from_olympicarena(row) == {
        "prompt": "Solve.\n\nQuestion: What?\n\nAnswer:", "gold": "4", "source_id": "Math_1", "answer_type": "NV",
    }  # fmt: skip
    assert "gold" not in questions.from_olympicarena({**row, "answer": []})


class Hub:
    """A stand-in for `datasets` that notes what was asked for."""

    def __init__(self, rows):
        self.rows, self.asked = rows, []

    def __call__(self, name, config, split):
        self.asked.append((name, config, split))
        return self.rows(name, config, split)


def test_gsm8k_from_the_hub_is_split_without_a_common_question(tmp_path):
    rows = [{"question": f"q{n % 30}", "answer": f"#### {n % 30}"} for n in range(40)]
    report = questions.gsm8k(tmp_path / "a", load=Hub(lambda *_: rows))
    first, second = (read(tmp_path / "a" / f"train_{half}.jsonl") for half in (1, 2))
    assert not {row["prompt"] for row in first} & {row["prompt"] for row in second}
    assert len({row["prompt"] for row in first}) == 15 and len(first) + len(second) == 40
    assert [row["id"] for row in first] == list(range(len(first))) and "augmented" in report["source"]
    questions.gsm8k(tmp_path / "b", load=Hub(lambda *_: rows))
    assert (tmp_path / "a/train_1.jsonl").read_bytes() == (tmp_path / "b/train_1.jsonl").read_bytes()


def test_math_from_the_hub_leaves_the_test_questions_out(tmp_path):
    def rows(name, config, split):
        if "MATH-500" in name:
            return [{"problem": "algebra train 0", "solution": "s", "answer": "0"}]
        return [{"problem": f"{config} {split} {n}", "solution": f"\\boxed{{{n}}}"} for n in range(2)]

    report = questions.math(tmp_path, load=Hub(rows))
    assert report["rows"] == {"train_1": 13, "train_2": 14, "test": 1}
    trained = read(tmp_path / "train_1.jsonl") + read(tmp_path / "train_2.jsonl")
    assert "Question: algebra train 0\nAnswer:" not in {row["prompt"] for row in trained}
    assert all(row["completion"].endswith(f" The answer is: {row['gold']}") for row in trained)


def test_olympicarena_keeps_what_can_be_compared(tmp_path):
    def rows(name, config, split):
        base = {"prompt": f"{config}\n\nproblem:\nx", "answer": ["1"] if split == "val" else None}
        kinds = [("EN", "NV"), ("ZH", "NV"), ("EN", "CODE"), ("EN", "OT")]
        return [{**base, "language": language, "answer_type": kind} for language, kind in kinds]

    hub = Hub(rows)
    report = questions.olympicarena(tmp_path, load=hub)
    assert report["rows"] == {"train_2": 6, "test": 6}
    assert ("GAIR/OlympicArena", "Astronomy", "test") in hub.asked
    assert all("gold" not in row for row in read(tmp_path / "train_2.jsonl"))
    assert all(row["gold"] == "1" for row in read(tmp_path / "test.jsonl"))


def test_a_data_set_that_cannot_be_loaded_says_what_else_can_be_done(monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=refuse))
    with pytest.raises(ExpoError, match=r"openai/gsm8k \(main, train\) cannot be loaded: no route\n.*--raw"):
        questions.hub("openai/gsm8k", "main", "train")
