"""Which answers count as degenerate, on made texts."""

from pathlib import Path

import pytest

from expo.evaluate.metrics.degenerate import is_degenerate, repeated_share

PROSE = " ".join((Path(__file__).parents[2] / "docs" / "architecture.md").read_text().split()[:500])


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_nothing_is_degenerate_however_it_ended(text):
    assert is_degenerate(text, "stop") and is_degenerate(text, "length")


@pytest.mark.parametrize(
    "text",
    ["the same again " * 30, "Some words, and then. " + "I am sorry. " * 40, "0" * 200, "ab" * 60, "哈哈" * 50],
)
def test_a_loop_that_a_limit_ended_is_degenerate(text):
    assert is_degenerate(text, "length") and is_degenerate(text, "context")
    assert not is_degenerate(text, "stop")


@pytest.mark.parametrize("text", [PROSE, PROSE[:200], "34850", "0 0 0 0 0", "no " * 5, "The answer is 7."])
def test_prose_and_short_answers_are_not(text):
    assert not is_degenerate(text, "length")


def test_the_share_by_hand():
    words = [*"abcdefghij", "a", "b", "c", "d", "e"]  # 12 4-grams, of which abcd and bcde come twice
    assert repeated_share(" ".join(words)) == pytest.approx(2 / 12)
    assert repeated_share("a b c d") == 0 and repeated_share(PROSE) < 0.1
