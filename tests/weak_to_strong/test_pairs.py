"""Pairs: the weak response is one side; thresholds, draws and repetitions as published, or mended."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from w2s_files import answer, read, write

from expo.weak_to_strong.answers import parse_answer
from expo.weak_to_strong.errors import IdMismatch, RowError
from expo.weak_to_strong.modes import Mode
from expo.weak_to_strong.pairs import Rule, Vote, build, fate, pair_files
from expo.weak_to_strong.vote import vote

PUBLISHED = Rule(mode=Mode.PUBLISHED)


def counted(key, preds, texts=None) -> Vote:
    """The vote over samples with these predictions."""
    texts = texts or [f"{n} says {pred}" for n, pred in enumerate(preds)]
    rows = [answer(key, pred, sample=n, response=text) for n, (pred, text) in enumerate(zip(preds, texts, strict=True))]
    told = vote([parse_answer(row) for row in rows], mode=Mode.PUBLISHED)
    sides = [[parse_answer({**one, "id": key, "prompt": f"q{key}"}) for one in told[name]] for name in SIDES]
    return Vote(key, f"q{key}", *sides, told["confidence"])


SIDES = ("pos_responses", "neg_responses")


def weak(key, pred, **more):
    return parse_answer(answer(key, pred, **more))


@pytest.mark.parametrize(
    ("own", "preds", "expected"),
    [
        ("1", "1111122222", "unsure"),  # 0.5
        ("1", "1111112222", "weak chosen"),  # 0.6 is enough
        ("1", "1111111111", "too easy"),
        ("2", "1111111222", "disputed"),  # 0.7 against the weak model is not
        ("2", "1111111122", "weak rejected"),  # 0.8 is
        ("", "1111111122", "weak rejected"),
    ],
)
def test_fates_by_hand(own, preds, expected):
    assert fate(weak(0, own), counted(0, list(preds)), Rule()) == expected


def test_an_empty_majority_makes_no_pair():
    assert fate(weak(0, ""), counted(0, [""] * 9 + ["1"]), PUBLISHED) == "empty"


def test_published_draws_share_one_stream_in_the_order_of_questions():
    weaks = [weak(0, "1"), weak(1, "2"), weak(2, "1"), weak(3, "9")]
    votes = [counted(0, list("1111112345")), counted(1, list("1111111111")), counted(2, ["1"] * 10)]
    votes.append(counted(3, list("1111111123")))
    found = [pair for _, _, pairs in build(weaks, votes, PUBLISHED) for pair in pairs]
    random.seed(42)
    first = random.sample(votes[0].negative, 1)[0]
    second = random.sample(votes[1].positive, 1)[0]
    third = random.sample(votes[3].positive, 1)[0]
    assert [(pair.chosen.response, pair.rejected.response) for pair in found] == [
        ("so 1", first.response),
        (second.response, "so 2"),
        (third.response, "so 9"),
    ]


def test_published_math_pairs_up_to_three_a_question():
    three = Rule(mode=Mode.PUBLISHED, most=3)
    weaks = [weak(0, "1"), weak(1, "1"), weak(2, "9")]
    votes = [counted(0, list("1111111223")), counted(1, list("1111112345"))]
    votes.append(counted(2, ["1"] * 10, ["a", "b", "b", "a", "c", *"aaaaa"]))
    fates = list(build(weaks, votes, three))
    random.seed(42)
    # Three negatives are taken as they stand, without a draw; four are drawn from.
    assert [pair.rejected.response for pair in fates[0][2]] == ["7 says 2", "8 says 2", "9 says 3"]
    drawn = random.sample(votes[1].negative, 3)
    assert [pair.rejected.response for pair in fates[1][2]] == [one.response for one in drawn]
    first = random.sample(votes[2].positive, 1)[0].response
    others = [text for text in ["a", "b", "b", "a", "c", *"aaaaa"] if text != first][:2]
    # The published files hold repetitions because of this.
    assert [pair.chosen.response for pair in fates[2][2]] == [first, *others]


def test_mended_pairs_repeat_nothing():
    rule = Rule(most=3)
    found = list(
        build(
            [weak(2, "9")],
            [
                counted(
                    2,
                    ["1"] * 10,
                    [
                        "a",
                        "b",
                        "b",
                        "a",
                        "so 9",
                        *"aaaa ",
                    ],
                )
            ],
            rule,
        )
    )
    assert {pair.chosen.response for pair in found[0][2]} == {"a", "b"} and len(found[0][2]) == 2
    none = list(build([weak(2, "9", response="")], [counted(2, ["1"] * 10)], rule))
    assert none[0][0] == "no other text" and none[0][2] == []


@given(st.permutations(range(6)), st.integers(0, 5))
def test_a_mended_draw_depends_on_its_own_question_alone(order, dropped):
    weaks = {key: weak(key, "1") for key in range(6)}
    votes = {key: counted(key, list("1111112345")) for key in range(6)}
    alone = {key: next(build([weaks[key]], [votes[key]], Rule()))[2] for key in range(6)}
    kept = [key for key in order if key != dropped]
    together = build([weaks[key] for key in kept], [votes[key] for key in kept], Rule())
    assert {answer.id: pairs for _, answer, pairs in together} == {key: alone[key] for key in kept}
    other = next(build([weaks[0]], [votes[0]], Rule(seed=1)))[2]
    assert {pair.rejected.response for pair in other} <= {one.response for one in votes[0].negative}


def test_every_candidate_is_drawn_about_equally_often():
    tally = dict.fromkeys(range(6, 10), 0)
    for key in range(400):
        (pair,) = next(build([weak(key, "1")], [counted(key, list("1111112345"))], Rule()))[2]
        tally[int(pair.rejected.response[0])] += 1
    assert all(70 < count < 130 for count in tally.values()), tally


def files(tmp_path, weaks, samples):
    rows = [vote([parse_answer(row) for row in found]) for found in samples]
    return write(tmp_path / "weak.jsonl", weaks), write(tmp_path / "votes.jsonl", rows)


def ten(key, preds):
    return [answer(key, pred, sample=n, response=f"{n}: {pred}") for n, pred in enumerate(preds)]


def test_the_file_has_the_published_fields_and_the_report_counts(tmp_path):
    weaks = [answer(0, "1", result=True), answer(1, "2", result=False), answer(2, "1", result=True)]
    samples = [ten(0, "1111111112"), ten(1, "1111111111"), ten(2, "1122334455")]
    report = pair_files(*files(tmp_path, weaks, samples), tmp_path / "pairs.json", Rule(mode=Mode.PUBLISHED))
    first, second = read(tmp_path / "pairs.json")
    assert first == {"id": 0, "instruction": "q0", "input": "", "output": ["so 1", "9: 2"]}
    assert second["output"][1] == "so 2" and second["output"][0].endswith(": 1")
    assert report["fates"] == {"weak chosen": 1, "weak rejected": 1, "unsure": 1} and report["pairs"] == 2
    assert report["mended"] == [] and report["rule"]["disagree"] == 0.8


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    weaks, samples = [answer(0, "1"), answer(1, "1")], [ten(0, "1111111112")]
    with pytest.raises(IdMismatch):
        pair_files(*files(tmp_path, weaks, samples), tmp_path / "out.json", Rule())
    other = [answer(0, "1", prompt="another question")]
    with pytest.raises(RowError, match=r"votes.jsonl:1: another prompt than in .*weak.jsonl:1"):
        pair_files(*files(tmp_path, other, samples), tmp_path / "out.json", Rule())
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("value", [None, "0.6", True, -0.1, 1.5, float("nan")])
def test_a_confidence_that_is_no_share_is_refused(tmp_path, value):
    weak_file, votes = files(tmp_path, [answer(0, "1")], [ten(0, "1111111112")])
    row = read(votes)[0]
    write(votes, [{**row, "confidence": value}])
    with pytest.raises(RowError, match="'confidence' must be a number from 0 to 1"):
        pair_files(weak_file, votes, tmp_path / "out.json", Rule())
