"""The authors' released data, in hand-made rows of their schema: what is taken, what is left out and counted."""

import json

import pytest
from w2s_files import read

from expo.errors import ExpoError
from expo.weak_to_strong.errors import RowError
from expo.weak_to_strong.supervision import released
from expo.weak_to_strong.supervision.actions import released_stage
from expo.weak_to_strong.supervision.runfile import SupervisionFile


def triple(name, **more):
    return {"task": f"Find {name}.", "pos_ans": f"It is $\\boxed{{{len(name)}}}$.", "neg_ans": "It is 99."} | more


def pair(key, **more):
    return {
        "ori_id": key,
        "original": triple(key),
        "subtask_1": triple(f"{key}a"),
        "subtask_2": triple(f"{key}b"),
    } | more


PAIRS = [
    pair("m_0"),
    pair("m_1", subtask_2=None, subtask_3=triple("m_1c", pos_ans="So $\\boxed{4}$.\n### End")),
    pair("m_2", original=triple("m_2", neg_ans="")),
    pair("m_3", subtask_1=triple("m_3a", neg_ans="It is $\\boxed{4}$.", pos_ans="It is $\\boxed{4}$."), subtask_2=None),
    {"ori_id": "m_4", "subtask_1": triple("m_4a")},
    pair("m_5"),
]
WEAKER = [
    {"ori_id": "m_0", "task": "Find m_0.", "ground_truth": "\\boxed{3}", "sample1": "I say \\boxed{3}", "judge1": 1},
    {"task": "Find m_1.", "ground_truth": "\\boxed{3}", "sample1": "I say \\boxed{7}"},
    {"ori_id": "m_5", "task": "Find m_5.", "ground_truth": "\\boxed{3}", "sample1": "x", "judge1": "N/A"},
    {"ori_id": "z", "task": "Find z.", "ground_truth": "\\boxed{3}", "sample1": "x", "judge1": 0},
    {"ori_id": "m_5", "task": "Find m_5.", "ground_truth": "\\boxed{3}", "sample1": "", "sample2": "2", "judge2": 0},
]
PARAPHRASES = [
    {"ori_id": "m_0", "task": "Determine m_0.", "pos_ans": "One gets 3.", "neg_ans": "One gets 99."},
    {"ori_id": "m_1", "task": "", "pos_ans": "One gets 3.", "neg_ans": "One gets 99."},
    {"ori_id": "z", "task": "Determine z.", "pos_ans": "1", "neg_ans": "2"},
]
TESTS = [
    {"question": "What is 1 + 1?", "ground_truth": "Clearly $\\boxed{2}$."},
    {"question": "What is 2 + 1?", "ground_truth": 3},
    {"question": "What is 1 + 1?", "ground_truth": "2"},
]


@pytest.fixture
def source(tmp_path):
    """A folder in the layout of the data set; pairs in two files, as the authors' batches are."""
    folder = tmp_path / "source"
    files = {
        "task_sol_pairs/numina/pairs_1.json": PAIRS[:3],
        "task_sol_pairs/numina/pairs_2.json": PAIRS[3:],
        "weaker_sampling/command-r/full.json": WEAKER,
        "paraphrase/full_22.json": PARAPHRASES,
        "test_data/MATH_test500.json": TESTS,
    }
    for name, rows in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows, indent=4))
    return folder


def study(source, **more):
    told = {"source": str(source), "weaker": {"command-r": "weaker_sampling"}, "tests": {"math": "test_data/*MATH*"}}
    return SupervisionFile(name="x", released=told | more, base="b", equivalence="numeric")


def test_pairs_become_tasks_subtasks_and_two_samples_of_each(source, tmp_path):
    facts = released_stage(study(source), tmp_path, {})
    tasks = read(tmp_path / "tasks.jsonl")
    assert [row["id"] for row in tasks] == ["m_0", "m_1", "m_5"]
    assert tasks[0]["prompt"] == "Question: Find m_0.\nAnswer:" and tasks[0]["gold"] == "3"
    subtasks = read(tmp_path / "subtasks.jsonl")
    assert [(row["id"], row["task"], row["part"]) for row in subtasks[:4]] == [
        ("m_0/1", "m_0", 1), ("m_0/2", "m_0", 2), ("m_1/1", "m_1", 1), ("m_1/3", "m_1", 3),
    ]  # fmt: skip
    assert subtasks[3]["completion"] == "So $\\boxed{4}$.", "the end mark is cut off"
    hard = [row for row in read(tmp_path / "hard.jsonl") if row["teacher"] == "gpt-4o-mini"]
    assert [(row["id"], row["sample"], row["result"]) for row in hard[:2]] == [("m_0", 0, True), ("m_0", 1, False)]
    assert facts["left out"]["task: a field is empty"] == 1 and facts["left out"]["task: absent"] == 1
    assert facts["left out"]["subtask: both answers are the same"] == 1 and facts["left out"]["task: no subtask"] == 1


