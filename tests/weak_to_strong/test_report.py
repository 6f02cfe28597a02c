"""Accuracies come with n and intervals; PGR with its three accuracies, never where it means nothing."""

import pytest

from expo.weak_to_strong.report import CEILING, FLOOR, NAIVE, markdown, pgr, table


def marks(correct: int, n: int = 1000, start: int = 0) -> dict[int, bool]:
    """n answers, of which those from `start` on are right, `correct` of them."""
    return {key: start <= key < start + correct for key in range(n)}


def test_pgr_by_hand():
    found = pgr(marks(300), marks(400), marks(500))
    assert found["value"] == pytest.approx(0.5) and found["note"] == ""
    assert (found["floor"], found["model"], found["ceiling"], found["n"]) == (0.3, 0.4, 0.5, 1000)
    low, high = found["interval"]
    # Nested answers: 100 of the 200 questions between floor and ceiling, a binomial share's interval.
    assert low == pytest.approx(0.43, abs=0.01) and high == pytest.approx(0.57, abs=0.01)
    assert found == pgr(marks(300), marks(400), marks(500))


def test_pgr_is_below_zero_and_above_one_where_it_is():
    assert pgr(marks(300), marks(200), marks(500))["value"] == pytest.approx(-0.5)
    assert pgr(marks(300), marks(600), marks(500))["value"] == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("floor", "ceiling", "note"),
    [
        (marks(300), None, "undefined: no ceiling"),
        (None, marks(300), "undefined: no golds"),
        (marks(300), marks(300), "undefined: ceiling and floor are equal"),
    ],
)
def test_pgr_is_undefined_without_a_gap(floor, ceiling, note):
    found = pgr(floor, marks(400), ceiling)
    assert found["value"] is None and found["note"] == note


def test_pgr_is_flagged_where_ceiling_and_floor_are_within_noise():
    found = pgr(marks(300), marks(302), marks(303, start=2))
    assert found["note"] == "ceiling and floor are within noise" and "interval" not in found
    found = pgr(marks(500), marks(400), marks(300))
    assert found["note"] == "the ceiling is below the floor" and "interval" not in found


def test_a_table_starts_at_the_floor_and_ends_at_the_ceiling():
    group = {FLOOR: marks(300), NAIVE: marks(320), "hybrid": marks(400)}
    rows = table({"strong model as it comes": marks(350), CEILING: marks(500)}, group)
    assert [row["model"] for row in rows] == [FLOOR, "strong model as it comes", NAIVE, "hybrid", CEILING]
    hybrid = rows[3]
    assert hybrid["accuracy"]["n"] == 1000 and hybrid["accuracy"]["correct"] == 400
    assert hybrid["against naive"]["value"] == pytest.approx(0.08) and hybrid["against naive"]["distinguishable"]
    assert hybrid["pgr"]["value"] == pytest.approx(0.5)
    assert "pgr" not in rows[0] and "pgr" not in rows[-1] and "against naive" not in rows[2]


def test_the_text_says_what_the_numbers_say():
    tables = {
        "m": table({}, {FLOOR: marks(300), NAIVE: marks(320), "hybrid": marks(400)}),
        "bare": table({}, {"x": None}),
    }
    report = {
        "run": "r", "models": {"strong": "S"}, "mode": "mended", "scoring": {"extraction": "e", "equivalence": "q"},
        "tables": tables, "stages": {"m/select": {"fates": {"kept": 2}, "accuracy": {"accuracy": 0.5, "n": 4}}},
        "mended": ["this"],
    }  # fmt: skip
    text = markdown(report, ["accuracy.png"])
    low, high = (100 * bound for bound in tables["m"][2]["against naive"]["interval"])
    assert 6.3 < low < 6.6 and 9.7 < high < 10  # Tango's interval of 80 won and none lost of 1,000
    assert (
        f"| hybrid | 40.0 % | 37.0 to 43.1 | 1000 | +8.0 ({low:+.1f} to {high:+.1f}) | undefined: no ceiling |" in text
    )
    assert "| x | no golds |" in text and "![accuracy.png](accuracy.png)" in text
    assert "- m/select: fates: kept 2; accuracy 50.0 % of 4" in text and "- this" in text


def test_nothing_is_less_than_nothing():
    from expo.weak_to_strong.report import cells

    value = {"value": -0.001, "interval": [-0.002, 0.001], "note": ""}
    accuracy = {"value": 0.5, "interval": [0.4, 0.6], "n": 10}
    row = {"model": "m", "accuracy": accuracy, "against naive": {"value": -0.0001, "interval": [-0.0002, 0.1]}}
    assert cells({**row, "pgr": value})[4:] == ["+0.0 (+0.0 to +10.0)", "0.00 (0.00 to 0.00)"]
