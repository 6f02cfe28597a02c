"""The published extraction, against the published records themselves and rule by rule."""

import json

import pytest
from w2s_files import published

from expo.evaluate import Pair, extract_published, extractor, judge, normalise_published
from expo.evaluate.extract import normalise


@pytest.fixture(scope="module")
def records():
    path = published("weak_to_strong_reasoning/llama2_7b_results.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_7000_published_predictions_and_golds_are_extracted_again(records):
    questions = published("weak_to_strong_reasoning/gsm8k_train_2.jsonl").read_text().splitlines()
    golds = [json.loads(line)["answer"] for line in questions]
    assert len(records) == len(golds) == 7000
    assert [extract_published(row["response"]) for row in records] == [row["pred"] for row in records]
    assert [normalise_published(gold) for gold in golds] == [row["gold"] for row in records]


def test_string_equality_gives_all_7000_results_and_numeric_equality_6987(records):
    pairs = [Pair(row["pred"], row["gold"]) for row in records]
    results = [row["result"] for row in records]
    assert [verdict.correct for verdict in judge("string")(pairs)] == results
    numeric = [verdict.correct for verdict in judge("numeric")(pairs)]
    other = [pair for pair, now, then in zip(pairs, numeric, results, strict=True) if now != then]
    assert len(other) == 13 and all(float(pair.pred) == float(pair.gold) for pair in other)


def test_math_verify_gives_the_6987_of_symbolic_equality(records):
    pytest.importorskip("math_verify")
    pairs = [Pair(row["pred"], row["gold"]) for row in records]
    # Pairs that are no plain decimals, or are equal as numbers only: where symbolic and string comparison can differ.
    hard = [
        (pair, row["result"])
        for pair, row in zip(pairs, records, strict=True)
        if not _plain(pair.pred) or not _plain(pair.gold) or (float(pair.pred) == float(pair.gold)) != row["result"]
    ]
    assert 13 < len(hard) < 200
    verdicts = judge("math-verify")([pair for pair, _ in hard])
    assert sum(verdict.correct != result for verdict, (_, result) in zip(verdicts, hard, strict=True)) == 13
    assert all(verdict.decided for verdict in verdicts)


def _plain(text):
    return text.replace(".", "", 1).removeprefix("-").isdigit()


def test_the_default_extraction_finds_the_same_answers_in_one_spelling(records):
    extract = extractor("default")
    found = [extract(row["response"]) for row in records]
    other = [(new, row["pred"]) for new, row in zip(found, records, strict=True) if new != row["pred"]]
    assert len(other) < 60
    words = [(new, old) for new, old in other if new != normalise(old) and new.replace(" ", "") != old]
    assert words == [("1 hour, 45 minutes", "1hour,45"), ("2 hours 30 minutes", "230")]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so\n#### 72", "72"),
        ("#### 72\nand more", ""),  # only the last line counts
        ("#### 1 #### 2", "1####2"),  # greedy to the end of the line
        ("#### 5\nQuestion: next\n#### 6", "5"),
        ("so The answer is 1,234.50 dollars", "1234.50"),
        ("so The answer is -3.", "-3"),
        ("so The answer is nothing", ""),
        ("#### 72</s>", "72"),
        ("#### 72</s> more", "72</s>"),  # four characters from the end, wherever the tag is
        ("no answer", ""),
    ],
)
def test_extraction_rule_by_rule(text, answer):
    assert extract_published(text) == answer


def test_math_s_key():
    assert extract_published(r"so The answer is: \frac12", "The answer is:") == r"\frac{1}{2}"
    assert extract_published("so #### 3", "The answer is:") == ""


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("x = 5", "5"),
        ("$5", "5"),
        (r"\$1,000", "1000"),
        ("3.00", "3"),
        ("3.50", "3.50"),
        ("50%", "50"),
        (r"50\%", "50"),
        ("12 square feet", "12"),
        ("5 cm", "5"),
        (r"\left(1,2\right)", r"\le(1,2\right)"),  # "ft" is deleted inside a command
        ("issue", "is"),
        (r"$\frac34$ of it", r"\frac{3}{4}"),
        (r"\sqrt2", r"\sqrt{2}"),
        (r"\boxed{7}", "7"),
        (r"\text{even}", "even"),
        (r"90^\circ", "90"),
        ("C", "c"),
        ("H", "H"),
        ("a dog", "dog"),
    ],
)
def test_normalisation_rule_by_rule(answer, normal):
    assert normalise_published(answer) == normal
