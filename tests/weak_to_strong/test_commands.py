"""The single steps as commands: files in, files and a report out, clear refusals."""

import json

import pytest
from engine import command
from w2s_files import answer, read, write

from expo.cli.w2s import w2s


def ten(key, preds):
    return [answer(key, pred, sample=n, response=f"{n}: {pred}") for n, pred in enumerate(preds)]


@pytest.fixture
def files(tmp_path):
    """The weak model's answers, the strong model's, and its samples, of two questions."""
    write(tmp_path / "weak.jsonl", [answer(0, "1"), answer(1, "2")])
    write(tmp_path / "icl.jsonl", [answer(0, "1.0"), answer(1, "3")])
    write(tmp_path / "samples.jsonl", [*ten(0, "1111111112"), *ten(1, "3333333333")])
    return tmp_path


def test_from_answers_to_pairs(files, capsys):
    weak, out = files / "weak.jsonl", files / "out"
    code, stdout, _ = command(
        capsys, "w2s", "select", "--weak", weak, "--icl", files / "icl.jsonl", "-o", out, "--equivalence", "numeric"
    )
    assert code == 0 and "kept 1" in stdout
    assert [row["id"] for row in read(out / "hybrid.jsonl")] == [0, 0]
    assert json.loads((out / "report.json").read_text())["fates"]["kept"] == 1
    code, _, _ = command(capsys, "w2s", "vote", files / "samples.jsonl", "-o", files / "votes.jsonl")
    assert code == 0 and [row["confidence"] for row in read(files / "votes.jsonl")] == [0.9, 1.0]
    options = ["--weak", weak, "--votes", files / "votes.jsonl", "-o", files / "pairs.json", "--json"]
    code, stdout, _ = command(capsys, "w2s", "pairs", *options)
    assert code == 0 and json.loads(stdout)["fates"] == {"weak chosen": 1, "weak rejected": 1}
    assert len(read(files / "pairs.json")) == 2
    code, stdout, _ = command(capsys, "w2s", "validate", files / "pairs.json", "--weak", weak)
    assert code == 0 and "weak chosen: 1, weak rejected: 1" in stdout and "nothing wrong" in stdout


def test_all_weak_answers_as_the_naive_set(files, capsys):
    out = files / "full.json"
    assert command(capsys, "w2s", "select", "--weak", files / "weak.jsonl", "-o", out)[0] == 0
    assert [row["output"] for row in read(out)] == ["so 1", "so 2"]
    some = files / "some.json"
    write(files / "ids.jsonl", [{"id": 1}])
    words = ["w2s", "select", "--weak", files / "weak.jsonl", "--ids", files / "ids.jsonl", "-o", some]
    assert command(capsys, *words)[0] == 0 and len(read(some)) == 1


def test_final_answers_can_be_extracted(files, capsys):
    rows = [{"id": 0, "prompt": "q", "response": "so\n#### 5"}]
    weak, icl = write(files / "w.jsonl", rows), write(files / "i.jsonl", rows)
    words = ["w2s", "select", "--weak", weak, "--icl", icl, "-o", files / "out"]
    code, _, stderr = command(capsys, *words)
    assert code == 1 and "w.jsonl:1: has no field 'pred'" in stderr and "--extraction" in stderr
    assert command(capsys, *words, "--extraction", "published")[0] == 0
    assert len(read(files / "out/weak.jsonl")) == 1


def test_an_existing_output_is_kept_unless_told(files, capsys):
    words = ["w2s", "vote", files / "samples.jsonl", "-o", files / "weak.jsonl"]
    code, _, stderr = command(capsys, *words)
    assert code == 1 and "exists" in stderr and "--overwrite" in stderr and len(read(files / "weak.jsonl")) == 2
    assert command(capsys, *words, "--overwrite")[0] == 0


