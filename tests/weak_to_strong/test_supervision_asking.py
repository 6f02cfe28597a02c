"""Teachers and judges that are asked: the form of answers, retries, what it cost, what stays after a failure."""

import json
import re

import pytest
from engine import command
from stand_in import chat, served
from w2s_files import read, write

from expo.weak_to_strong.supervision.decompose import FREE, decompose
from expo.weak_to_strong.supervision.errors import JudgeUnsteady, Stranger, TeacherFailed
from expo.weak_to_strong.supervision.judge import judge
from expo.weak_to_strong.supervision.lengths import LengthRule, Prices, counter
from expo.weak_to_strong.supervision.prompts import BadForm, read_decompose, read_judge
from expo.weak_to_strong.supervision.records import Task, open_judged, open_tasks
from expo.weak_to_strong.supervision.teacher import Teacher
from expo.weak_to_strong.supervision.votes import StepJudge, Votes, disagreement, majority, steps_of

WORDS = counter("words")
TASK = Task("t0", "Question: What is 2 + 3 times 4?\nAnswer:", "3 times 4 is 12. 2 + 12 is 14.", "14")


def block(*subtasks, end="[END]"):
    parts = [
        f"[SUBTASK {number}]\nPROBLEM: {problem}\nSOLUTION: {solution}\nANSWER: {answer}"
        for number, (problem, solution, answer) in enumerate(subtasks, start=1)
    ]
    return "\n".join([*parts, end])


ONE, TWO = ("What is 3 times 4?", "3 times 4 is 12.", "12"), ("What is 2 + 12?", "It is 14.", "14")
GOOD = block(ONE, TWO)


# --- The form of answers ---------------------------------------------------------------------------------------------


def test_subtasks_are_read_from_the_form():
    found = read_decompose(f"Here they are.\n{GOOD}\nGood luck!", TASK, 2)
    assert [tuple(one) for one in found] == [ONE, TWO]
    assert len(read_decompose(block(ONE, TWO, ("And 1 + 1?", "It is 2.", "2")), TASK, None)) == 3


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty answer"),
        ("  \n", "empty answer"),
        ("I cannot help with that.", r"no \[END\]"),
        (block(ONE, TWO, end=""), r"no \[END\]"),
        (block(ONE), "wrong number"),
        (block(ONE, TWO, ("x?", "y", "y")), "wrong number"),
        (GOOD.replace("SUBTASK 2", "SUBTASK 3"), "wrong number"),
        (block(ONE, ("", "It is 14.", "14")), "lacks its problem"),
        (GOOD.replace("SOLUTION", "SOLVED"), "lacks its problem"),
        (block(ONE, ("what is 2 + 3 times 4", "It is 14.", "14")), "repeats the task"),
        (block(ONE, ONE), "two subtasks are the same"),
        (block(ONE, ("What is 2 + 12?", "It is 14.", "15")), "an answer is not in its solution"),
    ],
)
def test_every_break_of_the_form_has_a_name(text, fault):
    with pytest.raises(BadForm, match=fault):
        read_decompose(text, TASK, 2)


def test_verdicts_are_read_one_a_step():
    assert read_judge("STEP 1: RIGHT\n**Step 2:** wrong\n- STEP 3: RIGHT", 3) == (True, False, True)
    for text in ("", "STEP 1: RIGHT", "STEP 1: RIGHT\nSTEP 3: WRONG", "STEP 1: RIGHT\nSTEP 1: RIGHT", "all fine"):
        with pytest.raises(BadForm):
            read_judge(text, 2)


def test_a_solution_falls_into_steps():
    text = "First, 3 times 4 is 12.\n\n---\nThen 2 + 12 is 14. So the answer is 14."
    assert steps_of(text, "lines") == ["First, 3 times 4 is 12.", "Then 2 + 12 is 14. So the answer is 14."]
    assert len(steps_of(text, "sentences")) == 3


def test_the_length_rule_is_the_published_one():
    rule = LengthRule()
    assert [rule.parts(n) for n in (0, 400, 401, 1000, 1001, 1600, 1601)] == [0, 0, 2, 2, 3, 3, 0]
    with pytest.raises(Exception, match="do not fall"):
        LengthRule(10, 5, 7)


