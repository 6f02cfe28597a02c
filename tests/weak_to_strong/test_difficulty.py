"""Easy and hard: ratings are out of fold, parts are apart, and each part that would be empty is refused."""

import json
from types import SimpleNamespace

import pytest
from w2s_files import read, write

from expo.rows import RowsError
from expo.weak_to_strong import difficulty
from expo.weak_to_strong.ensemble_run import EnsembleRun
from expo.weak_to_strong.errors import StageError
from expo.weak_to_strong.pool import in_form


def run(kind="generation", **changes):
    told = {"name": "x", "kind": kind, "data": {"pool": "pool.jsonl"}, "weak": "org/weak", "strong": "org/strong"}
    return EnsembleRun.model_validate(told | {"split": {"validation": 2, "test": 3, "ood": 0.1}} | changes)


ROWS = [
    {"id": f"q{n}", "prompt": f"{n:02} " + "p" * (n % 7), "text": "kept", "completion": "c", "gold": "c", "level": n}
    for n in range(40)
]


def test_every_question_is_rated_by_an_expert_that_has_not_seen_it(tmp_path, monkeypatch):
    trained = {}

    def train(run, settings, model, rows, folder, **how):
        trained[folder] = {row["id"] for row in rows}
        folder.mkdir(parents=True)

    def missed(run, model, rows):
        seen = trained[model.parent]
        assert not seen & {row["id"] for row in rows} and len(seen) == 32
        return [0.5] * len(rows)

    stand_in = SimpleNamespace(train=train, missed=missed)
    monkeypatch.setattr("expo.weak_to_strong.forms.form_of", lambda run: stand_in)
    facts = difficulty.rate(run(difficulty={"by": "experts", "folds": 5}), ROWS, tmp_path, "org/weak", None)
    assert len(trained) == 5 and set.intersection(*trained.values()) == set()
    assert [row["id"] for row in read(tmp_path / "difficulty.jsonl")] == [row["id"] for row in ROWS]
    assert facts["by"] == "experts" and [one["rated"] for one in facts["folds"]] == [8] * 5


def test_what_is_asked_twice_is_rated_by_an_expert_that_saw_neither():
    questions = [f"q{n % 30}" for n in range(40)]
    folds = difficulty.folds_of(questions, 5, 0)
    assert len({(question, fold) for question, fold in zip(questions, folds, strict=True)}) == 30
    different = dict(zip(questions, folds, strict=True)).values()
    assert [list(different).count(fold) for fold in range(5)] == [6] * 5


def test_more_folds_than_different_questions_allow_are_refused(tmp_path):
    same = [{**row, "prompt": f"q{n % 9}"} for n, row in enumerate(ROWS)]
    with pytest.raises(StageError, match="9 different questions are too few for 5 folds"):
        difficulty.rate(run(difficulty={"by": "experts", "folds": 5}), same, tmp_path, "org/weak", None)


def test_questions_that_are_tested_and_learnt_are_counted(tmp_path):
    levels = list(range(40))
    assert "said" not in difficulty.split(run(), ROWS, levels, tmp_path)
    parts = difficulty.parts_of(run(), ROWS, levels)
    twice, other = parts["hard"][0], parts["train"][0]
    rows = [{**row, "prompt": ROWS[other]["prompt"]} if at == twice else row for at, row in enumerate(ROWS)]
    told = difficulty.split(run(), rows, levels, tmp_path)
    assert told["learnt, too"] == {"validation": 0, "easy": 0, "hard": 1, "hardest": 0}
    assert told["said"] == "learnt from in another part, too: 1 of hard"


@pytest.mark.parametrize(
    ("name", "problem"), [("pool", "one of the pool's own parts"), ("a/b", "'a/b' names files"), ("..", "names files")]
)
def test_a_further_test_set_takes_no_other_files_place(name, problem):
    with pytest.raises(ValueError, match=problem):
        run(data={"pool": "pool.jsonl", "ood": {name: "other.jsonl"}})


