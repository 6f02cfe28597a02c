"""The authors' released data in the pipeline's rows: pairs of task and subtasks, weaker samples, paraphrases, tests.

    task_sol_pairs   [{ori_id, original: {task, pos_ans, neg_ans}, subtask_1: {...}, ...}]
    weaker_sampling  the same, or [{ori_id?, task, ground_truth, sample1, judge1, ...}]
    paraphrase       [{ori_id, task, pos_ans, neg_ans}]
    test_data        [{question, ground_truth}]

Correct answers become sample 0, incorrect ones sample 1. What the published code lets through is left out and counted.
Source: hexuan21/weak-to-strong (Apache-2.0), schema of its code.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from expo.errors import ExpoError
from expo.weak_to_strong.errors import RowError
from expo.weak_to_strong.keyed import read_json, write_rows
from expo.weak_to_strong.questions import ask
from expo.weak_to_strong.supervision.records import Judged, Task

_SUFFIXES = (".json", ".jsonl")
_PART = re.compile(r"subtask_(\d+)")
_NOISE = re.compile(r"\s*#+\s*End\s*$", re.IGNORECASE)  # an end mark that the published code leaves in its data


def locate(source: str, wanted: Mapping[str, str]) -> Path:
    """The folder of a source: itself, or what the Hub holds of a data set under the `wanted` folders and patterns."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    patterns = [f"{text}{end}" for text in wanted.values() for end in ("", "/*", "/**")]
    try:
        return Path(snapshot_download(source, repo_type="dataset", allow_patterns=patterns))
    except Exception as error:  # the Hub's client raises whatever its own client raises
        raise ExpoError(
            f"{source} is no folder here and cannot be read from the Hub: {str(error).splitlines()[0]}\n"
            "Check the connection, or name a folder that holds its files: --set released.source=FOLDER."
        ) from error


def rows_under(folder: Path, where: str) -> list[tuple[str, dict]]:
    """(place, row) of every JSON file in a folder of the source, or of those that a pattern names."""
    place = folder / where
    files = sorted(place.rglob("*") if place.is_dir() else folder.glob(where))
    files = [path for path in files if path.suffix in _SUFFIXES and path.is_file()]
    if not files:
        there = sorted({path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file()})
        raise ExpoError(f"{folder}: there is no JSON file under {where!r}; there is {', '.join(there) or 'nothing'}.")
    found = []
    for path in files:
        rows = read_json(path)
        found += [(rows.at(number), row) for number, row in enumerate(rows)]
    return found


class Converted:
    """What was read: tasks, subtasks, judged samples of both, and what was left out, by kind."""

    def __init__(self) -> None:
        self.tasks: dict[Any, Task] = {}
        self.subtasks: dict[Any, Task] = {}
        self.hard: list[Judged] = []
        self.subtask: list[Judged] = []
        self.paraphrases: list[Judged] = []
        self.left_out: Counter[str] = Counter()

    def record(self) -> dict[str, Any]:
        """Counts, as JSON values."""
        names = ("tasks", "subtasks", "hard", "subtask", "paraphrases")
        return {name: len(getattr(self, name)) for name in names} | {"left out": dict(self.left_out)}


def read_pairs(rows: list[tuple[str, dict]], teacher: str, limit: int | None = None) -> Converted:
    """Tasks, subtasks and their two samples. Raises RowError where an ori_id is missing or repeated, or no row fits."""
    made = Converted()
    seen: dict[Any, str] = {}
    for place, row in rows:
        if limit and len(made.tasks) >= limit:
            break
        key = row.get("ori_id")
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise RowError(place, f"'ori_id' must be text or a whole number, not {key!r:.60}.")
        if key in seen:
            raise RowError(
                place, f"ori_id {key!r} is also at {seen[key]}.", "Every task has one row; remove the others."
            )
        seen[key] = place
        _take_pair(made, key, row, teacher)
    if not made.tasks:
        kinds = ", ".join(f"{name} {count:,}" for name, count in made.left_out.items())
        raise RowError(rows[0][0].rpartition(":")[0], f"no row is a task with subtasks ({kinds}).")
    return made


def _take_pair(made: Converted, key: Any, row: Mapping[str, Any], teacher: str) -> None:
    original = _triple(row.get("original"))
    if isinstance(original, str):
        made.left_out[f"task: {original}"] += 1
        return
    parts = sorted((int(match[1]), name) for name in row if (match := _PART.fullmatch(name)) and row[name])
    found = []
    for number, name in parts:
        sub = _triple(row[name])
        if isinstance(sub, str):
            made.left_out[f"subtask: {sub}"] += 1
        else:
            found.append((number, sub))
    if not found:
        made.left_out["task: no subtask"] += 1
        return
    made.tasks[key] = _task(key, original)
    made.hard += _samples(key, original, teacher)
    for number, sub in found:
        name = f"{key}/{number}"
        made.subtasks[name] = _task(name, sub, key, number)
        made.subtask += _samples(name, sub, teacher, key)


def _triple(found: Any) -> tuple[str, str, str] | str:
    """(task, correct answer, incorrect answer), or what is wrong."""
    if not isinstance(found, Mapping):
        return "absent"
    texts = [found.get(name) for name in ("task", "pos_ans", "neg_ans")]
    if not all(isinstance(text, str) for text in texts):
        return "a field is missing"
    task, right, wrong = (_NOISE.sub("", text).strip() for text in texts)
    if not (task and right and wrong):
        return "a field is empty"
    return "both answers are the same" if right == wrong else (task, right, wrong)


def _task(key: Any, texts: tuple[str, str, str], task: Any = None, part: int | None = None) -> Task:
    from expo.evaluate import extractor

    return Task(key, ask(texts[0]), texts[1], extractor()(texts[1]), task, part)


def _samples(key: Any, texts: tuple[str, str, str], teacher: str, task: Any = None) -> Iterator[Judged]:
    for number, right in ((0, True), (1, False)):
        yield Judged(key, number, ask(texts[0]), texts[1 + number], right, teacher=teacher, task=task)


def add_paraphrases(made: Converted, rows: list[tuple[str, dict]], teacher: str) -> None:
    """The paraphrases of known tasks, under the ids and samples of what they paraphrase."""
    seen: set[Any] = set()
    for _, row in rows:
        key, texts = row.get("ori_id"), _triple(row.get("original") or row)
        if key not in made.tasks:
            made.left_out["paraphrase: of no task here"] += 1
        elif isinstance(texts, str) or key in seen:
            made.left_out[f"paraphrase: {texts if isinstance(texts, str) else 'a second one'}"] += 1
        else:
            seen.add(key)
            made.paraphrases += _samples(key, texts, teacher)


def add_weaker(made: Converted, rows: list[tuple[str, dict]], teacher: str, same: Any) -> None:
    """A weaker teacher's samples of known tasks. same(answer, reference) judges what bears no verdict of its own."""
    by_text = {task.prompt: key for key, task in made.tasks.items()}
    taken: set[tuple] = set()
    for _, row in rows:
        if isinstance(row.get("original"), Mapping):
            texts = _triple(row["original"])
            found = [] if isinstance(texts, str) else list(_samples(row.get("ori_id"), texts, teacher))
            faults = {f"weaker: {texts}": 1} if isinstance(texts, str) else {}
        else:
            found, faults = _numbered(row, teacher, by_text, same)
        made.left_out.update(faults)
        for one in found:
            if one.id not in made.tasks:
                made.left_out["weaker: of no task here"] += 1
            elif one.key in taken:
                made.left_out["weaker: a second one"] += 1
            else:
                taken.add(one.key)
                made.hard.append(one)


def _numbered(row: Mapping[str, Any], teacher: str, by_text: Mapping, same: Any) -> tuple[list[Judged], Counter]:
    """The samples sample1, sample2, ... of a row with their verdicts judge1, judge2, ..."""
    text, reference = row.get("task"), row.get("ground_truth")
    faults: Counter[str] = Counter()
    if not isinstance(text, str) or not text.strip():
        return [], Counter({"weaker: no task": 1})
    prompt, found = ask(_NOISE.sub("", text).strip()), []
    key = row.get("ori_id", by_text.get(prompt))
    names = sorted((name for name in row if re.fullmatch(r"sample\d+", name)), key=lambda name: int(name[6:]))
    for number, name in enumerate(names):
        answer, verdict = row[name], row.get(f"judge{name[6:]}")
        if not isinstance(answer, str) or not answer.strip():
            faults["weaker: an empty sample"] += 1
            continue
        if verdict is None and isinstance(reference, str) and reference.strip():
            verdict = same(answer, reference)
        if verdict not in (0, 1, "0", "1", True, False):
            faults["weaker: no verdict"] += 1
            continue
        right = verdict in (1, "1", True)
        found.append(Judged(key, number, prompt, _NOISE.sub("", answer).strip(), right, teacher=teacher))
    return found, faults


def read_tests(rows: list[tuple[str, dict]]) -> list[dict[str, Any]]:
    """Test questions as {id, prompt, completion, gold}; a question that stands there twice is taken once."""
    from expo.evaluate import extractor

    find, found = extractor(), {}
    for place, row in rows:
        question, truth = row.get("question", row.get("task")), row.get("ground_truth", row.get("answer"))
        if not isinstance(question, str) or not isinstance(truth, str | int | float) or not str(truth).strip():
            raise RowError(
                place, f"a test has a question and a ground_truth; this row has {', '.join(row) or 'nothing'}."
            )
        text = str(truth).strip()
        answer = find(text) or (text if len(text) <= 80 and "\n" not in text else "")
        if not answer:
            raise RowError(place, f"no final answer is found in its ground_truth, {text[-60:]!r}.")
        found.setdefault(question.strip(), (text, answer))
    return [
        {"id": number, "prompt": ask(question), "completion": text, "gold": answer}
        for number, (question, (text, answer)) in enumerate(found.items())
    ]


def write(made: Converted, folder: Path) -> dict[str, Any]:
    """Write what was read as the pipeline's files; the counts."""
    write_rows(folder / "tasks.jsonl", (one.row() for one in made.tasks.values()))
    write_rows(folder / "subtasks.jsonl", (one.row() for one in made.subtasks.values()))
    for name in ("hard", "subtask", "paraphrases"):
        write_rows(folder / f"{name}.jsonl", (one.row() for one in getattr(made, name)))
    return made.record()
