"""Stage I of Weak-to-Strong Reasoning: keep the questions on which the weak labels and the strong model's own agree.

Three training sets come out: the weak responses, the strong model's, and both in turn.
Source: Yang, Ma, Liu, "Weak-to-Strong Reasoning", arXiv:2407.13647, section 3.1, and its published code.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from expo.weak_to_strong.answers import Answer, Extract, Id, Same, accuracy, open_answers, same_text
from expo.weak_to_strong.compare import prepare
from expo.weak_to_strong.errors import IdMismatch
from expo.weak_to_strong.keyed import Keyed, RowWriter, same_ids
from expo.weak_to_strong.modes import Mode
from expo.weak_to_strong.provenance import hash_of, text_hash

SETS = ("weak", "icl", "hybrid")
MENDED = (
    "rows that repeat an earlier row's question and response are dropped (the published sets keep them)",
    "where both models wrote the same response, the hybrid set holds it once",
    "questions with an empty response or final answer are dropped (the published sets hold a few)",
)


def sft_row(answer: Answer) -> dict[str, Any]:
    """One answer as a row to fine-tune on, in the published files' spelling."""
    return {"id": answer.id, "content": answer.prompt, "output": answer.response}


def fate(weak: Answer, icl: Answer, same: Same = same_text) -> str:
    """What becomes of a question: "kept", or why not: "empty", "differ"."""
    if weak.pred == "":
        return "empty"
    return "kept" if same(weak, icl) else "differ"


def interleave(weak: Iterable[dict], icl: Iterable[dict]) -> Iterator[dict]:
    """w0, i0, w1, i1, ...: both sets in turn; ValueError where one is longer or ids differ."""
    for first, second in zip(weak, icl, strict=True):
        if first["id"] != second["id"]:
            raise ValueError(f"ids differ: {first['id']!r} and {second['id']!r}")
        yield first
        yield second


def choose(
    weak: Iterable[Answer], icl: Iterable[Answer], *, same: Same = same_text, mode: Mode = Mode.MENDED
) -> Iterator[tuple[str, Answer, Answer]]:
    """(fate, weak answer, strong answer) of every question, in the given order.

    icl: what the strong model wrote to the same questions, under whatever prompt. Its answers come back under the weak
    answers' zero-shot prompt. In mode "published" fates are those of the published code; otherwise also "duplicate".
    """
    seen: set[bytes] = set()
    for first, second in zip(weak, icl, strict=True):
        verdict = fate(first, second, same)
        own = second._replace(prompt=first.prompt)
        if mode is not Mode.PUBLISHED and verdict == "kept":
            texts = {text_hash(first.prompt, one.response) for one in (first, own)}
            if not first.response.strip() or not own.response.strip() or own.pred == "":
                verdict = "empty"
            elif texts <= seen:
                verdict = "duplicate"
            seen |= texts
        yield verdict, first, own


def select(
    weak: str | Path,
    icl: str | Path,
    output: str | Path,
    *,
    mode: Mode = Mode.MENDED,
    same: Same = same_text,
    extract: Extract | None = None,
    suffix: str = ".jsonl",
) -> dict[str, Any]:
    """Write weak, icl and hybrid training sets into the folder `output`; the report of what was kept.

    weak, icl: answers of the weak and the strong model to the same questions (JSONL or a JSON array). Rows follow the
    weak file's order. Golds, where the rows have them, serve the report only.
    Raises RowError, DuplicateId or IdMismatch with file and line, before anything is written.
    """
    first, second = open_answers(weak, extract), open_answers(icl, extract)
    same_ids(first, second)
    prepare(same, ((one, second[one.id]) for one in first if one.pred))
    fates: Counter[str] = Counter(kept=0, empty=0, differ=0)
    right: list[bool | None] = []
    with ExitStack() as stack:
        writers = {name: stack.enter_context(RowWriter(Path(output) / f"{name}{suffix}")) for name in SETS}
        matched = (second[answer.id] for answer in first)
        strangers = sum(not second[answer.id].prompt.endswith(answer.prompt) for answer in first)
        for verdict, one, other in choose(first, matched, same=same, mode=mode):
            fates[verdict] += 1
            if verdict == "kept":
                right.append(one.result)
                _write(writers, sft_row(one), sft_row(other), mode)
    return {
        "rule": "the final answers of both models agree and are not empty",
        "mode": str(mode),
        "mended": list(MENDED) if mode is not Mode.PUBLISHED else [],
        "inputs": {"weak": hash_of(weak), "icl": hash_of(icl)},
        "questions": len(first),
        "fates": dict(fates),
        "strong prompts that do not end with the weak one": strangers,
        "rows": {name: writer.count for name, writer in writers.items()},
        "accuracy of kept weak answers": accuracy(right),
    }


def _write(writers: dict[str, RowWriter], weak: dict, icl: dict, mode: Mode) -> None:
    writers["weak"].write(weak)
    writers["icl"].write(icl)
    writers["hybrid"].write(weak)
    if mode is Mode.PUBLISHED or icl["output"] != weak["output"]:
        writers["hybrid"].write(icl)


def full_weak(
    weak: str | Path, output: str | Path, *, ids: Iterable[Id] | None = None, extract: Extract | None = None
) -> dict[str, Any]:
    """Write every weak answer as a training row, or those of `ids` in their order: naive weak-to-strong's set."""
    rows: Keyed[Answer] = open_answers(weak, extract)
    wanted = list(rows.numbers) if ids is None else list(dict.fromkeys(ids))
    for key in wanted:
        if key not in rows:
            raise IdMismatch(weak, f"there is no id {key!r} in it, which is among the ids asked for.")
    with RowWriter(output) as writer:
        for key in wanted:
            writer.write(sft_row(rows[key]))
    right = [rows[key].result for key in wanted]
    return {"inputs": {"weak": hash_of(weak)}, "rows": writer.count, "accuracy of weak answers": accuracy(right)}
