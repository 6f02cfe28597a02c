"""Answers are cleaned, compared and taught as the settings say."""

import json

import pytest
from w2s_files import answer, read, write

from expo.weak_to_strong.answers import parse_answer
from expo.weak_to_strong.compare import Comparison
from expo.weak_to_strong.errors import StageError
from expo.weak_to_strong.labels import choose_demos, clean, finish
from expo.weak_to_strong.modes import Mode
from expo.weak_to_strong.provenance import hash_of
from expo.weak_to_strong.runfile import load_run
from expo.weak_to_strong.tuning import spaced
from expo.weak_to_strong.vote import vote

JUDGE = """\
import json, sys
open({log!r}, "a").write("run\\n")
for line in sys.stdin:
    pair = json.loads(line)
    print(json.dumps({{"n": pair["n"], "correct": pair["pred"].lower() == pair["gold"].lower()}}))
"""


def of(pred, **more):
    return parse_answer(answer(0, pred, **more))


@pytest.mark.parametrize(("name", "expected"), [("string", False), ("numeric", True)])
def test_comparisons_by_name(name, expected):
    assert Comparison(name)(of("0.50"), of("0.5")) is expected
    assert Comparison(name)(of("7"), of("7")) and not Comparison(name)(of("7"), of("8"))


def test_a_command_judges_all_pairs_in_one_run(tmp_path):
    script, log = tmp_path / "judge.py", tmp_path / "log"
    script.write_text(JUDGE.format(log=str(log)))
    same = Comparison(f"python3 {script}")
    samples = [of(pred, sample=n, response=f"{n}") for n, pred in enumerate(["Yes", "yes", "No", "YES", ""])]
    same.prepare((one, other) for one in samples for other in samples)
    counted = vote(samples, same=same)
    assert counted["confidence"] == 0.6 and [one["pred"] for one in counted["neg_responses"]] == ["No", ""]
    assert log.read_text() == "run\n"


def test_published_cleaning_takes_full_stops_too():
    assert clean(" so 5. \n", Mode.PUBLISHED) == "so 5" and clean(" so 5. \n", Mode.MENDED) == "so 5."


def test_a_completion_follows_its_prompt_after_one_space():
    assert spaced("Answer:", "5", True) == " 5" and spaced("Answer:", "5", False) == "5"
    assert spaced("Answer:\n", "5", True) == "5" and spaced("Answer:", " 5", True) == " 5"


def test_demonstrations_are_the_weak_models_own_answers_right_or_wrong(tmp_path):
    weak = write(tmp_path / "weak.jsonl", [answer(n, "" if n % 2 else "1", result=False) for n in range(20)])
    choose_demos(weak, tmp_path / "one.jsonl", 4, 0)
    drawn = read(tmp_path / "one.jsonl")
    assert len({row["prompt"] for row in drawn}) == 4 and all(int(row["prompt"][1:]) % 2 == 0 for row in drawn)
    choose_demos(weak, tmp_path / "two.jsonl", 4, 1)
    assert read(tmp_path / "two.jsonl") != drawn
    with pytest.raises(StageError, match="10 answers can serve as demonstrations, 11 are needed"):
        choose_demos(weak, tmp_path / "three.jsonl", 11, 0)


def test_answers_are_scored_where_there_are_golds_and_only_extracted_where_not(tmp_path):
    run = load_run("gsm8k")
    answers = write(tmp_path / "a.jsonl", [{"id": n, "response": f" is\n#### {n}. "} for n in range(3)])
    asked = [{"id": n, "prompt": f"q{n}", "gold": "1"} for n in range(3)]
    facts = finish(run, answers, write(tmp_path / "q.jsonl", asked), tmp_path / "r.jsonl")
    assert facts == {"empty": 0, "accuracy": {"correct": 1, "n": 3, "accuracy": 1 / 3}}
    rows = read(tmp_path / "r.jsonl")
    assert rows[1] == {
        "id": 1, "sample": 0, "prompt": "q1", "response": "is\n#### 1", "pred": "1", "gold": "1", "result": True,
    }  # fmt: skip
    bare = write(tmp_path / "q.jsonl", [{k: row[k] for k in ("id", "prompt")} for row in asked])
    assert finish(run, answers, bare, tmp_path / "r.jsonl") == {"empty": 0, "accuracy": None}
    assert read(tmp_path / "r.jsonl")[2]["pred"] == "2" and "gold" not in read(tmp_path / "r.jsonl")[2]
    with pytest.raises(StageError, match="id 2 is not among the questions"):
        finish(run, answers, write(tmp_path / "q.jsonl", asked[:2]), tmp_path / "r.jsonl")


def test_a_hash_stands_for_every_byte_and_name_of_a_folder(tmp_path):
    folder = tmp_path / "model"
    (folder / "runs").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"1")
    first = hash_of(folder)
    (folder / ".stage.json").write_text("{}")
    (folder / "runs/train.json").write_text(json.dumps({"seconds": 3}))
    assert hash_of(folder) == first  # records of time are no part of a checkpoint
    (folder / "a.bin").write_bytes(b"2")
    second = hash_of(folder)
    (folder / "a.bin").rename(folder / "b.bin")
    assert len({first, second, hash_of(folder)}) == 3


def test_a_large_file_is_hashed_by_pieces_that_training_moves(tmp_path):
    path = tmp_path / "w.safetensors"
    with open(path, "wb") as file:
        file.truncate(200 << 20)
    before = hash_of(path)
    for at in (0, 100 << 20, (200 << 20) - 1):
        with open(path, "r+b") as file:
            file.seek(0 if at == 0 else at)
            file.write(b"x" * (min(8 << 20, (200 << 20) - at)))
        after = hash_of(path)
        assert after != before
        before = after
