"""Rows are read where they lie, checked on opening, and every complaint names file and line."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from w2s_files import answer, read, write

from expo.weak_to_strong.answers import open_answers, open_samples
from expo.weak_to_strong.errors import DuplicateId, IdMismatch, RowError
from expo.weak_to_strong.keyed import RowWriter, read_json, same_ids, write_rows

VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))


@settings(max_examples=40)
@given(rows=st.lists(st.dictionaries(st.text(), VALUES, max_size=4), min_size=1, max_size=6), array=st.booleans())
def test_what_is_written_is_what_json_writes_and_is_read_back(rows, array, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / ("rows.json" if array else "rows.jsonl")
    assert write_rows(path, rows) == len(rows)
    expected = json.dumps(rows, indent=4) if array else "".join(json.dumps(row) + "\n" for row in rows)
    assert path.read_bytes() == expected.encode()
    assert list(read_json(path)) == rows
    write(path, rows, array=array)
    assert list(read_json(path)) == rows


@pytest.mark.parametrize("array", [False, True])
def test_rows_are_found_by_id_and_by_line(tmp_path, array):
    rows = open_answers(write(tmp_path / "a", [answer(3, "x"), answer("b", "y")], array=array))
    assert [row.id for row in rows] == [3, "b"]
    assert rows["b"].pred == "y" and "b" in rows and 4 not in rows and len(rows) == 2
    line = path_line(tmp_path / "a", '"b"') - array
    assert rows.where("b") == f"{tmp_path / 'a'}:{line}"


def path_line(path, text) -> int:
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": 1, "prompt": "q", "pred": "1"}, "no field 'response' or 'output' or 'completion'; it has: id, prompt"),
        ({"id": 1, "prompt": "q", "response": 5, "pred": "1"}, "'response' must be text, not 5"),
        ({"id": 1, "prompt": "q", "response": "r"}, "no field 'pred'"),
        ({"id": 1, "prompt": "q", "response": "r", "pred": 3}, "'pred' must be text, not 3"),
        ({"id": True, "prompt": "q", "response": "r", "pred": ""}, "'id' must be a whole number or text, not True"),
        ({"id": 1.5, "prompt": "q", "response": "r", "pred": ""}, "'id' must be a whole number or text, not 1.5"),
        ({"prompt": "q", "response": "r", "pred": ""}, "has no field 'id'"),
        ([1], "an object is expected, not [1]"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path, row, words):
    path = write(tmp_path / "a.jsonl", [answer(0, "x"), row])
    with pytest.raises(RowError) as caught:
        open_answers(path)
    assert f"{path}:2: " in str(caught.value) and words in str(caught.value)


def test_damaged_files_are_refused_with_their_line(tmp_path):
    good = json.dumps([answer(0, "x"), answer(1, "y")], indent=4)
    for text, words in [
        ("", "no rows"),
        ("\n \n", "no rows"),
        ("[]", "no rows"),
        ('{"id": 1\n', "a:1"),
        (good[:-30], "a:8: the array does not end"),
        (good[:-1], "the array does not end"),
        (good[:-2] + "}]", "the array does not end"),
        (good.replace("},", "} 5,"), "something between its objects"),
        (good + "x", "the array does not end"),
    ]:
        (tmp_path / "a").write_text(text)
        with pytest.raises(RowError, match=words):
            open_answers(tmp_path / "a")
    (tmp_path / "a").write_bytes(b'{"id": 1, "prompt": "\xff"}\n')
    with pytest.raises(RowError, match="a:1"):
        open_answers(tmp_path / "a")
    with pytest.raises(RowError, match="No such file"):
        open_answers(tmp_path / "none")
    with pytest.raises(RowError, match="Is a directory"):
        open_answers(tmp_path)


def test_duplicate_ids_are_refused_with_both_lines(tmp_path):
    path = write(tmp_path / "a.jsonl", [answer(7, "x"), answer(8, "x"), answer(7, "y")])
    with pytest.raises(DuplicateId, match=r"a.jsonl:3: id 7 is also in line 1"):
        open_answers(path)
    assert len(open_samples(write(path, [answer(7, "x", sample=0), answer(7, "y", sample=1)]))) == 2


def test_ids_that_do_not_match_are_refused_whichever_file_lacks_them(tmp_path):
    one = open_answers(write(tmp_path / "one", [answer(1, "x"), answer(2, "x"), answer(3, "x")]))
    two = open_answers(write(tmp_path / "two", [answer(1, "x")]))
    with pytest.raises(IdMismatch, match=r"one:2: id 2 and 1 more ids are not in .*two"):
        same_ids(one, two)
    with pytest.raises(IdMismatch, match=r"one:2"):
        same_ids(two, one)
    same_ids(two, two)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"id": "old"}])
    with pytest.raises(ZeroDivisionError), RowWriter(path) as writer:
        writer.write({"id": "new"})
        1 / 0  # noqa: B018
    assert read(path) == [{"id": "old"}] and os.listdir(tmp_path) == ["a.jsonl"]
    old = os.umask(0o027)
    try:
        write_rows(path, [{"id": "new"}])
    finally:
        os.umask(old)
    assert read(path) == [{"id": "new"}] and path.stat().st_mode & 0o777 == 0o640
