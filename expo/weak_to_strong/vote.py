"""Stage II, first half: the most frequent final answer among a model's samples, and how frequent it is.

Source: Yang, Ma, Liu, "Weak-to-Strong Reasoning", arXiv:2407.13647, section 3.2, and its published code.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from expo.weak_to_strong.answers import Answer, Extract, Id, Same, accuracy, open_answers, open_samples, same_text
from expo.weak_to_strong.compare import prepare
from expo.weak_to_strong.errors import RowError
from expo.weak_to_strong.keyed import Keyed, RowWriter, same_ids
from expo.weak_to_strong.modes import Mode
from expo.weak_to_strong.provenance import hash_of

MENDED = ("an empty final answer never wins a vote (it stays a vote against the others)",)


def classes(samples: Sequence[Answer], same: Same = same_text) -> list[list[int]]:
    """Positions of the samples whose final answers count as one, in order of first appearance."""
    found: list[list[int]] = []
    for number, sample in enumerate(samples):
        for group in found:
            first = samples[group[0]]
            # An empty answer equals only another one, whatever a judge would say.
            if first.pred == sample.pred or (first.pred and sample.pred and same(first, sample)):
                group.append(number)
                break
        else:
            found.append([number])
    return found


def vote(samples: Sequence[Answer], *, same: Same = same_text, mode: Mode = Mode.MENDED) -> dict[str, Any]:
    """One question's samples, told apart into those with the majority's answer and the rest.

    Ties go to the answer seen first. `confidence` is the majority's share of all samples; where every answer is empty,
    mode "published" lets the empty one win, otherwise nothing does and confidence is 0.
    """
    groups = classes(samples, same)
    if mode is not Mode.PUBLISHED:
        groups = [group for group in groups if samples[group[0]].pred != ""]
    winner = set(max(groups, key=len)) if groups else set()  # max keeps the first of equals
    sides: tuple[list, list] = ([], [])
    for number, sample in enumerate(samples):
        told = {"response": sample.response, "pred": sample.pred, "result": sample.result}
        sides[number not in winner].append(told)
    first = samples[0]
    return {
        "id": first.id,
        "prompt": first.prompt,
        "gold": first.gold,
        "pos_responses": sides[0],
        "neg_responses": sides[1],
        "confidence": len(winner) / len(samples),
    }


def vote_files(
    samples: Sequence[str | Path],
    output: str | Path,
    *,
    mode: Mode = Mode.MENDED,
    same: Same = same_text,
    extract: Extract | None = None,
) -> dict[str, Any]:
    """Write one vote a question to `output` (JSONL); the report.

    samples: one file a seed, each with one answer a question; or one file whose rows say which `sample` they are.
    Raises DuplicateId, IdMismatch, or RowError, also where questions have different numbers of samples, or where a
    file is given twice.
    """
    _check_distinct(samples)
    right: list[bool | None] = []
    sizes: set[int] = set()
    prepare(same, (pair for answers in gather(samples, extract) for pair in combinations(answers, 2)))
    with RowWriter(output) as writer:
        for answers in gather(samples, extract):
            counted = vote(answers, same=same, mode=mode)
            writer.write(counted)
            sizes.add(len(answers))
            right.append(counted["pos_responses"][0]["result"] if counted["pos_responses"] else False)
    return {
        "rule": "the most frequent final answer; ties go to the one seen first",
        "mode": str(mode),
        "mended": list(MENDED) if mode is not Mode.PUBLISHED else [],
        "inputs": {Path(path).name if len(samples) == 1 else str(path): hash_of(path) for path in samples},
        "questions": writer.count,
        "samples a question": sorted(sizes),
        "accuracy of the majority": accuracy(right),
    }


def _check_distinct(paths: Sequence[str | Path]) -> None:
    """Raise RowError where a file, or its content, is there twice: its answers would have two voices."""
    found: dict[str, str | Path] = {}  # hash -> the first file that has it
    for path in paths:
        if len(paths) == 1 or not Path(path).is_file():
            continue  # what cannot be read is told when it is opened
        other = found.setdefault(hash_of(path), path)
        if other is not path or paths.count(path) > 1:
            alike = "is the same file as" if Path(path).samefile(other) else "has the same content as"
            raise RowError(path, f"{alike} {other}, and would be counted twice.", "Give one file for each seed.")


def gather(paths: Sequence[str | Path], extract: Extract | None = None) -> Iterator[list[Answer]]:
    """Each question's samples, by seed; questions in the first file's order."""
    if len(paths) == 1:
        yield from _of_one_file(open_samples(paths[0], extract))
        return
    files = [open_answers(path, extract) for path in paths]
    for other in files[1:]:
        same_ids(files[0], other)
    for key in files[0].numbers:
        yield [file[key] for file in files]


def _of_one_file(file: Keyed[Answer]) -> Iterator[list[Answer]]:
    numbers: dict[Id, list[int]] = {}
    for key, sample in file.numbers:
        numbers.setdefault(key, []).append(sample)
    most = max(map(len, numbers.values()))
    for key, found in numbers.items():
        if len(found) != most:
            raise RowError(
                file.where((key, found[0])),
                f"id {key!r} has {len(found)} samples, others have {most}.",
                "A share of fewer samples means something else: generate the missing ones, or remove the question.",
            )
    for key, found in numbers.items():
        yield [file[key, sample] for sample in sorted(found)]
