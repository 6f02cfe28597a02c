"""Sets of wanted error rates: reached within one sample, nested, seeded, mixed to equal sizes, or clearly refused."""

import json
import math
import random

import pytest
from engine import command
from hypothesis import given, settings
from hypothesis import strategies as st
from w2s_files import read, write

from expo.weak_to_strong.supervision import embedded
from expo.weak_to_strong.supervision.corrupt import corrupt
from expo.weak_to_strong.supervision.errors import BadRate, NotEnoughSamples, Stranger
from expo.weak_to_strong.supervision.mix import KINDS, Asked, assemble, filled, mix
from expo.weak_to_strong.supervision.rates import rates
from expo.weak_to_strong.supervision.records import Judged, Task

ONE = lambda row: 1  # noqa: E731


def judged(key, number, steps, *, right=None, task=None, teacher="t"):
    """A sample whose steps are given as text: "110" is right, right, wrong."""
    result = steps.endswith("1") if right is None else right
    marks = tuple(step == "1" for step in steps)
    return Judged(key, number, f"q{key}", f"a{key}.{number}", result, marks, teacher=teacher, task=task)


def pool(n, samples=4, seed=0, right=0.5):
    """n tasks with right and wrong samples whose steps are right or wrong by chance; two of every kind at least."""
    chance = random.Random(seed)
    rows = []
    for key in range(n):
        for number in range(samples):
            steps = "".join(chance.choice("01") for _ in range(chance.randint(1, 6)))
            good = number < 1 or (number != 1 and chance.random() < right)
            rows.append(judged(key, number, steps, right=good))
    return rows


# --- Corrupt ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 5))
def test_the_outcome_error_rate_is_reached_within_one_sample(n, rate, seed):
    rows = corrupt(pool(n, seed=seed), rate, seed=seed)
    assert [row.id for row in rows] == list(range(n))
    assert abs(sum(not row.result for row in rows) - rate * n) <= 0.5 + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 60), st.floats(0, 1), st.floats(0.05, 0.95), st.integers(0, 5))
def test_the_step_wise_rate_is_reached_within_one_sample_at_the_same_outcomes(n, outcome, rate, seed):
    rows = pool(n, seed=seed)
    plain = corrupt(rows, outcome, seed=seed)
    try:
        found = corrupt(rows, outcome, steps=rate, seed=seed)
    except BadRate as error:
        assert "at this outcome error rate the" in str(error)
        return
    assert [row.result for row in found] == [row.result for row in plain]
    errors, steps = sum(row.n_errors for row in found), sum(row.n_steps for row in found)
    assert abs(errors - rate * steps) <= max(row.n_steps for row in rows)


def test_the_wrong_tasks_at_a_lower_rate_are_wrong_at_a_higher_one_and_a_seed_decides_them():
    rows = pool(50)
    sets = {rate: corrupt(rows, rate, seed=3) for rate in (0, 0.1, 0.2, 0.5, 1)}
    wrong = {rate: {row.id for row in held if not row.result} for rate, held in sets.items()}
    assert wrong[0] < wrong[0.1] < wrong[0.2] < wrong[0.5] < wrong[1] == set(range(50))
    for one, other in ((0.1, 0.2), (0.2, 0.5)):
        same = [(a, b) for a, b in zip(sets[one], sets[other], strict=True) if a.result == b.result]
        assert all(a == b for a, b in same) and len(same) == 50 - len(wrong[other] - wrong[one])
    shuffled = random.Random(1).sample(rows, len(rows))
    again = corrupt(shuffled, 0.2, seed=3)
    assert sorted(again) == sorted(sets[0.2]), "the order of the file decides nothing"
    assert {row.id for row in corrupt(rows, 0.2, seed=4) if not row.result} != wrong[0.2]


def test_too_few_samples_of_a_kind_are_counted():
    rows = [judged(0, 0, "1"), judged(1, 0, "1"), judged(2, 0, "0"), judged(3, 0, "1"), judged(3, 1, "0")]
    with pytest.raises(NotEnoughSamples, match=r"needs 4 with an incorrect sample; 2 have one: 2 are missing"):
        corrupt(rows, 1.0)
    with pytest.raises(NotEnoughSamples, match=r"needs 4 with a correct sample; 3 have one: 1 are missing"):
        corrupt(rows, 0.0)
    assert [row.id for row in corrupt(rows, 1.0, only_pairs=True)] == [3]
    assert sum(not row.result for row in corrupt(rows, 0.25)) == 1  # task 2 has no correct sample
    with pytest.raises(NotEnoughSamples, match="no task has both"):
        corrupt(rows[:3], 0.5, only_pairs=True)


