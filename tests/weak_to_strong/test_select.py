"""Questions are kept where both models agree; three training sets come out, in step."""

import pytest
from w2s_files import answer, read, write

from expo.weak_to_strong.errors import IdMismatch
from expo.weak_to_strong.modes import Mode
from expo.weak_to_strong.select import choose, fate, full_weak, interleave, select

WEAK = [answer(0, "1"), answer(1, "2"), answer(2, ""), answer(3, "4"), answer(4, "")]
ICL = [answer(0, "1", response="thus 1"), answer(1, "3"), answer(2, ""), answer(3, "4"), answer(4, "5")]


def files(tmp_path, weak=WEAK, icl=ICL):
    return write(tmp_path / "w.jsonl", weak), write(tmp_path / "i.jsonl", icl)


def test_published_rules_keep_agreeing_questions_and_interleave_both(tmp_path):
    report = select(*files(tmp_path), tmp_path / "out", mode=Mode.PUBLISHED, suffix=".json")
    weak, icl, hybrid = (read(tmp_path / "out" / f"{name}.json") for name in ("weak", "icl", "hybrid"))
    assert weak == [{"id": i, "content": f"q{i}", "output": text} for i, text in ((0, "so 1"), (3, "so 4"))]
    assert icl == [{"id": i, "content": f"q{i}", "output": text} for i, text in ((0, "thus 1"), (3, "so 4"))]
    assert hybrid == [weak[0], icl[0], weak[1], icl[1]]
    assert report["fates"] == {"kept": 2, "empty": 2, "differ": 1} and report["rows"]["hybrid"] == 4
    assert report["mended"] == []


def test_the_default_says_what_it_mends_and_drops_repetitions(tmp_path):
    twice = [answer(9, "1", prompt="q0")]
    report = select(*files(tmp_path, WEAK + twice, [*ICL, {**ICL[0], "id": 9}]), tmp_path / "out")
    assert [row["output"] for row in read(tmp_path / "out" / "hybrid.jsonl")] == ["so 1", "thus 1", "so 4"]
    assert report["fates"]["duplicate"] == 1 and report["fates"]["kept"] == 2
    assert len(report["mended"]) == 3
    again = select(*files(tmp_path, WEAK + twice, [*ICL, {**ICL[0], "id": 9}]), tmp_path / "p", mode=Mode.PUBLISHED)
    assert again["fates"]["kept"] == 3


def test_an_empty_response_is_kept_by_published_rules_only():
    one, other = (list(map(parse, rows)) for rows in ([answer(0, "1", response=" ")], [answer(0, "1")]))
    assert [verdict for verdict, *_ in choose(one, other, mode=Mode.PUBLISHED)] == ["kept"]
    assert [verdict for verdict, *_ in choose(one, other)] == ["empty"]


def parse(row):
    from expo.weak_to_strong.answers import parse_answer

    return parse_answer(row)


def test_an_empty_final_answer_agrees_with_nothing():
    assert fate(parse(answer(0, "")), parse(answer(0, ""))) == "empty"
    assert fate(parse(answer(0, "")), parse(answer(0, "")), same=lambda a, b: True) == "empty"
    assert (
        fate(parse(answer(0, "1.0")), parse(answer(0, "1")), same=lambda a, b: float(a.pred) == float(b.pred)) == "kept"
    )


def test_kept_answers_stand_under_the_zero_shot_prompt_whatever_the_strong_model_was_asked(tmp_path):
    icl = [{**row, "prompt": f"demo\n\n{row['prompt']}"} for row in ICL]
    select(*files(tmp_path, icl=icl), tmp_path / "out")
    assert [row["content"] for row in read(tmp_path / "out" / "icl.jsonl")] == ["q0", "q3"]


def test_prompts_of_other_questions_are_counted(tmp_path):
    report = select(*files(tmp_path, icl=[{**row, "prompt": "another"} for row in ICL]), tmp_path / "out")
    assert report["strong prompts that do not end with the weak one"] == 5


def test_order_is_the_weak_files_and_the_other_may_differ(tmp_path):
    select(*files(tmp_path, icl=ICL[::-1]), tmp_path / "out")
    assert [row["id"] for row in read(tmp_path / "out" / "weak.jsonl")] == [0, 3]


def test_files_of_other_questions_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(IdMismatch, match="id 4 is not in"):
        select(*files(tmp_path, icl=ICL[:4]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_golds_only_serve_the_report(tmp_path):
    told = [{**row, "gold": "1", "result": row["pred"] == "1"} for row in WEAK]
    found = select(*files(tmp_path, told), tmp_path / "out")["accuracy of kept weak answers"]
    assert found == {"correct": 1, "n": 2, "accuracy": 0.5}
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    select(*files(tmp_path), tmp_path / "out")
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def test_interleaving_sets_that_do_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="ids differ: 1 and 2"):
        list(interleave([{"id": 1}], [{"id": 2}]))
    with pytest.raises(ValueError):
        list(interleave([{"id": 1}], []))


def test_the_naive_set_is_every_weak_answer_or_those_of_given_ids(tmp_path):
    weak, _ = files(tmp_path)
    full_weak(weak, tmp_path / "full.jsonl")
    assert [row["id"] for row in read(tmp_path / "full.jsonl")] == [0, 1, 2, 3, 4]
    full_weak(weak, tmp_path / "some.jsonl", ids=[3, 0, 3])
    assert [row["id"] for row in read(tmp_path / "some.jsonl")] == [3, 0]
    with pytest.raises(IdMismatch, match="no id 12"):
        full_weak(weak, tmp_path / "none.jsonl", ids=[12])
    assert not (tmp_path / "none.jsonl").exists()
