"""No command writes over, into or around what it reads, in a dry run or otherwise, by any link."""

import os

import pytest
from engine import command

ROW = '{"id": 0, "question": "1+1", "answer": "two\\n#### 2", "response": "2", "prompt": "1+1", "pred": "2"}\n'


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("train_1", "train_2", "test"):
        (folder / f"{name}.jsonl").write_text(ROW)
    return folder


def contents(folder):
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, folder, *words):
    before = contents(folder)
    for more in ([], ["--dry-run"]):
        code, _, error = command(capsys, *words, "--overwrite", *more)
        assert code == 1 and "input, which is read-only" in error and error.count("error: ") == 1
        assert contents(folder) == before


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_generate_does_not_replace_its_questions_or_demos(tmp_path, raw, capsys, link):
    data, output = raw / "train_1.jsonl", tmp_path / "link.jsonl"
    if link:
        link(data, output)
    output = output if link else data
    words = ["generate", "--model", "no/model", "-o", output]
    refused(capsys, tmp_path, *words, "--data", data)
    refused(capsys, tmp_path, *words, "--data", raw / "test.jsonl", "--demos", data)


def test_generate_does_not_replace_its_questions_by_what_it_writes_beside(tmp_path, raw, capsys):
    for name, form in (("a.settings.json", "jsonl"), ("a.rows.jsonl", "alpaca_eval")):
        (tmp_path / name).write_text(ROW)
        words = ["--data", tmp_path / name, "-o", tmp_path / "a", "--format", form]
        refused(capsys, tmp_path, "generate", "--model", "no/model", *words)


def test_data_sets_are_written_neither_over_nor_around_nor_into_their_raw_files(tmp_path, raw, capsys):
    (tmp_path / "link").symlink_to(raw)
    for output in (raw, raw / "out", tmp_path, tmp_path / "link", tmp_path / "link" / "out"):
        refused(capsys, tmp_path, "w2s", "data", "gsm8k", "--raw", raw, "-o", output)
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in raw.iterdir():
        (linked / path.name).symlink_to(path)
    refused(capsys, tmp_path, "w2s", "data", "gsm8k", "--raw", linked, "-o", raw)


def test_select_keeps_answers_that_lie_in_its_output(raw, capsys):
    weak = raw / "weak.jsonl"
    weak.write_text(ROW)
    refused(capsys, raw, "w2s", "select", "--weak", weak, "--icl", raw / "test.jsonl", "-o", raw)


def test_reports_do_not_replace_inputs(raw, capsys):
    samples = raw / "votes.jsonl.report.json"
    samples.write_text(ROW)
    refused(capsys, raw, "w2s", "vote", samples, "-o", raw / "votes.jsonl")