def test_weaker_samples_are_joined_by_id_or_text_and_judged_where_they_are_not(source, tmp_path):
    facts = released_stage(study(source), tmp_path, {})
    weaker = [row for row in read(tmp_path / "hard.jsonl") if row["teacher"] == "command-r"]
    assert [(row["id"], row["sample"], row["result"]) for row in weaker] == [
        ("m_0", 0, True), ("m_1", 0, False), ("m_5", 1, False),
    ]  # fmt: skip
    left = facts["left out"]
    assert left["weaker: no verdict"] == left["weaker: of no task here"] == left["weaker: an empty sample"] == 1


def test_paraphrases_and_tests_are_converted(source, tmp_path):
    facts = released_stage(study(source), tmp_path, {})
    rows = read(tmp_path / "paraphrases.jsonl")
    assert [(row["id"], row["sample"], row["response"]) for row in rows] == [
        ("m_0", 0, "One gets 3."), ("m_0", 1, "One gets 99."),
    ]  # fmt: skip
    assert facts["left out"]["paraphrase: a field is empty"] == facts["left out"]["paraphrase: of no task here"] == 1
    tests = read(tmp_path / "tests/math.jsonl")
    assert [row["gold"] for row in tests] == ["2", "3"] and facts["test math"] == 2


def test_a_source_that_does_not_fit_is_refused_by_name(source, tmp_path):
    with pytest.raises(ExpoError, match=r"no JSON file under 'pairs'; there is paraphrase, task_sol_pairs, test_data"):
        released_stage(study(source, pairs="pairs"), tmp_path, {})
    with pytest.raises(RowError, match=r"'ori_id' must be text or a whole number, not None"):
        released.read_pairs([("a.json:1", {"original": triple("x")})], "t")
    with pytest.raises(RowError, match=r"ori_id 'm_0' is also at a.json:1"):
        released.read_pairs([("a.json:1", pair("m_0")), ("a.json:9", pair("m_0"))], "t")
    with pytest.raises(RowError, match=r"no row is a task with subtasks \(task: absent 1\)"):
        released.read_pairs([("a.json:1", {"ori_id": 1})], "t")
    with pytest.raises(RowError, match="a test has a question and a ground_truth"):
        released.read_tests([("t.json:1", {"problem": "x"})])
    with pytest.raises(RowError, match="no final answer is found"):
        released.read_tests([("t.json:1", {"question": "x", "ground_truth": "word " * 40})])


def test_the_hub_is_asked_for_the_wanted_folders_alone(monkeypatch):
    import huggingface_hub

    asked = {}

    def refuse(name, **how):
        asked.update(how, name=name)
        raise OSError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ExpoError, match=r"cannot be read from the Hub: no connection\nCheck .*released\.source=FOLDER"):
        released.locate("hexuan21/weak-to-strong", {"pairs": "task_sol_pairs"})
    assert asked["repo_type"] == "dataset" and "task_sol_pairs/**" in asked["allow_patterns"]


def test_the_first_stages_easy_questions(tmp_path):
    from expo.weak_to_strong.supervision.easy import easy_math

    def load(name, config, split):
        if name == "AI-MO/NuminaMath-CoT":
            return [{"source": "orca_math", "problem": "1 + 1?", "solution": "It is 2."}, {"source": "aops_forum"}]
        level, problem = ("Level 1", f"{config} {split}") if split == "train" else ("Level 5", "hard")
        return [{"problem": "held out" if config is None else problem, "level": level, "solution": "\\boxed{7}"}]

    report = easy_math(tmp_path, load=load)
    rows = read(tmp_path / "train.jsonl")
    assert report["parts"] == {"orca_math": 1, "math": 7} and report["rows"] == {"train": len(rows) == 8 and 8}
    assert rows[0] == {"id": 0, "prompt": "Question: 1 + 1?\nAnswer:", "completion": "It is 2."}
    assert rows[1]["gold"] == "7"