# --- A teacher that decomposes ---------------------------------------------------------------------------------------


def tasks_file(path, n=6, words=5):
    rows = [
        Task(f"t{k}", f"Question: Task {k}?\nAnswer:", f"{'word ' * (words - 1)}{k}", str(k)).row() for k in range(n)
    ]
    return write(path, rows)


def which(body):
    """The number of the task that a request is about."""
    return int(re.search(r"Task (\d+)\?", body["messages"][0]["content"])[1])


def subtasks(k):
    return block((f"Easy {k}?", f"It is {k}.", str(k)), (f"Easier {k}?", f"So {k}.", str(k)))


def teacher(server, **more):
    return Teacher("t", endpoint=server.url, **({"concurrency": 1, "most_failed": 0.5} | more))


def test_what_breaks_the_form_is_asked_again_and_counted(tmp_path):
    """Task 1 answers at the third attempt, task 2 never; the others at once. Nothing is paid for twice."""
    tasks = tasks_file(tmp_path / "tasks.jsonl")
    tried = dict.fromkeys(range(6), 0)

    def reply(route, body, number):
        k = which(body)
        tried[k] += 1
        broken = k == 2 or (k == 1 and tried[1] < 3)
        told = chat("" if k == 2 else "never mind" if broken else subtasks(k))
        return 200, {}, told | {"usage": {"completion_tokens": 10}}

    with served(reply) as server:
        how = {"count": WORDS, "rule": LengthRule(2, 10, 20), "prices": Prices(2.0, 10.0)}
        report = decompose(tasks, tmp_path / "out.jsonl", teacher=teacher(server), **how)
        assert tried == {0: 1, 1: 3, 2: 3, 3: 1, 4: 1, 5: 1}
        again = decompose(tasks, tmp_path / "out.jsonl", teacher=teacher(server), **how)
        assert again == report and sum(tried.values()) == 10
    assert report["refused answers"] == {"empty answer": 3, "no [END]": 2}
    assert (report["subtasks"], report["without an answer"], report["tasks with subtasks"]) == (10, 1, 5)
    spent = report["spent"]
    assert (spent["answers"], spent["answer tokens"]) == (10, 100)
    assert spent["cost"] == pytest.approx((2 * spent["prompt tokens"] + 10 * 100) / 1e6)
    rows = list(open_tasks(tmp_path / "out.jsonl"))
    assert rows[0] == Task("t0/1", "Question: Easy 0?\nAnswer:", "It is 0. The answer is: 0", "0", "t0", 1)


def test_tokens_are_those_that_the_server_bills(tmp_path):
    """Its usage where it tells it, whatever --tokenizer says; what it does not tell is counted, or unknown."""
    tasks, told = tasks_file(tmp_path / "tasks.jsonl", n=2), {"prompt_tokens": 1000, "completion_tokens": 10}

    def reply(route, body, number):
        return 200, {}, chat(subtasks(which(body))) | ({"usage": told} if told else {})

    how = {"count": WORDS, "rule": LengthRule(2, 10, 20), "teacher": None, "prices": Prices(2.0, 10.0)}
    with served(reply) as server:
        spent = decompose(tasks, tmp_path / "a.jsonl", **how | {"teacher": teacher(server)})["spent"]
        assert spent == {
            "answers": 2, "with the server's usage": 2, "prompt tokens": 2000, "answer tokens": 20,
            "cost": pytest.approx((2 * 2000 + 10 * 20) / 1e6),
        }  # fmt: skip
        assert decompose(tasks, tmp_path / "a.jsonl", **how | {"teacher": teacher(server)})["spent"] == spent
        judged = tmp_path / "judged.jsonl"
        samples = write(tmp_path / "s.jsonl", [{"id": "t0", "response": "It is 0."}])
        judge_of = StepJudge(Teacher("j", endpoint=server.url, most_failed=1, attempts=1), prices=Prices(2.0, 10.0))
        spent = judge([samples], [tasks], judged, steps=judge_of, outcome=outcome())["spent"]
        assert (spent["prompt tokens"], spent["cost"]) == (1000, pytest.approx(2100 / 1e6)), "no tokenizer is needed"
        told.clear()
        spent = decompose(tasks, tmp_path / "b.jsonl", **how | {"teacher": teacher(server)})["spent"]
        assert spent["with the server's usage"] == 0 and 100 < spent["prompt tokens"] < 1000 and spent["cost"] > 0
        judge_of = StepJudge(Teacher("k", endpoint=server.url, most_failed=1, attempts=1), prices=Prices(2.0, 10.0))
        spent = judge([samples], [tasks], judged, steps=judge_of, outcome=outcome())["spent"]
        assert (spent["prompt tokens"], spent["answer tokens"], spent["cost"]) == (None, None, None)