def test_a_dry_run_counts_and_writes_nothing(files, capsys):
    weak, icl = files / "weak.jsonl", files / "icl.jsonl"
    before = sorted(path.name for path in files.iterdir())
    for words in (
        ["select", "--weak", weak, "--icl", icl, "-o", files / "out"],
        ["select", "--weak", weak, "-o", files / "out.json"],
        ["vote", files / "samples.jsonl", "-o", files / "out.jsonl"],
    ):
        code, stdout, _ = command(capsys, "w2s", *words, "--dry-run", "--json")
        assert code == 0 and json.loads(stdout)["inputs"]
        assert sorted(path.name for path in files.iterdir()) == before


def test_an_input_is_never_replaced(files, capsys):
    words = ["w2s", "vote", files / "samples.jsonl", "-o", files / "samples.jsonl", "--overwrite"]
    code, _, stderr = command(capsys, *words)
    assert code == 1 and "is an input" in stderr and len(read(files / "samples.jsonl")) == 20


def test_a_folder_is_replaced_whole_or_not_at_all(files, capsys):
    words = ["w2s", "select", "--weak", files / "weak.jsonl", "--icl", files / "icl.jsonl", "-o", files / "out"]
    assert command(capsys, *words, "--equivalence", "numeric")[0] == 0
    before = {path.name: path.read_bytes() for path in (files / "out").iterdir()}
    write(files / "icl.jsonl", [answer(0, "1.0"), answer(2, "3")])
    assert command(capsys, *words, "--overwrite")[0] == 1
    assert before == {path.name: path.read_bytes() for path in (files / "out").iterdir()}
    write(files / "icl.jsonl", [answer(0, "1.0"), answer(1, "3")])
    assert command(capsys, *words, "--overwrite")[0] == 0
    assert not [path for path in files.iterdir() if path.suffix in (".partial", ".old")]
    (files / "out/mine.txt").write_text("older")
    code, _, stderr = command(capsys, *words, "--overwrite")
    assert code == 1 and "'mine.txt'" in stderr and (files / "out/mine.txt").exists()


def test_what_the_file_system_refuses_is_one_message(files, capsys):
    words = ["w2s", "vote", files / "samples.jsonl", "-o", files / "weak.jsonl" / "out.jsonl"]
    code, _, stderr = command(capsys, *words)
    assert code == 1 and stderr.startswith("error: ") and "out.jsonl: cannot be written" in stderr


def test_defects_are_listed_and_end_in_exit_1(files, capsys):
    pairs = [{"id": 0, "instruction": "q0", "input": "", "output": ["other 1", "so 2"]}] * 2
    pairs += [{"id": 1, "instruction": "q1", "input": "", "output": ["so 2", "so 2"]}]
    path = write(files / "pairs.json", pairs, array=True)
    other = write(files / "mistral.jsonl", [answer(0, "1", response="other 1"), answer(1, "2")])
    words = ["w2s", "validate", path, "--weak", files / "weak.jsonl", "--other", f"mistral={other}"]
    code, stdout, stderr = command(capsys, *words, "--json", "--extraction", r"regex:(\d)$")
    found = {row["rule"]: row for row in json.loads(stdout)["findings"]}
    assert code == 1 and "3 rules are broken, 4 times in 3 rows" in stderr
    assert {rule: row["count"] for rule, row in found.items()} == {"another model": 2, "duplicate": 1, "same text": 1}
    assert found["another model"]["detail"] == "2 of them hold mistral's response"
    code, stdout, _ = command(capsys, *words)
    assert code == 1 and "another model" in stdout and "pairs.json:2" in stdout


def test_every_kind_of_file_is_validated(files, capsys):
    votes = {"id": 0, "prompt": "q0", "pos_responses": [{"response": "a", "pred": ""}], "neg_responses": []}
    stale = answer(0, "7", gold="7", result=False)
    for rows, expected in [
        ([votes, votes], {"duplicate", "duplicate id", "empty prediction"}),
        ([stale], {"stored prediction", "stored result"}),
        ([answer(1, "1"), answer(0, " ", response=" ")], {"order", "empty response", "empty prediction"}),
        (
            [{"id": 0, "content": "q0", "output": "so 1"}, {"id": 0, "content": "q0", "output": "so 2"}],
            {"disagreement"},
        ),
    ]:
        path = write(files / "rows.jsonl", rows)
        _, stdout, _ = command(capsys, "w2s", "validate", path, "--json", "--extraction", r"regex:so ([0-6])$")
        assert expected <= {row["rule"] for row in json.loads(stdout)["findings"]}, rows
    path = write(files / "rows.jsonl", [{"id": 0, "instruction": "q", "output": ["one"]}])
    code, _, stderr = command(capsys, "w2s", "validate", path)
    assert code == 1 and "rows.jsonl:1: a pair needs two texts" in stderr


