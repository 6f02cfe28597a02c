"""The published files of Weak-to-Strong Reasoning (Llama2-7b, GSM8K): rebuilt byte for byte, their defects found."""

import pytest
from w2s_files import published

from expo.evaluate.published import extract_published
from expo.weak_to_strong import questions
from expo.weak_to_strong.keyed import read_json, write_rows
from expo.weak_to_strong.select import full_weak, interleave
from expo.weak_to_strong.validate import validate

FOLDER = "weak_to_strong_reasoning"
GSM8K = "gsm8k"


def of(name):
    return published(f"{FOLDER}/llama2_7b_{name}")


def found_in(name, **more):
    checked = validate(of(name), weak=of("results.jsonl"), extract=extract_published, **more)
    return checked, {finding.rule: finding.count for finding in checked.findings}


def test_the_naive_set(tmp_path):
    report = full_weak(of("results.jsonl"), tmp_path / "full.json")
    assert (tmp_path / "full.json").read_bytes() == of("full_weak.json").read_bytes()
    assert report["accuracy of weak answers"]["correct"] == 2896


def test_the_weak_set_of_the_first_iteration_given_its_ids(tmp_path):
    ids = [row["id"] for row in read_json(of("iter1_icl.json"))]
    full_weak(of("results.jsonl"), tmp_path / "weak.json", ids=ids)
    assert (tmp_path / "weak.json").read_bytes() == of("iter1_weak.json").read_bytes()


@pytest.mark.parametrize("iteration", [1, 2])
def test_the_hybrid_sets(tmp_path, iteration):
    sides = [read_json(of(f"iter{iteration}_{name}.json")) for name in ("weak", "icl")]
    write_rows(tmp_path / "hybrid.json", interleave(*sides))
    assert (tmp_path / "hybrid.json").read_bytes() == of(f"iter{iteration}_hybrid.json").read_bytes()


@pytest.mark.parametrize(("iteration", "kept"), [(1, 2683), (2, 4022)])
def test_kept_questions_agree_and_some_are_empty_although_the_rule_forbids_it(iteration, kept):
    checked, found = found_in(f"iter{iteration}_hybrid.json")
    assert checked.ids == kept and "disagreement" not in found and "another prompt" not in found
    assert found["empty prediction"] == 2 * {1: 8, 2: 11}[iteration]
    assert found["duplicate"] > 100  # questions of train_2 that occur twice


def test_pairs_hold_every_constraint():
    checked, found = found_in("iter2_hybrid_paired.json")
    assert checked.rows == checked.ids == 2563
    assert checked.sides == {"weak chosen": 866, "weak rejected": 1697, "neither": 0}
    assert found == {"duplicate": 4}  # of questions that train_2 holds twice


def test_pairs_of_another_weak_model_are_noticed(tmp_path):
    """As in the published file named gemma_2b, whose weak side is Mistral-7b's."""
    own = ({**row, "response": f"As Gemma sees it: {row['response']}"} for row in read_json(of("results.jsonl")))
    write_rows(tmp_path / "gemma.jsonl", own)
    checked = validate(
        of("iter2_hybrid_paired.json"), weak=tmp_path / "gemma.jsonl", others={"llama2_7b": of("results.jsonl")}
    )
    (finding,) = (finding for finding in checked.findings if finding.rule == "another model")
    assert finding.count == 2563 and finding.detail == "2563 of them hold llama2_7b's response"


def test_answers_and_results_of_the_weak_model_are_as_extracted():
    _, found = found_in("results.jsonl")
    assert found == {"duplicate": 142, "empty prediction": 94}


def test_questions_in_the_published_layout(tmp_path):
    raw = published(f"{GSM8K}/train_2.jsonl")
    questions.published(raw, tmp_path / "test.jsonl", "test", "GSM8K_TRAIN_2")
    assert (tmp_path / "test.jsonl").read_bytes() == published(f"{FOLDER}/gsm8k_train_2.jsonl").read_bytes()


@pytest.mark.parametrize(("half", "digest"), [(1, "51c8a8acd9b3"), (2, "b65b3e15e0f7")])
def test_training_files_in_the_published_layout(tmp_path, half, digest):
    import hashlib

    questions.published(published(f"{GSM8K}/train_{half}.jsonl"), tmp_path / "train.json", "training", "")
    assert hashlib.sha256((tmp_path / "train.json").read_bytes()).hexdigest().startswith(digest)


def test_questions_of_the_pipeline_are_those_that_the_weak_model_answered(tmp_path):
    report = questions.gsm8k(tmp_path, raw=published(GSM8K))
    assert report["rows"] == {"train_1": 7000, "train_2": 7000, "test": 1319}
    mine, theirs = read_json(tmp_path / "train_2.jsonl"), read_json(of("results.jsonl"))
    assert all(own["prompt"] == other["prompt"] for own, other in zip(mine, theirs, strict=True))
    halves = [{row["prompt"] for row in read_json(tmp_path / f"train_{half}.jsonl")} for half in (1, 2)]
    assert [len(half) for half in halves] == [6873, 6850]
    test = {row["prompt"] for row in read_json(tmp_path / "test.jsonl")}
    assert len(test) == 1319 and not test & halves[0] and not test & halves[1]