def test_too_many_failures_end_the_run_and_keep_the_answers(tmp_path):
    tasks = tasks_file(tmp_path / "tasks.jsonl")
    good = [False]

    def reply(route, body, number):
        return 200, {}, chat(subtasks(which(body)) if good[0] or which(body) < 3 else "no")

    with served(reply) as server:
        how = {"count": WORDS, "rule": LengthRule(2, 10, 20), "work": tmp_path / "work"}
        with pytest.raises(TeacherFailed, match=r"3 of 6 tasks have no answer .* after 2 attempts \(no \[END\] 3\)"):
            decompose(tasks, tmp_path / "out.jsonl", teacher=teacher(server, attempts=2, most_failed=0.2), **how)
        assert not (tmp_path / "out.jsonl").exists()
        asked, good[0] = len(server.requests), True
        report = decompose(tasks, tmp_path / "out.jsonl", teacher=teacher(server, attempts=3, most_failed=0.2), **how)
        assert len(server.requests) == asked + 3, "only what was left is asked, once more"
    assert report["subtasks"] == 12


def test_a_server_that_fails_leaves_what_was_answered(tmp_path):
    tasks = tasks_file(tmp_path / "tasks.jsonl")
    broken = [True]

    def reply(route, body, number):
        if broken[0] and which(body) == 4:
            return 400, {}, {"error": "no"}
        return 200, {}, chat(subtasks(which(body)))

    with served(reply) as server:
        how = {"count": WORDS, "rule": LengthRule(2, 10, 20)}
        with pytest.raises(Exception, match="HTTP 400"):
            decompose(tasks, tmp_path / "out.jsonl", teacher=teacher(server), **how)
        asked, broken[0] = len(server.requests), False
        assert decompose(tasks, tmp_path / "out.jsonl", teacher=teacher(server), **how)["subtasks"] == 12
        assert len(server.requests) - asked == 2


def test_lengths_decide_how_many_unless_told_otherwise(tmp_path):
    rows = [Task(f"t{k}", f"Task {k}?", "word " * n, "x").row() for k, n in enumerate((2, 5, 15, 30))]
    tasks = write(tmp_path / "tasks.jsonl", rows)
    wanted = {}

    def reply(route, body, number):
        text = body["messages"][0]["content"]
        wanted[which(body)] = re.search(r"Write (.*?) easier", text)[1]
        three = block(*((f"E{n}?", f"It is {n}.", str(n)) for n in range(3)))
        return 200, {}, chat(three if wanted[which(body)] == "3" else subtasks(1))

    how = {"count": WORDS, "rule": LengthRule(2, 10, 20)}
    with served(reply) as server:
        report = decompose(tasks, tmp_path / "a.jsonl", teacher=teacher(server), **how)
        assert wanted == {1: "2", 2: "3"} and report["dropped by length"] == 2 and report["subtasks"] == 5
        decompose(tasks, tmp_path / "b.jsonl", teacher=teacher(server), parts=FREE, **how)
        assert wanted[1].startswith("2 or 3")
        n = len(server.requests)
        plan = decompose(tasks, tmp_path / "c.jsonl", teacher=teacher(server), dry_run=True, **how)
        assert plan["would ask"]["requests"] == 2 and len(server.requests) == n and not (tmp_path / "c.jsonl").exists()


# --- A judge of steps ------------------------------------------------------------------------------------------------


@pytest.fixture
def sampled(tmp_path):
    """Three samples of one task: right, wrong in its second step, empty."""
    write(tmp_path / "tasks.jsonl", [TASK.row()])
    texts = ["3 times 4 is 12.\nThe answer is: 14", "3 times 4 is 12.\nThe answer is: 15", " "]
    write(tmp_path / "samples.jsonl", [{"id": "t0", "sample": n, "response": text} for n, text in enumerate(texts)])
    return tmp_path


