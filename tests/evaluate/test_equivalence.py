"""What counts as the same answer, and that no answer and no judge can hold a run up."""

import sys
import time
from pathlib import Path

import pytest

from expo.evaluate import Pair, judge
from expo.evaluate.equivalence import JudgeError
from expo.evaluate.numeric import number, same_number

ECHO = """
import json, sys
for line in sys.stdin:
    pair = json.loads(line)
    print(json.dumps({"n": pair["n"], "correct": pair["pred"].lower() == pair["gold"].lower()}))
"""


def command(tmp_path, code):
    path = tmp_path / "judge.py"
    path.write_text(code)
    return f"{sys.executable} {path}"


def correct(name, *pairs, **how):
    return [verdict.correct for verdict in judge(name, **how)([Pair(*pair) for pair in pairs])]


def test_string_and_numeric():
    pairs = [("0.5", "0.5"), ("0.50", "0.5"), ("", ""), ("1/2", "0.5")]
    assert correct("string", *pairs) == [True, False, False, False]
    assert correct("numeric", *pairs) == [True, True, False, True]


def test_math_verify_knows_equal_expressions():
    pytest.importorskip("math_verify")
    pairs = [
        (r"\frac{1}{2}", "0.5"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        ("x+1", "1+x"),
        ("3", "4"),
        ("", "4"),
        ("abc", "abc"),
    ]
    assert correct("math-verify", *pairs) == [True, True, True, False, False, True]


def test_an_expression_that_never_ends_costs_its_time_and_nothing_else():
    pytest.importorskip("math_verify")
    compare = judge("math-verify", seconds=2.0)
    began = time.monotonic()
    verdicts = compare([Pair("9^{9^{9^{9}}}", "3"), Pair(r"\frac{2}{4}", "0.5")])
    assert verdicts[0] == (False, False) and verdicts[1] == (True, True)
    assert time.monotonic() - began < 60


def test_a_command_judges_all_pairs_in_one_run(tmp_path):
    name = command(tmp_path, ECHO)
    assert correct(name, ("A", "a"), ("b", "c"), ("", "")) == [True, False, True]
    assert correct(name) == []


def test_a_judge_may_answer_in_any_order_and_read_nothing(tmp_path):
    code = 'print(\'{"n": 1, "correct": true}\'); print(\'{"n": 0, "correct": false}\')'
    many = "x" * 200_000  # more than a pipe holds
    assert correct(command(tmp_path, code), (many, "a"), (many, "b")) == [False, True]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.stderr.write('no key'); sys.exit(3)", "exit code 3:\nno key"),
        ("print('hello')", "line 1 of the judge(.|\n)*'hello'"),
        ('print(\'{"n": 7, "correct": true}\')', "line 1"),
        ('print(\'{"n": 0, "correct": "yes"}\')', "line 1"),
        ('print(\'{"n": 0, "correct": true}\\n{"n": 0, "correct": true}\')', "line 2"),
        ('print(\'{"n": 0, "correct": true}\')', "no verdict on 1 of 2 pairs, first n = 1"),
    ],
)
def test_a_judge_that_fails_or_says_something_else_is_an_error(tmp_path, code, words):
    with pytest.raises(JudgeError, match=words):
        correct(command(tmp_path, code), ("a", "b"), ("c", "d"))


def test_a_judge_that_hangs_is_stopped_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr("expo.evaluate.command._AT_LEAST", 1.0)
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    with pytest.raises(JudgeError, match="did not end within"):
        correct(command(tmp_path, code), ("a", "b"), seconds=0.1)
    pid = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _alive(pid)


def _alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_name_that_is_neither_is_refused_before_anything_runs():
    with pytest.raises(JudgeError, match="Did you mean 'numeric'"):
        judge("numerc")
    with pytest.raises(JudgeError, match="no command line"):
        judge("'open")


@pytest.mark.parametrize(
    ("one", "other"), [("- 3", "-3"), ("-$ 3", "-3"), ("- 1/2", "-0.5"), ("- \\frac{1}{2}", "-.5")]
)
def test_a_sign_may_stand_apart(one, other):
    assert same_number(one, other) and not same_number(one, other[1:])


def test_a_sign_between_two_numbers_makes_no_number():
    assert number("4 - 3") is None and number("- - 3") is None and number("-") is None


def test_powers_of_ten_are_read_as_the_help_says():
    pytest.importorskip("math_verify")
    for name, same in (("numeric", [True, False]), ("math-verify", [False, True])):
        assert [v.correct for v in judge(name)([Pair("1e3", "1000"), Pair("1e3", "3e")])] == same
