"""Several processes under torchrun write one file of answers: the bytes of one process, resumed by any number."""

import json

import pytest
import talker
from launching import launch
from talker import rows_of, write_jsonl

from expo.errors import OutputError
from expo.generate import Sampling, generate
from expo.generate.answers import OtherSettings, parts_of
from expo.generate.sharing import SharedAnswers
from expo.launcher import Place, World
from expo.rows import Appender

THREE = Sampling(samples=3, temperature=1.0, max_tokens=10)
BODY = """
from expo.cli import main
from expo.errors import RankError
from expo.generate import Sampling, generate
from expo.generate.answers import AnswerFile
from expo.rows import Appender
from expo.stream.ranks import world
three = dict(samples=3, temperature=1.0, max_tokens=10)
report = generate(f"{home}/talk", f"{home}/q.jsonl", f"{home}/two.jsonl", sampling=Sampling(**three))
assert report.n_new == 33 and all(each == report for each in world().gather(report))
try:
    generate(f"{home}/talk", f"{home}/q.jsonl", f"{home}/odd.jsonl", sampling=Sampling(**three, seed=rank))
except RankError as error:
    assert "rank 1 on" in str(error) and "has another settings than rank 0" in str(error), str(error)
else:
    raise AssertionError("it ran")
assert not os.path.exists(f"{home}/odd.jsonl")
append, seen = Appender.append, []
def doomed(self, row):
    append(self, row)
    seen.append(row)
    if rank == 1 and len(seen) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
Appender.append = doomed
words = ["--model", f"{home}/talk", "--data", f"{home}/q.jsonl", "-o", f"{home}/killed.jsonl", "--batch-tokens", "40"]
sys.argv = ["expo", "generate", *words, "--samples", "3", "--max-tokens", "10"]
main.main()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    talker.save(folder / "talk")
    write_jsonl(folder / "q.jsonl", talker.QUESTIONS)
    generate(str(folder / "talk"), folder / "q.jsonl", folder / "one.jsonl", sampling=THREE)
    return folder


def test_two_processes_write_the_bytes_of_one_and_one_goes_on_where_two_were_killed(home):
    done = launch(home, BODY)
    assert done.returncode != 0 and done.stderr.count("error: ") == 1, done.stderr
    assert "one process of this run has ended" in done.stderr
    for end in (".jsonl", ".jsonl.settings.json"):
        assert (home / f"two{end}").read_bytes() == (home / f"one{end}").read_bytes()
    killed = home / "killed.jsonl"
    assert len(rows_of(parts_of(killed)[0])) == 4
    with pytest.raises(OtherSettings, match="seed: 0 there, 1 now"):
        generate(str(home / "talk"), home / "q.jsonl", killed, sampling=Sampling(3, 1.0, max_tokens=10, seed=1))
    report = generate(str(home / "talk"), home / "q.jsonl", killed, sampling=THREE)
    assert report.n_resumed >= 4 and killed.read_bytes() == (home / "one.jsonl").read_bytes()
    assert not parts_of(killed)


# --- Without processes -----------------------------------------------------------------------------------------------


class Alone(World):
    """One of several processes, which acts as if the others had nothing to say."""

    def __init__(self, rank: int, size: int):
        self.here = Place(rank, size, rank)

    def first(self, act, *arguments):
        return act(*arguments) if self.here.is_first else None


def answers_of(path, rank: int, size: int) -> SharedAnswers:
    from expo.generate.prompts import read_questions

    return SharedAnswers(Alone(rank, size), path, read_questions(talker.QUESTIONS), {"made_by": "a test"})


@pytest.mark.parametrize("n_questions, samples, size", [(11, 3, 3), (2, 64, 4), (1, 1, 8), (0, 1, 2)])
def test_every_answer_is_one_processs(tmp_path, n_questions, samples, size):
    files = [answers_of(tmp_path / "a.jsonl", rank, size) for rank in range(size)]
    missing = [(question, sample) for question in files[0].questions[:n_questions] for sample in range(samples)]
    shares = [file.mine(missing) for file in files]
    assert sum(map(len, shares)) == len(missing) == len(set().union(*shares))
    assert max(map(len, shares)) - min(map(len, shares)) <= (1 if n_questions < 2 * size else samples)


def test_a_process_that_does_not_see_the_file_is_refused(tmp_path):
    with pytest.raises(OutputError, match="does not see"):
        answers_of(tmp_path / "elsewhere" / "a.jsonl", 1, 2).open(overwrite=False)
    assert not (tmp_path / "elsewhere").exists()


def test_parts_are_taken_in_once_and_only_when_nobody_writes_them(live, questions, tmp_path):
    path = tmp_path / "a.jsonl"
    generate(live, questions, path, sampling=THREE)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    part = tmp_path / "a.jsonl.part-12"
    path.write_bytes(b"")
    part.write_bytes(b"".join(lines[5:20]) + b'{"id": "q1", "resp')  # cut by a kill
    with Appender(part), pytest.raises(OutputError, match="another process is writing it"):
        generate(live, questions, path, sampling=THREE)
    assert (tmp_path / "a.jsonl.settings.json").exists()
    report = generate(live, questions, path, sampling=THREE)
    assert report.n_resumed == 15 and path.read_bytes() == whole and not part.exists()
    part.write_text(json.dumps({"id": "q1", "sample": 7, "prompt": "another", "response": "x"}) + "\n")
    with pytest.raises(Exception, match="part-12:1: id 'q1' was asked differently"):
        generate(live, questions, path, sampling=THREE)
    generate(live, questions, path, sampling=THREE, overwrite=True)
    assert path.read_bytes() == whole and not part.exists()