def verdicts(body):
    """What an honest judge says: a step that ends in 15 is wrong."""
    steps = re.findall(r"^Step (\d+): (.*)$", body["messages"][0]["content"], re.MULTILINE)
    return "\n".join(f"STEP {n}: {'WRONG' if text.endswith('15') else 'RIGHT'}" for n, text in steps)


def test_outcomes_by_equivalence_and_steps_by_a_model(sampled):
    with served(lambda route, body, number: (200, {}, chat(verdicts(body)))) as server:
        report = judge(
            {"gpt": sampled / "samples.jsonl"}, [sampled / "tasks.jsonl"], sampled / "judged.jsonl",
            steps=StepJudge(teacher(server)), outcome=outcome(0.4),
        )  # fmt: skip
    one, two = open_judged(sampled / "judged.jsonl")
    assert (one.result, one.steps, one.teacher, one.pred) == (True, (True, True), "gpt", "14")
    assert (two.result, two.steps) == (False, (True, False))
    assert report["empty, left out"] == 1 and report["rates"]["outcome"]["value"] == 0.5
    assert report["rates"]["steps"]["value"] == 0.25 and "annotated by people" in report["note"]


def outcome(most_empty=0.4):
    from expo.weak_to_strong.supervision.judge import Outcome

    return Outcome(most_empty=most_empty)


def test_a_teacher_that_answers_nothing_is_refused_beyond_a_bound(sampled):
    with pytest.raises(TeacherFailed, match="1 of 3 samples are empty; at most 20% may be"):
        judge([sampled / "samples.jsonl"], [sampled / "tasks.jsonl"], sampled / "judged.jsonl", outcome=outcome(0.2))


def test_samples_of_no_task_and_repeated_ones_are_refused(sampled):
    write(sampled / "other.jsonl", [{"id": "t9", "sample": 0, "response": "x"}])
    with pytest.raises(Stranger, match="1 ids belong to no task that is given: 't9'"):
        judge([sampled / "other.jsonl"], [sampled / "tasks.jsonl"], sampled / "judged.jsonl")
    with pytest.raises(Exception, match="stands in two files"):
        judge([sampled / "samples.jsonl"] * 2, [sampled / "tasks.jsonl"], sampled / "judged.jsonl", outcome=outcome())


def test_a_judge_that_contradicts_itself_is_told_and_refused_beyond_a_bound(sampled):
    """Of three votes on the wrong sample, one calls its first step wrong: one of four steps is disputed."""
    seen = {}

    def reply(route, body, number):
        text = verdicts(body)
        if "15" in body["messages"][0]["content"].split("Steps to judge:")[1]:
            seen[number] = len(seen)
            text = text.replace("STEP 1: RIGHT", "STEP 1: WRONG") if seen[number] == 0 else text
        return 200, {}, chat(text)

    files = ([sampled / "samples.jsonl"], [sampled / "tasks.jsonl"], sampled / "judged.jsonl")
    with served(reply) as server:
        one = teacher(server)
        with pytest.raises(JudgeUnsteady, match=r"3 votes differ on 25\.0% of the steps; at most 20% may"):
            judge(*files, steps=StepJudge(one, Votes(3, 0.2)), outcome=outcome())
        assert not (sampled / "judged.jsonl").exists()
        asked = len(server.requests)
        report = judge(*files, steps=StepJudge(one, Votes(3, 0.3)), outcome=outcome())
        assert len(server.requests) == asked == 6, "the votes are kept"
    assert report["steps on which votes differ"] == 0.25 and report["agreement"] == 0.75
    assert [row.steps for row in open_judged(sampled / "judged.jsonl")] == [(True, True), (True, False)]


def test_majorities_and_disagreement_by_hand():
    assert majority([(True, False), (True, True), (False, False)]) == (True, False)
    assert majority([(True,), (False,)]) == (False,)
    assert disagreement([[(True, False), (True, True)], [(True, True)]]) == 0.5
    assert disagreement([[(True,)]]) is None
    with pytest.raises(Exception, match="odd"):
        Votes(2)


