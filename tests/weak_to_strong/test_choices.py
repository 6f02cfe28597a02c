"""SciQ, ARC and QuaRTz become pools; the rows are made by hand in the columns that the data sets' cards name."""

import re

import pytest

from expo.weak_to_strong import choices
from expo.weak_to_strong.ensemble import build
from expo.weak_to_strong.ensemble_run import EnsembleRun
from expo.weak_to_strong.errors import RowError
from expo.weak_to_strong.pool import in_form, numbered
from expo.weak_to_strong.runfile import load_run, shipped

SCIQ = {
    "question": "What is liquid water's solid form?", "distractor3": "fog", "distractor1": "steam",
    "distractor2": "dew", "correct_answer": "ice", "support": "Water freezes.",
}  # fmt: skip
ARC = {
    "id": "Mercury_7", "question": "What melts ice?",
    "choices": {"text": ["cold", "heat", "dark", "salt"], "label": ["A", "B", "C", "D"]}, "answerKey": "B",
}  # fmt: skip
QUARTZ = {
    "id": "QRQA-10385-4-flip", "question": "More heat makes ice melt _____.",
    "choices": {"text": ["faster", "slower"], "label": ["A", "B"]}, "answerKey": "A", "para": "Heat melts ice. ",
    "para_id": "QRSent-10385", "para_anno": {"effect_prop": "speed"}, "question_anno": {"more_effect_dir": "MORE"},
}  # fmt: skip


def loaded(rows):
    """A stand-in for `datasets` that knows one row of each split, and notes what it was asked for."""
    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        return [rows]

    return load, asked


def test_sciq_asks_whether_an_answer_is_right():
    questions = [{**SCIQ, "question": f"{SCIQ['question']} ({n})"} for n in range(200)]
    made = [choices.from_sciq(row, None, 0) for row in questions]
    for row in made:
        answer = row["text"].partition(" A: ")[2]
        assert row["text"].startswith("Q: What is liquid") and row["label"] == int(answer == "ice")
    assert {row["text"].partition(" A: ")[2] for row in made} == {"ice", "steam", "dew", "fog"}
    assert 70 < sum(row["label"] for row in made) < 130
    assert made == [choices.from_sciq(row, None, 0) for row in questions]


def test_arc_lists_its_choices_and_keeps_its_own_level():
    load, asked = loaded(ARC)
    rows = list(numbered(choices.pool_of("allenai/ai2_arc", 0, load)))
    assert len(asked) == 6 and ("allenai/ai2_arc", "ARC-Challenge", "validation") in asked
    assert rows[0] == {
        "id": 0, "prompt": "Question: What melts ice?\n(A) cold\n(B) heat\n(C) dark\n(D) salt\nAnswer:",
        "completion": "(B) heat", "gold": "B", "level": 0,
    }  # fmt: skip
    assert [row["level"] for row in rows] == [0, 0, 0, 1, 1, 1]


def test_quartz_shows_its_paragraph_first():
    load, asked = loaded(QUARTZ)
    first = next(choices.pool_of("allenai/quartz", 0, load))
    assert first["prompt"].startswith("Heat melts ice.\nQuestion: More heat") and first["completion"] == "(A) faster"
    assert asked == [("allenai/quartz", None, "train")]


@pytest.mark.parametrize("change", [{"answerKey": "E"}, {"choices": ["cold"]}, {"question": None}])
def test_an_odd_row_is_named(change):
    load, _ = loaded({**ARC, **change})
    with pytest.raises(RowError, match=r"allenai/ai2_arc, ARC-Easy, train row 1"):
        list(choices.pool_of("allenai/ai2_arc", 0, load))


@pytest.mark.parametrize("name", shipped(EnsembleRun))
def test_a_shipped_run_is_read_and_planned(name):
    run = load_run(name, kind=EnsembleRun)
    stages = [stage.name for stage in build(run)]
    assert stages[0] == "data" and stages[-1] == "report" and "student/tests" in stages
    assert "merged_linear/merge" in stages and "merged_ties/merge" in stages
    if run.kind == "generation" and run.data:  # the letter of a right answer is found by the run's own pattern
        from expo.evaluate import extractor

        found = choices.from_choices(ARC, None, 0)
        assert extractor(run.extraction)(found["completion"]) == found["gold"]
        assert in_form(run, [{"id": 0, **found}], "x")[0]["gold"] == "B"
    assert re.search(r"[Oo]urs", shipped(EnsembleRun)[name].read_text())