@pytest.mark.parametrize("rate", [-0.1, 1.5, 20, float("nan"), True])
def test_rates_outside_0_to_1_are_refused(rate):
    with pytest.raises(BadRate, match="not a number from 0 to 1"):
        corrupt(pool(4), rate)
    with pytest.raises(BadRate, match="not a number from 0 to 1"):
        corrupt(pool(4), 0.5, steps=rate)


def test_a_step_rate_out_of_reach_says_what_can_be_had():
    rows = [judged(key, number, steps) for key in range(4) for number, steps in enumerate(("1100", "0010", "1111"))]
    with pytest.raises(BadRate, match=r"the highest that these samples give is 0\.750"):
        corrupt(rows, 1.0, steps=0.9)
    with pytest.raises(BadRate, match=r"the lowest that these samples give is 0\.500"):
        corrupt(rows, 1.0, steps=0.1)
    unjudged = [row._replace(steps=None) if row.id == 2 else row for row in rows]
    with pytest.raises(BadRate, match="no sample are judged that 1 of 4 tasks could take; the first is 2"):
        corrupt(unjudged, 1.0, steps=0.6)


def test_samples_that_a_judge_failed_at_are_passed_over_where_a_task_has_others():
    rows = [judged(key, number, steps) for key in range(4) for number, steps in enumerate(("1100", "0010", "1111"))]
    some = [row._replace(steps=None) if (row.id, row.sample) == (2, 0) else row for row in rows]
    found = corrupt(some, 1.0, steps=0.6)
    assert found[2].sample == 1 and abs(off(found, 0.6)) <= 1


# --- Rates -----------------------------------------------------------------------------------------------------------


def test_rates_are_counted_as_by_hand():
    found = rates([judged(0, 0, "1111"), judged(1, 0, "10"), judged(2, 0, "0110")])
    assert found["samples"] == 3 and found["wrong"] == 2
    assert found["outcome"]["value"] == pytest.approx(2 / 3) and found["outcome"]["n"] == 3
    assert (found["steps"]["errors"], found["steps"]["steps"]) == (3, 10)
    low, high = found["steps"]["interval"]
    assert 0 <= low < 0.3 < high <= 1
    assert rates([judged(0, 0, "11")])["steps"]["method"] == "Wilson over ids"
    assert rates([judged(0, 0, "1")._replace(steps=None)])["steps"] is None


def test_the_step_wise_interval_covers_the_true_rate():
    """Samples whose steps go wrong together: an interval over steps would be far too narrow."""
    covered = 0
    for seed in range(100):
        chance = random.Random(seed)
        rows = [judged(key, 0, "0" * 10 if chance.random() < 0.3 else "1" * 10) for key in range(60)]
        low, high = rates(rows)["steps"]["interval"]
        covered += low <= 0.3 <= high
    assert 88 <= covered <= 100


# --- Mix -------------------------------------------------------------------------------------------------------------


def parts(n=20):
    hard = [judged(key, 0, "1100" if key % 5 == 0 else "1111") for key in range(n)]
    subtask = [judged(f"{key}/{part}", 0, "11", task=key) for key in range(n) for part in (1, 2)]
    return {"hard": hard, "subtask": subtask, "paraphrase": [row._replace(prompt=f"so {row.prompt}") for row in hard]}


@pytest.mark.parametrize("equal", ["counts", "tokens"])
@pytest.mark.parametrize("to", ["least", "most"])
def test_equal_sets_are_equal_and_keep_their_rates(tmp_path, equal, to):
    measure = lambda row: len(row.prompt) + len(row.response)  # noqa: E731
    manifest = mix(parts(), tmp_path, equal=equal, to=to, tokens=measure)
    assert set(manifest["sets"]) == set(KINDS)
    for kind, told in manifest["sets"].items():
        rows = read(tmp_path / f"{kind}.jsonl")
        assert len(rows) == told["rows"]
        size = told["rows"] if equal == "counts" else told["tokens"]
        assert abs(size - manifest["size"]) <= (0 if equal == "counts" else 12)
        hard = [row for row in rows if "task" not in row]
        assert abs(sum(not row["result"] for row in hard) - 0.2 * len(hard)) <= 1
        if "+" in kind:
            added = [row for row in rows if "task" in row or row["prompt"].startswith("so ")]
            large = (lambda row: 1) if equal == "counts" else (lambda row: len(row["prompt"]) + len(row["response"]))
            assert 0.45 <= sum(map(large, added)) / sum(map(large, rows)) <= 0.55
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest


def test_without_equal_sizes_every_row_stands_once(tmp_path):
    manifest = mix(parts(), tmp_path)
    assert {kind: told["rows"] for kind, told in manifest["sets"].items()} == {
        "hard": 20, "subtask": 40, "hard+subtask": 60, "hard+paraphrase": 40,
    }  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50), st.integers(0, 120), st.integers(0, 3))
def test_a_share_of_a_set_has_its_outcome_rate_within_one_sample(n, size, seed):
    rows = [row for row in pool(n, seed=seed) if row.sample == seed % 2 + 1]
    taken = filled(rows, size, ONE, seed)
    assert len(taken) == size
    share = sum(not row.result for row in rows) / len(rows)
    assert abs(sum(not row.result for row in taken) - share * size) <= 1
    assert taken == filled(rows, size, ONE, seed)


def off(rows, rate):
    """How many wrong steps the rows have beyond a rate, in samples as long as the longest."""
    return sum(row.n_errors - rate * row.n_steps for row in rows) / max(row.n_steps for row in rows)


@settings(max_examples=60, deadline=None)
@given(st.integers(5, 50), st.integers(1, 49), st.floats(0, 1), st.floats(0.2, 0.8), st.integers(0, 3))
def test_a_share_of_a_set_has_the_step_rate_that_was_asked_within_one_sample(n, size, outcome, rate, seed):
    try:
        rows = corrupt(pool(n, seed=seed), outcome, steps=rate, seed=seed)
    except BadRate:
        return
    taken = filled(rows, min(size, n), ONE, seed, Asked(outcome, rate))
    assert abs(off(taken, rate)) <= 1 + 1e-9
    assert abs(sum(not row.result for row in taken) - outcome * len(taken)) <= 1 + 1e-9


def test_a_share_of_a_few_kinds_of_rows_has_their_step_rate_within_one_sample():
    """Equal distances alone round all three borders of these four kinds in one direction: 1.4 samples too many."""
    kinds = [(4, False, "1111"), (3, False, "0000"), (5, True, "1111"), (4, True, "0000")]
    marks = [(right, steps) for count, right, steps in kinds for _ in range(count)]
    rows = [judged(key, 0, steps, right=right) for key, (right, steps) in enumerate(marks)]
    whole = sum(row.n_errors for row in rows) / sum(row.n_steps for row in rows)
    for size in range(1, len(rows)):
        taken = filled(rows, size, ONE, 0)
        assert len({row.id for row in taken}) == size and abs(off(taken, whole)) <= 1
        again = filled(rows[::-1], size, ONE, 0)
        assert sorted(again) == sorted(taken), "the order of the file decides nothing"
        assert abs(sum(not row.result for row in taken) - 7 / 16 * size) <= 1


def test_repeated_rows_reach_a_rate_as_closely_as_the_rows_do_once():
    rows = corrupt(pool(7), 0.35, seed=1)  # 2.45 wrong of 7 cannot be had: 2
    taken = filled(rows, 7 * 9 + 3, ONE, 1)
    assert abs(sum(not row.result for row in taken) / len(taken) - 0.35) <= 1 / 7


@pytest.mark.parametrize(("n", "size"), [(59, 120), (967, 2000), (21, 96)])
def test_hard_rows_with_their_paraphrases_share_the_one_sample_that_their_rate_may_miss(n, size):
    """Half of an odd number is rounded up, and again in every copy; what fills the set makes up for it."""
    rows = corrupt(pool(n), 0.5)
    held = {"hard": rows, "paraphrase": [row._replace(prompt=f"so {row.prompt}") for row in rows]}
    asked = dict.fromkeys(held, Asked(0.5))
    taken = assemble("hard+paraphrase", held, size=size, measure=ONE, seed=0, asked=asked)
    assert len(taken) == size and abs(sum(not row.result for row in taken) - size / 2) <= 1