def test_usage_errors_end_in_exit_2(files, capsys):
    weak = files / "weak.jsonl"
    for words in (
        ["select", "--weak", weak, "--icl", weak, "--ids", weak, "-o", "x"],
        ["validate", weak, "--other", f"m={weak}"],
        ["validate", weak, "--weak", weak, "--other", "m"],
        ["reasoning"],
        ["data", "olympicarena", "--raw", files, "-o", "x"],
        ["reasoning", "running-sum", "--set", "seed"],
    ):
        code, _, stderr = command(capsys, "w2s", *words)
        assert code == 2, (words, stderr)


def test_run_files_are_listed_and_shown(capsys):
    code, stdout, _ = command(capsys, "w2s", "reasoning", "--list")
    assert code == 0 and stdout.startswith("gsm8k: ") and "running-sum: " in stdout
    code, stdout, _ = command(capsys, "w2s", "reasoning", "math", "--show")
    assert code == 0 and "name: math" in stdout


def test_every_command_has_a_line_of_help():
    whole = {"reasoning", "ensemble", "boost", "label", "supervision", "decompose", "judge", "corrupt", "mix"}
    assert set(w2s.commands) == whole | {"select", "vote", "pairs", "data", "validate"}
    assert all(one.get_short_help_str() for one in w2s.commands.values())


def test_validate_takes_predictions_from_the_weak_file_and_says_what_it_cannot_tell(files, capsys):
    rows = [answer(0, "1"), answer(1, "", response="who knows")]
    weak = write(files / "weak.jsonl", rows)
    told = [{"id": row["id"], "content": row["prompt"], "output": row["response"]} for row in rows]
    training = write(files / "training.json", told, array=True)
    pair = {"id": 1, "content": "q1", "output": ["who knows", "so 3"]}
    code, stdout, _ = command(capsys, "w2s", "validate", training)
    assert code == 0 and "not checked: empty prediction (no pred; add --extraction)" in stdout
    assert "nothing wrong was found by the rules that were checked" in stdout
    for path in (training, write(files / "pairs.json", [pair], array=True)):
        code, stdout, _ = command(capsys, "w2s", "validate", path, "--weak", weak, "--json")
        found = json.loads(stdout)
        assert code == 1 and [(one["rule"], one["count"]) for one in found["findings"]] == [("empty prediction", 1)]
        assert "empty prediction" not in found["unchecked"]
    write(weak, [{name: row[name] for name in ("id", "prompt", "response")} for row in rows])
    code, stdout, _ = command(capsys, "w2s", "validate", training, "--weak", weak, "--json")
    assert code == 0 and json.loads(stdout)["unchecked"]["empty prediction"] == "no pred; add --extraction"
    code, stdout, _ = command(capsys, "w2s", "validate", training, "--extraction", r"regex:so (.*)")
    assert code == 1 and "empty prediction" in stdout and "not checked" not in stdout


def test_one_of_a_thing_is_told_as_one(files, capsys):
    row = {"id": 0, "prompt": "q", "response": "", "pred": "1"}
    code, stdout, error = command(capsys, "w2s", "validate", write(files / "one.jsonl", [row]))
    assert code == 1 and "1 row of 1 id: answer" in stdout and "1 rule is broken, 1 time in 1 row." in error
    code, _, error = command(capsys, "w2s", "vote", write(files / "a.jsonl", [{"id": 0, "promt": "q"}]), "-o", "v")
    assert code == 1 and "?." not in error
