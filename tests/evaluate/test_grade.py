"""Answers meet references by id; what does not fit is named; what adds up is worked out by hand."""

import pytest
from talker import write_jsonl

from expo.evaluate import accuracy, difference, grade, read_references, summary
from expo.evaluate.summary import BadK, pass_rates
from expo.rows import RowsError

TEST = [{"id": "a", "question": "1+1?", "answer": "2"}, {"id": "b", "question": "2+2?", "answer": "so\n#### 4"}]


def answers(*responses, ids=("a", "b")):
    n = len(responses) // len(ids)
    return [{"id": ids[i // n], "sample": i % n, "response": text} for i, text in enumerate(responses)]


def test_accuracy_and_pass_at_k_by_hand():
    graded = grade(answers("#### 2", "#### 3", "#### 2.0", "#### 1", "#### 4", "none"), TEST)
    assert [one.correct for one in graded.grades] == [True, False, True, False, True, False]
    assert accuracy(graded).value == pytest.approx((2 / 3 + 1 / 3) / 2) and accuracy(graded).n == 2
    rates = pass_rates(graded)
    assert list(rates) == [1, 2, 3]
    assert rates[1].value == pytest.approx(0.5)
    assert rates[2].value == pytest.approx((1 + 2 / 3) / 2) and rates[3].value == 1
    record = summary(graded)
    assert (record["n"], record["samples"], record["correct"], record["empty"]) == (2, 3, 3, 1)
    with pytest.raises(BadK, match=r"pass@4(.|\n)*--samples 4"):
        pass_rates(graded, [4])


def test_the_order_of_the_answers_does_not_matter():
    rows = answers("#### 2", "#### 3", "#### 4", "#### 4")
    assert grade(rows[::-1], TEST).grades == grade(rows, TEST).grades


def test_a_difference_pairs_the_same_questions():
    before, after = grade(answers("#### 2", "#### 5"), TEST), grade(answers("#### 2", "#### 4"), TEST)
    found = difference(before, after)
    assert (found.difference.value, found.won, found.lost) == (0.5, 1, 0)


def test_published_extraction_and_string_equality_go_together():
    graded = grade(answers("#### 2.50", "#### 4"), [{**TEST[0], "answer": "2.5"}, TEST[1]], extraction="published:####",
                   equivalence="string")  # fmt: skip
    assert [one.correct for one in graded.grades] == [False, True]
    assert [one.gold for one in graded.grades] == ["2.5", "4"]


def test_an_extraction_may_be_a_function():
    graded = grade(answers("xx7", "yy9"), [{"id": "a", "gold": 7}, {"id": "b", "gold": 8}], extraction=lambda t: t[-1:])
    assert [one.correct for one in graded.grades] == [True, False]


def test_ids_that_do_not_match_are_named_on_both_sides(tmp_path):
    path = write_jsonl(tmp_path / "test.jsonl", TEST)
    with pytest.raises(RowsError) as caught:
        grade(answers("#### 2", "#### 3", ids=("a", "z")), path)
    assert "answers for id 'z'" in str(caught.value) and f"{path}:2: id 'b' has no answer" in str(caught.value)
    with pytest.raises(RowsError, match="id 'b' has 1 of 2 samples"):
        grade(answers("#### 2", "#### 3", "#### 4", "#### 4")[:3], path)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"id": 1, "question": "x"}], ":1: no true answer(.|\n)*--gold-field"),
        ([{"id": 1, "answer": "2"}, {"id": 1, "answer": "3"}], ":2: the id 1 stands already"),
        ([{"id": 1, "answer": {"value": 2}}], ":1: no true answer"),
        ([], "no rows"),
    ],
)
def test_bad_references_are_named_by_file_and_line(tmp_path, rows, words):
    with pytest.raises(RowsError, match=words):
        read_references(write_jsonl(tmp_path / "test.jsonl", rows))


def test_a_gold_text_without_an_answer_is_named():
    with pytest.raises(RowsError, match="row 1: no answer found"):
        grade([{"id": 1, "response": "#### 2"}], [{"id": 1, "answer": "no\nanswer"}])
