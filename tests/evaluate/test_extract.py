"""The mended extraction: an answer is found wherever it stands, and nothing is cut out of words."""

import time

import pytest

from expo.evaluate.extract import UnknownExtraction, extract, extractor, normalise
from expo.evaluate.numeric import number, same_number


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so\n#### 72", "72"),
        ("#### 72\nand more", "72"),
        ("#### 71\nwait\n#### 72", "72"),
        ("#### 72</s> garbage", "72"),
        ("#### $1,234.50", "1234.5"),
        ("#### 5\nQuestion: next\n#### 6", "5"),
        ("The question is hard.\n#### 5", "5"),
        (r"so \boxed{\frac{1}{2}} holds", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{\sqrt{2}}", r"\sqrt{2}"),
        ("The answer is 12 apples.", "12"),
        ("The answer is: 12.", "12"),
        ("Final answer: x = 7", "7"),
        ("I think 5 or 6", ""),
        ("####", ""),
        ("", ""),
    ],
)
def test_extraction(text, answer):
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("3.00", "3"), ("0.50", "0.5"), (".5", "0.5"), ("-0", "0"), ("+4", "4"), ("007", "7"), ("1,000,000", "1000000"),
        ("1,2", "1,2"), ("(1,2)", "(1,2)"), ("2x", "2x"), ("2 x", "2 x"), (r"3\pi", r"3\pi"), (r"3 \pi", r"3 \pi"),
        ("5 cm", "5"), ("5cm", "5"), (r"5\text{ cm}", "5"), ("50%", "50"), (r"50\%", "50"), (r"90^\circ", "90"),
        (r"\left(1,2\right)", "(1,2)"), ("issue", "issue"), ("3/4 cups", "3/4"), ("27 1/2", "27 1/2"), ("5:40", "5:40"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"), (r"\$18", "18"), ("**18**", "18"), ("B", "B"), ("100,\\!000", "100,000"),
    ],
)  # fmt: skip
def test_normalisation(text, normal):
    expected = "100000" if normal == "100,000" else normal
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0.50", "0.5", True), ("1/2", "0.5", True), (r"\frac{1}{2}", "0.5", True), (r"-\frac{1}{2}", "-0.5", True),
        ("27 1/2", "27.5", True), ("-1 1/2", "-1.5", True), ("1,000", "1000", True), ("1,2", "12", False),
        ("0.333", "1/3", False), ("1e3", "1000", True), ("50%", "50", True), ("1/0", "1/0", True), ("1/0", "0", False),
        ("abc", "abc", True), ("abc", "ABC", False), ("0.1", "0.10000000000000001", False), ("٣", "3", False),
    ],
)  # fmt: skip
def test_numbers_are_compared_exactly(one, other, same):
    assert same_number(one, other) is same and same_number(other, one) is same


def test_hostile_texts_take_no_time():
    began = time.process_time()
    for text in (
        "9" * 200_000,
        "1e999999999",
        "#### " + "$" + "x" * 100_000,
        "\\boxed{" * 20_000,
        "answer is " * 20_000,
    ):
        extract(text)
        normalise(text)
        number(text)
        extractor("published")(text)
    assert time.process_time() - began < 5


def test_other_extractions():
    assert extractor("whole")(" 34850 ") == "34850"
    assert extractor(r"regex:(\d)\s*$")("34850\n") == "0"
    assert extractor(r"regex:\d+")("1 22 333") == "333" and extractor(r"regex:\d+")("none") == ""
    with pytest.raises(UnknownExtraction, match="Did you mean 'default'"):
        extractor("defualt")
    with pytest.raises(UnknownExtraction, match="no regular expression"):
        extractor("regex:(")
    with pytest.raises(UnknownExtraction, match="looks for"):
        extractor("published:Answer")