def test_every_set_of_the_shipped_study_has_the_rates_asked_within_one_sample():
    """Real samples of the embedded teachers; the grid's cells, at the size that they are trained at."""
    from expo import toy
    from expo.weak_to_strong.running_sum import row
    from expo.weak_to_strong.supervision.records import parse_task

    tasks = [parse_task(row(key, one)) for key, one in enumerate(toy.draw(5, 200, "train", 0))]
    drawn = [
        (task, embedded.sample(task, f"t{slip}", slip, n, 0)) for task in tasks for slip in (0.2, 0.5) for n in range(8)
    ]
    found = [
        Judged(
            task.id, one["sample"], task.prompt, one["response"], one["response"][-1] == task.gold,
            embedded.verdicts(task.prompt, one["response"]), teacher=one["teacher"],
        )
        for task, one in drawn
    ]  # fmt: skip
    for outcome, rate in ((0.2, None), (0.5, None), (0.9, 0.25), (0.9, 0.4), (0.9, 0.55)):
        rows = corrupt(found, outcome, steps=rate, only_pairs=True)
        for size in (100, 333, 400):
            taken = assemble(
                "hard", {"hard": rows}, size=size, measure=ONE, seed=0, asked={"hard": Asked(outcome, rate)}
            )
            room = max(1, size / len(rows))  # a repeated sample counts as often as it stands there
            assert abs(sum(not one.result for one in taken) - outcome * size) <= room
            assert rate is None or abs(off(taken, rate)) <= room


def test_strangers_are_refused(tmp_path):
    held = parts()
    lost = [*held["subtask"], judged("99/1", 0, "1", task=99), judged("x", 0, "1")]
    with pytest.raises(Stranger, match=r"belong to no task of the hard set: '99/1' of task 99; 'x' of task None"):
        mix(held | {"subtask": lost}, tmp_path)
    with pytest.raises(Stranger, match="1 of 20 hard samples have no paraphrase; the first is sample 0 of 3 by t"):
        mix(held | {"paraphrase": [row for row in held["paraphrase"] if row.id != 3]}, tmp_path)
    assert not list(tmp_path.iterdir())
    assert assemble("hard", held, size=None, measure=ONE, seed=0) == held["hard"]


# --- The embedded task -----------------------------------------------------------------------------------------------


def test_running_sums_are_cut_at_their_partial_results():
    from expo import toy

    one, two = embedded.cut(Task(7, "31475=", "34850", "0"), 2)
    assert (one.id, one.prompt, one.completion, one.gold, one.task, one.part) == ("7/1", "314=", "348", "8", 7, 1)
    assert (two.prompt, two.completion, two.gold) == ("875=", "850", "0")
    for number in range(0, 100_000, 7919):
        terms = [int(digit) for digit in f"{number:05d}"]
        solved = toy.solve(terms)
        pieces = embedded.cut(Task(number, *solved, solved.completion[-1]), 3)
        assert "".join([pieces[0].completion, *(piece.completion[1:] for piece in pieces[1:])]) == solved.completion
    with pytest.raises(ValueError, match="too few for 3"):
        embedded.cut(Task(0, "12=", "13", "3"), 3)
    with pytest.raises(ValueError, match="no running sum"):
        embedded.cut(Task(0, "What is 3?", "3", "3"), 2)


@pytest.mark.parametrize(
    ("response", "steps"),
    [
        ("34850", "11111"),
        ("34961", "11011"),
        ("34950", "11001"),
        ("44850", "01111"),
        ("3485", "1111"),
        ("3x850", "10011"),
    ],
)
def test_a_step_is_wrong_where_it_does_not_follow(response, steps):
    if response == "44850":
        steps = "00111"  # 4 is not 3, and 4 + 1 is not 4
    assert embedded.verdicts("31475=", response) == tuple(step == "1" for step in steps)


def test_a_teacher_errs_as_often_as_it_should():
    tasks = [Task(key, f"{key:05d}=", "", "0") for key in range(2000)]
    for error in ("any", "next"):
        rows = [embedded.sample(task, "t", 0.3, 0, 1, error) for task in tasks]
        steps = [right for row in rows for right in embedded.verdicts(row["prompt"], row["response"])]
        assert abs(1 - sum(steps) / len(steps) - 0.3) < 3 * math.sqrt(0.3 * 0.7 / len(steps))
    assert (
        rows[5]
        == embedded.sample(tasks[5], "t", 0.3, 0, 1, "next")
        != embedded.sample(tasks[5], "t", 0.3, 1, 1, "next")
    )