def test_ratings_by_length_column_file_and_chance(tmp_path):
    def rated(asked, file=None):
        difficulty.rate(run(difficulty=asked), ROWS, tmp_path, "", file)
        return [row["difficulty"] for row in read(tmp_path / "difficulty.jsonl")]

    assert len(set(rated({"by": "length"}))) == 7
    assert rated({"by": "length"}) == [float(len(row["prompt"])) for row in ROWS]
    assert rated({"by": "column", "column": "level"}) == list(map(float, range(40)))
    numbers, keyed = tmp_path / "numbers.txt", tmp_path / "keyed.jsonl"
    numbers.write_text("".join(f"{n * 2}\n" for n in range(40)))
    write(keyed, ({"id": row["id"], "difficulty": row["level"] * 2} for row in reversed(ROWS)))
    for file in (numbers, keyed):
        assert rated({"by": "file", "file": "f"}, file) == [2.0 * n for n in range(40)]
    assert set(rated({"by": "random"})) == {0.0}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1\n2\n", "2 numbers for 40 questions"),
        ("".join("x\n" for _ in ROWS), "is 'x', not a finite number"),
        ("".join("nan\n" for _ in ROWS), "is 'nan', not a finite number"),
        (json.dumps({"id": "q0", "difficulty": 1}), "id 'q1' has no difficulty"),
    ],
)
def test_a_file_of_ratings_that_does_not_fit_is_refused(tmp_path, text, problem):
    file = tmp_path / "ratings"
    file.write_text(text)
    with pytest.raises(RowsError, match=problem):
        difficulty.by_file(file, ROWS)


def test_parts_cover_the_pool_in_order_of_difficulty(tmp_path):
    parts = difficulty.parts_of(run(), ROWS, [row["level"] for row in ROWS])
    sizes = {name: len(held) for name, held in parts.items()}
    assert sizes == {"train": 13, "validation": 2, "easy": 3, "hard_train": 15, "hard": 3, "hardest": 3}
    easy = [at for name in ("train", "validation", "easy") for at in parts[name]]
    hard = [at for name in ("hard_train", "hard") for at in parts[name]]
    assert sorted(easy) == list(range(18)) and sorted(hard) == list(range(18, 36)) and min(parts["hardest"]) >= 36
    assert difficulty.parts_of(run(seed=1), ROWS, [0] * 40) != difficulty.parts_of(run(seed=2), ROWS, [0] * 40)


def test_ties_at_the_cut_are_counted(tmp_path):
    told = difficulty.split(run(), ROWS, [0.0] * 20 + [1.0] * 20, tmp_path)
    assert told["tied at the cut"] == 20
    assert difficulty.split(run(), ROWS, list(range(40)), tmp_path)["tied at the cut"] == 0


@pytest.mark.parametrize(
    ("split", "part"),
    [({"validation": 20, "test": 3}, "easy"), ({"easy": 0.9, "validation": 2, "test": 4}, "hard")],
)
def test_an_empty_part_is_refused(split, part):
    with pytest.raises(StageError, match=rf"the {part} part has \d+ questions; .* leave none to learn from"):
        difficulty.parts_of(run(split=split), ROWS, [row["level"] for row in ROWS])


def test_a_part_of_one_class_is_refused():
    rows = [{"id": n, "text": "t", "label": int(n >= 18)} for n in range(40)]
    with pytest.raises(StageError, match="13 rows of the part train are of one class, '0'"):
        difficulty.parts_of(run("classification"), rows, list(range(40)))


@pytest.mark.parametrize(
    ("kind", "row", "problem"),
    [
        ("classification", {"text": "t", "label": "maybe"}, "the label 'maybe' is none of the classes"),
        ("classification", {"text": "t", "label": 2}, "the label 2 is none of the classes"),
        ("classification", {"text": "t"}, "the label None is none of the classes"),
        ("classification", {"text": " ", "label": 0}, "its text is empty"),
        ("generation", {"prompt": "p", "completion": " "}, "its completion is empty"),
        ("generation", {"completion": "c"}, "has no field 'prompt'"),
        ("generation", {"prompt": "p", "completion": "c", "id": 1.5}, "the id is 1.5"),
    ],
)
def test_rows_outside_the_form_are_refused_with_their_line(tmp_path, kind, row, problem):
    with pytest.raises(RowsError, match=f"pool.jsonl, row 1: {problem}"):
        in_form(run(kind), [row], "pool.jsonl")
