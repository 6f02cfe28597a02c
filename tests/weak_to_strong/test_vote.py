"""The most frequent final answer wins; ties go to the one seen first."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from w2s_files import answer, read, write

from expo.weak_to_strong.answers import parse_answer
from expo.weak_to_strong.errors import IdMismatch, RowError
from expo.weak_to_strong.modes import Mode
from expo.weak_to_strong.vote import classes, vote, vote_files


def samples(*preds):
    return [parse_answer(answer(0, pred, sample=n, response=f"{n}: {pred}")) for n, pred in enumerate(preds)]


def test_by_hand():
    counted = vote(samples("5", "7", "5", "", "7", "5"))
    assert [one["response"] for one in counted["pos_responses"]] == ["0: 5", "2: 5", "5: 5"]
    assert [one["pred"] for one in counted["neg_responses"]] == ["7", "", "7"]
    assert counted["confidence"] == 0.5 and counted["id"] == 0 and counted["prompt"] == "q0"


@given(st.lists(st.sampled_from(["", "1", "2", "3"]), min_size=1, max_size=12))
def test_published_votes_are_those_of_a_counter(preds):
    counted = vote(samples(*preds), mode=Mode.PUBLISHED)
    winner, number = Counter(preds).most_common(1)[0]
    assert {one["pred"] for one in counted["pos_responses"]} == {winner}
    assert counted["confidence"] == number / len(preds)
    assert len(counted["pos_responses"]) + len(counted["neg_responses"]) == len(preds)


def test_the_empty_answer_wins_by_published_rules_only():
    empty = samples("", "", "3")
    assert vote(empty, mode=Mode.PUBLISHED)["pos_responses"][0]["pred"] == ""
    assert vote(empty)["pos_responses"][0]["pred"] == "3" and vote(empty)["confidence"] == 1 / 3
    none = vote(samples("", ""))
    assert none["pos_responses"] == [] and none["confidence"] == 0 and len(none["neg_responses"]) == 2


def test_equal_answers_in_other_words_count_together_and_empty_ones_never():
    def same(a, b):
        return "" in (a.pred, b.pred) or float(a.pred) == float(b.pred)

    assert classes(samples("1", "", "2", "1.0", "", "2.0"), same) == [[0, 3], [1, 4], [2, 5]]
    assert vote(samples("1", "2", "1.0"), same=same)["confidence"] == 2 / 3


def test_one_file_a_seed_and_one_file_of_samples_give_the_same_votes(tmp_path):
    preds = {0: ["1", "2", "2"], 1: ["3", "3", "4"]}
    seeds = [
        write(tmp_path / f"seed{n}.jsonl", [answer(key, found[n]) for key, found in preds.items()]) for n in range(3)
    ]
    rows = [answer(key, preds[key][n], sample=n) for n in (2, 0, 1) for key in preds]
    vote_files(seeds, tmp_path / "one.jsonl")
    report = vote_files([write(tmp_path / "all.jsonl", rows)], tmp_path / "two.jsonl")
    assert read(tmp_path / "one.jsonl") == read(tmp_path / "two.jsonl")
    assert report["questions"] == 2 and report["samples a question"] == [3]


def test_missing_samples_are_refused(tmp_path):
    rows = [answer(0, "1", sample=0), answer(0, "1", sample=1), answer(1, "1", sample=0)]
    with pytest.raises(RowError, match=r"all.jsonl:3: id 1 has 1 samples, others have 2"):
        vote_files([write(tmp_path / "all.jsonl", rows)], tmp_path / "out.jsonl")
    seeds = [write(tmp_path / "a", [answer(0, "1"), answer(1, "1")]), write(tmp_path / "b", [answer(0, "1")])]
    with pytest.raises(IdMismatch):
        vote_files(seeds, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_seed_that_is_given_twice_is_not_counted_twice(tmp_path):
    one, other = write(tmp_path / "one.jsonl", [answer(0, "1")]), write(tmp_path / "other.jsonl", [answer(0, "1")])
    (tmp_path / "link.jsonl").symlink_to(one)
    for again in (one, str(one), tmp_path / "link.jsonl"):
        with pytest.raises(RowError, match=r"is the same file as .*one.jsonl, and would be counted twice"):
            vote_files([one, again], tmp_path / "votes.jsonl")
    with pytest.raises(RowError, match=r"other.jsonl: has the same content as .*one.jsonl"):
        vote_files([one, other], tmp_path / "votes.jsonl")
    assert not (tmp_path / "votes.jsonl").exists()