# --- As commands -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Judged samples of hard tasks and subtasks, their paraphrases, and the tasks."""
    folder = tmp_path_factory.mktemp("sets")
    held = parts()
    wrong = [row._replace(sample=1, result=False, steps=(False, True, False, False)) for row in held["hard"]]
    good = [row._replace(result=True, steps=(True, True, True, True)) for row in held["hard"]]
    write(folder / "hard.jsonl", [row.row() for row in good + wrong])
    write(folder / "subtask.jsonl", [row.row() for row in held["subtask"]])
    write(folder / "paraphrase.jsonl", [row._replace(prompt=f"so {row.prompt}").row() for row in good + wrong])
    tasks = [Task(key, f"q{key}", "s", "1").row() for key in range(20)]
    write(folder / "tasks.jsonl", tasks)
    return folder


def test_corrupt_and_mix_on_files(files, tmp_path, capsys):
    out = tmp_path / "sets"
    words = ["w2s", "corrupt", files / "hard.jsonl", "-o", out, "--outcome", 0.1, "--outcome", 0.2]
    code, stdout, _ = command(capsys, *words, "--tasks", files / "tasks.jsonl")
    assert code == 0 and "10.00 %" in stdout and "annotated by people" in stdout
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["sets"]["outcome-0.2"]["wrong"] == manifest["sets"]["outcome-0.2"]["wrong asked"] == 4
    first = {row["id"] for row in read(out / "outcome-0.1.jsonl") if not row["result"]}
    assert first < {row["id"] for row in read(out / "outcome-0.2.jsonl") if not row["result"]}
    code, stdout, _ = command(
        capsys, "w2s", "mix", "--hard", out / "outcome-0.2.jsonl", "--subtask", files / "subtask.jsonl",
        "--paraphrase", files / "paraphrase.jsonl", "-o", tmp_path / "mix",
        "--equal", "counts", "--to", "most", "--json",
    )  # fmt: skip
    assert code == 0 and {told["rows"] for told in json.loads(stdout)["sets"].values()} == {40}
    from expo.train.rows import completions, read_rows

    assert len(completions(read_rows(tmp_path / "mix/hard+subtask.jsonl")).rows) == 40, "a trainer reads them"


def test_rates_that_lie_close_together_have_sets_of_their_own(files, tmp_path, capsys):
    rates = (0, 1 / 3, 0.3333333, 0.5, 1)
    words = ["w2s", "corrupt", files / "hard.jsonl", "-o", tmp_path / "out"]
    code, stdout, _ = command(capsys, *words, *(word for rate in rates for word in ("--outcome", rate)), "--json")
    assert code == 0 and [told["asked"]["outcome"] for told in json.loads(stdout)["sets"].values()] == list(rates)
    assert {path.name for path in (tmp_path / "out").glob("*.jsonl")} == {
        "outcome-0.jsonl", "outcome-0.3333333333333333.jsonl", "outcome-0.3333333.jsonl", "outcome-0.5.jsonl",
        "outcome-1.jsonl",
    }  # fmt: skip


def test_bad_rates_and_strangers_end_in_one_clear_line(files, tmp_path, capsys):
    words = ["w2s", "corrupt", files / "hard.jsonl", "-o", tmp_path / "out", "--outcome"]
    code, _, stderr = command(capsys, *words, 1.2)
    assert code == 1 and "outcome error rate: 1.2 is not a number from 0 to 1" in stderr
    code, _, stderr = command(capsys, *words, 0.5, "--steps", 0.9)
    assert code == 1 and "the highest that these samples give is 0.375" in stderr
    code, _, stderr = command(
        capsys, "w2s", "corrupt", files / "subtask.jsonl", "-o", tmp_path / "out", "--outcome", 0.5
    )
    assert code == 1 and "needs 20 with an incorrect sample; 0 have one: 20 are missing" in stderr
    lost = write(tmp_path / "some.jsonl", read(files / "tasks.jsonl")[:19])
    code, _, stderr = command(capsys, *words, 0, "--tasks", lost)
    assert code == 1 and "belong to no task of" in stderr and "19 of task 19" in stderr
    code, _, stderr = command(capsys, "w2s", "corrupt", files / "tasks.jsonl", "-o", tmp_path / "out", "--outcome", 0.5)
    assert code == 1 and "tasks.jsonl:1: 'result' must be true or false" in stderr
    assert not (tmp_path / "out").exists()
    assert command(capsys, *words, 0.5, "--dry-run")[0] == 0 and not (tmp_path / "out").exists()