# --- As commands -----------------------------------------------------------------------------------------------------


def test_decompose_and_judge_as_commands(tmp_path, capsys):
    tasks, out = tasks_file(tmp_path / "tasks.jsonl"), tmp_path / "subtasks.jsonl"
    words = ["w2s", "decompose", tasks, "-o", out, "--teacher", "t", "--lengths", 2, 10, 20, "--tokenizer", "words"]

    def reply(route, body, number):
        text = body["messages"][0]["content"]
        return 200, {}, chat(verdicts(body) if "Steps to judge" in text else subtasks(which(body)))

    with served(reply) as server:
        more = ["--endpoint", server.url, "--price-prompt", 1, "--price-answer", 2]
        code, stdout, _ = command(capsys, *words, *more, "--dry-run", "--json")
        assert code == 0 and json.loads(stdout)["would ask"]["requests"] == 6 and not server.requests
        code, stdout, _ = command(capsys, *words, *more, "--json")
        assert code == 0 and json.loads(stdout)["spent"]["cost"] > 0
        assert json.loads((tmp_path / "subtasks.jsonl.report.json").read_text()) == json.loads(stdout)
        code, _, stderr = command(capsys, *words, *more)
        assert code == 1 and "--overwrite" in stderr
        answers = write(
            tmp_path / "s.jsonl", [{"id": row["id"], "response": f"The answer is: {row['gold']}"} for row in read(out)]
        )
        words = ["w2s", "judge", "--samples", f"gpt={answers}", "--tasks", out, "-o", tmp_path / "judged.jsonl"]
        code, stdout, _ = command(capsys, *words, "--judge", "j", "--votes", 3, *more)
        assert code == 0 and "agreement" in stdout
    rows = read(tmp_path / "judged.jsonl")
    assert len(rows) == 12 and all(row["result"] and row["steps"] == [True] and row["task"] for row in rows)
    code, _, stderr = command(capsys, *words, "--steps", "model", "--overwrite")
    assert code == 2 and "--judge MODEL" in stderr
    code, _, stderr = command(capsys, *words, "--judge", "j", "--votes", 2, "--overwrite")
    assert code == 1 and "odd" in stderr


def test_without_a_teacher_running_sums_alone_are_cut_and_others_are_told_so_first(tmp_path, capsys):
    sums = write(tmp_path / "sums.jsonl", [Task(0, "31475=", "34850", "0").row()])
    words = ["w2s", "decompose", sums, "-o", tmp_path / "out.jsonl"]
    code, _, stderr = command(capsys, *words)
    assert code == 1 and "no solution has 401 to 1,600 tokens" in stderr and "--lengths SHORT TWO THREE" in stderr
    code, stdout, _ = command(capsys, *words, "--lengths", 3, 5, 7, "--json")
    assert code == 0 and json.loads(stdout)["subtasks"] == 2
    assert [row["prompt"] for row in read(tmp_path / "out.jsonl")] == ["314=", "875="]
    other = tasks_file(tmp_path / "tasks.jsonl")
    code, _, stderr = command(capsys, "w2s", "decompose", other, "-o", tmp_path / "b.jsonl")
    assert code == 1 and "is no running sum" in stderr and "--teacher MODEL" in stderr, "before any length"


def test_a_local_teacher_that_babbles_is_counted(tmp_path, capsys):
    """A model of random weights breaks the form every time: bounded, told, its answers kept."""
    import talker

    model = talker.save(tmp_path / "tiny", window=2048)
    tasks = tasks_file(tmp_path / "tasks.jsonl", n=2)
    words = ["w2s", "decompose", tasks, "-o", tmp_path / "out.jsonl", "--teacher", model, "--lengths", 2, 10, 20]
    more = ["--tokenizer", "words", "--max-tokens", 4, "--attempts", 2, "--most-failed", 0]
    code, _, stderr = command(capsys, *words, *more)
    assert code == 1 and "2 of 2 tasks have no answer of the right form after 2 attempts" in stderr
    assert "cut off at the longest answer" in stderr
    assert len(list((tmp_path / "out.jsonl.work").rglob("round-*.jsonl"))) == 2
