"""Rows of any accepted form become prompts with completions, pairs, or labelled texts, each with its file and line.

Knows field names; knows no tokenizer. Imports no torch.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expo.checkpoint.source import HUB_ID
from expo.train.errors import BadData, BadRows, MissingPackage, Problem
from expo.train.values import Unusable, label_of, weight_of, weights_of

Text = str | list  # a plain text, or a list of messages
JSON_NAMES = (".jsonl", ".json", ".ndjson")


class Row(NamedTuple):
    """One row as it was read."""

    where: str  # file:line
    fields: Mapping[str, Any]


class Completion(NamedTuple):
    """A prompt and the completion to learn."""

    where: str
    prompt: Text
    completion: Text
    weights: list[float] | float | None = None  # one a token of the completion, or one for all


class Pair(NamedTuple):
    """A prompt with a better and a worse completion."""

    where: str
    prompt: Text
    chosen: Text
    rejected: Text


class Labelled(NamedTuple):
    """A text with its class (a name or a number), or with a probability for each class."""

    where: str
    text: Text
    label: str | int | list[float]
    weight: float = 1.0


class Kept(NamedTuple):
    """The rows that can be used, and how many were left out, by kind of problem."""

    rows: list
    dropped: dict[str, int]


# --- Reading ---------------------------------------------------------------------------------------------------------


def read_rows(data: str | Path | Sequence[Mapping], *, split: str = "train") -> list[Row]:
    """All rows of a JSONL file, a JSON list, a `datasets` id or a list; BadData or BadRows if there are none."""
    if not isinstance(data, str | Path):
        rows = [Row(f"row {i}", fields) for i, fields in enumerate(data, start=1)]
    elif Path(data).exists() and not Path(data).is_dir():  # a pipe too
        rows = list(_from_file(Path(data)))
    elif HUB_ID.fullmatch(str(data)) and not str(data).endswith(JSON_NAMES) and not Path(data).exists():
        rows = list(_from_hub(str(data), split))
    else:
        what = "is a folder" if Path(data).is_dir() else "does not exist"
        raise BadData(f"{data} {what}. Data is a JSONL file, a JSON list, or a `datasets` id such as org/name.")
    if not rows:
        raise BadData(f"{data} holds no rows." if isinstance(data, str | Path) else "There are no rows to train on.")
    wrong = [Problem("malformed", row.where, "not an object") for row in rows if not isinstance(row.fields, Mapping)]
    if wrong:
        raise BadRows(wrong, len(rows))
    return rows


def _from_file(path: Path) -> Iterator[Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadData(f"{path}: not UTF-8 text (byte {error.start}).") from error
    except OSError as error:
        raise BadData(f"{path} cannot be read: {error.strerror}.") from error
    if text.lstrip().startswith("["):
        yield from _from_list(path, text)
        return
    wrong = []
    lines = text.split("\n")  # not splitlines: JSON strings may hold U+2028
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield Row(f"{path}:{number}", json.loads(line))
        except (ValueError, RecursionError) as error:
            wrong.append(Problem("malformed", f"{path}:{number}", f"not JSON: {error}"))
    if wrong:
        raise BadRows(wrong, sum(1 for line in lines if line.strip()))


def _from_list(path: Path, text: str) -> Iterator[Row]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{path}: starts as a JSON list, but is not one: {error}.") from error
    for number, fields in enumerate(rows, start=1):
        yield Row(f"{path}, row {number}", fields)


def _from_hub(name: str, split: str) -> Iterator[Row]:
    try:
        import datasets
    except ImportError:
        raise MissingPackage("datasets", f"reading {name} from the Hub", "expo[train]") from None
    path, revision = HUB_ID.fullmatch(name).groups()
    try:
        found = datasets.load_dataset(path, revision=revision, split=split)
    except Exception as error:  # datasets raises many kinds; each has a message of its own
        raise BadData(
            f"{name}: `datasets` cannot load the split {split!r}: {error}\n"
            "If a local file was meant, check its path; to choose another split: --split NAME."
        ) from error
    for number, fields in enumerate(found, start=1):
        yield Row(f"{name}, {split} row {number}", fields)


# --- Forms -----------------------------------------------------------------------------------------------------------


def completions(rows: Iterable[Row], *, bad_rows: str = "error") -> Kept:
    """A Completion for each row: prompt/completion, messages, content/output, instruction[/input]/output."""
    kept = _each(rows, _completion, bad_rows)
    _some_weight(row.weights != 0 for row in kept.rows)
    return kept


def pairs(rows: Iterable[Row], *, bad_rows: str = "error") -> Kept:
    """A Pair for each row: [prompt/]chosen/rejected, or instruction[/input]/output of [chosen, rejected]."""
    return _each(rows, _pair, bad_rows)


def labelled(rows: Iterable[Row], *, bad_rows: str = "error") -> Kept:
    """A Labelled for each row: text, messages or prompt[/completion]; label or probabilities; optional weight."""
    kept = _each(rows, _labelled, bad_rows)
    _some_weight(row.weight for row in kept.rows)
    return kept


def _some_weight(weights: Iterable) -> None:
    if not any(weights):
        raise BadData("The weight of each row is 0, so that nothing would be learnt. Give some rows a weight above 0.")


def _each(rows: Iterable[Row], form: Callable[[Row], Any], bad_rows: str) -> Kept:
    kept, problems, dropped, n = [], [], {}, 0
    for row in rows:
        n += 1
        try:
            kept.append(form(row))
        except Unusable as error:
            if bad_rows == "drop" and error.kind in ("empty", "equal"):
                dropped[error.kind] = dropped.get(error.kind, 0) + 1
            else:
                problems.append(Problem(error.kind, row.where, str(error)))
    if problems:
        raise BadRows(problems, n)
    if not kept:
        which = "The only row was" if n == 1 else f"All {n:,} rows were"
        raise BadData(f"{which} left out ({dropped}): there is nothing to train on.")
    return Kept(kept, dropped)


_PLAIN = (("prompt", "completion"), ("prompt", "response"), ("content", "output"), ("instruction", "output"))


def _completion(row: Row) -> Completion:
    fields, weights = row.fields, row.fields.get("weights")
    if weights is not None:
        weights = weights_of(weights)
    if fields.get("messages") is not None:
        messages = _messages("messages", fields["messages"])
        if messages[-1]["role"] != "assistant":
            raise Unusable("fields", f"the last message is by {messages[-1]['role']!r}, not by 'assistant'")
        return Completion(row.where, messages[:-1], _full("messages", messages[-1:]), weights)
    for prompt, completion in _PLAIN:
        if fields.get(prompt) is not None and fields.get(completion) is not None:
            asked = _prompt(fields, prompt)
            return Completion(row.where, asked, _full(completion, _text(completion, fields[completion])), weights)
    known = "prompt/completion, messages, content/output or instruction/output"
    raise Unusable("fields", f"no {known}; its fields are {_names(fields)}")


def _pair(row: Row) -> Pair:
    fields = row.fields
    if fields.get("chosen") is not None and fields.get("rejected") is not None:
        prompt = _prompt(fields, "prompt") if fields.get("prompt") is not None else None
        chosen, rejected = (_text(name, fields[name]) for name in ("chosen", "rejected"))
    elif fields.get("instruction") is not None and isinstance(fields.get("output"), list):
        if len(fields["output"]) != 2:
            raise Unusable("fields", f"output holds {len(fields['output'])} texts, not [chosen, rejected]")
        prompt = _prompt(fields, "instruction")
        chosen, rejected = (_text("output", text) for text in fields["output"])
    else:
        known = "chosen/rejected, or instruction/output with two outputs"
        raise Unusable("fields", f"no {known}; its fields are {_names(fields)}")
    if isinstance(chosen, list) != isinstance(rejected, list):
        raise Unusable("fields", "chosen and rejected must both be texts, or both be messages")
    if isinstance(chosen, list) and (prompt is None or len(chosen) > 1):
        prompt, chosen, rejected = _common_prompt(chosen, rejected)
    if prompt is None:
        raise Unusable("fields", "no prompt beside chosen and rejected")
    if _full("chosen", chosen) == _full("rejected", rejected):
        raise Unusable("equal", "chosen and rejected are equal")
    return Pair(row.where, prompt, chosen, rejected)


def _common_prompt(chosen: list, rejected: list) -> tuple[list, list, list]:
    """Conversations that differ in their last message only."""
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("fields", "chosen and rejected differ before their last message")
    return chosen[:-1], chosen[-1:], rejected[-1:]


def _labelled(row: Row) -> Labelled:
    fields = row.fields
    if fields.get("text") is not None:
        text: Text = _text("text", fields["text"])
    elif fields.get("messages") is not None:
        text = _messages("messages", fields["messages"])
    elif fields.get("prompt") is not None:
        text = _text("prompt", fields["prompt"])
        if fields.get("completion") is not None:
            text = text + _text("completion", fields["completion"])
    else:
        raise Unusable("fields", f"no text, messages or prompt; its fields are {_names(fields)}")
    label = next((fields[name] for name in ("label", "labels", "probabilities") if fields.get(name) is not None), None)
    return Labelled(row.where, _full("text", text), label_of(label, fields), weight_of(fields.get("weight", 1.0)))


def _prompt(fields: Mapping, name: str) -> Text:
    prompt = _text(name, fields[name])
    more = fields.get("input") if name == "instruction" else None
    return f"{prompt}\n{more}" if more else prompt


def _text(name: str, value: Any) -> Text:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return _messages(name, value)
    raise Unusable("fields", f"{name} is neither a text nor a list of messages")


def _messages(name: str, value: Any) -> list:
    fine = isinstance(value, list) and value
    if not fine or not all(isinstance(one, Mapping) and isinstance(one.get("role"), str) for one in value):
        raise Unusable("fields", f"{name} is no list of messages, each with role and content")
    if any("content" not in one for one in value):
        raise Unusable("fields", f"{name}: a message has no content")
    return [dict(one) for one in value]


def _full(name: str, text: Text) -> Text:
    content = text[-1]["content"] if isinstance(text, list) else text
    if content is None or not str(content).strip():
        raise Unusable("empty", f"{name} is empty")
    return text


def _names(fields: Mapping) -> str:
    return ", ".join(map(str, fields)) or "none"
