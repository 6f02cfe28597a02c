"""Prompts and completions become token ids: what a model will be asked at generation, then what it shall answer.

The prompt's ids are always those of the prompt alone. Knows tokenizers and chat templates; knows no model and no loss.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from expo.train.errors import BadData, BadRows, NoChatTemplate, Problem
from expo.train.rows import Completion, Labelled, Pair, Text

_AT_ONCE = 1024  # texts for each call of the tokenizer
_SHOWN = 12  # tokens of a completion that an error shows


class Limits(NamedTuple):
    """How long a row may be, and what happens to longer ones."""

    max_length: int
    too_long: str  # error, drop or truncate
    context: int | None = None  # of the model: max_length cannot be raised beyond it


class Taught(NamedTuple):
    """One row in tokens: the prompt, then what is learnt."""

    where: str
    ids: array  # of int32: prompt and completion
    n_prompt: int
    weights: list[float] | None = None  # one for each id of the completion


class TaughtPair(NamedTuple):
    """Two completions of one prompt."""

    where: str
    chosen: Taught
    rejected: Taught


class Read(NamedTuple):
    """A text in tokens, to be classified."""

    where: str
    ids: array
    label: Any
    weight: float


class Encoded(NamedTuple):
    """The rows that fit, how many were left out as too long, and how many were cut."""

    rows: list
    dropped: dict[str, int]
    truncated: int


def encode_completions(
    tokenizer: Any, rows: Sequence[Completion], limits: Limits, *, chat: bool = False, end_token: bool = True
) -> Encoded:
    """A Taught for each completion. Raises BadRows, NoChatTemplate."""
    texts = ((row.prompt, row.completion) for row in rows)
    taught, problems = [], []
    for row, (prompt, completion) in zip(rows, _tokenized(tokenizer, texts, chat, end_token), strict=True):
        try:
            weights = _weights(row.weights, completion, tokenizer)
        except ValueError as error:
            problems.append(Problem("weights", row.where, str(error)))
            continue
        taught.append([Taught(row.where, *_joined(prompt, completion), weights)])
    if problems:
        raise BadRows(problems, len(rows))
    return _within(limits, taught, len(rows), lambda alone: alone[0])


def encode_pairs(
    tokenizer: Any, rows: Sequence[Pair], limits: Limits, *, chat: bool = False, end_token: bool = True
) -> Encoded:
    """A TaughtPair for each pair; a pair is too long when either completion is. Raises BadRows, NoChatTemplate."""
    texts = ((row.prompt, side) for row in rows for side in (row.chosen, row.rejected))
    tokens = _tokenized(tokenizer, texts, chat, end_token)
    both = ([Taught(row.where, *_joined(*next(tokens))) for _ in range(2)] for row in rows)
    return _within(limits, both, len(rows), lambda two: TaughtPair(two[0].where, *two))


def encode_labelled(tokenizer: Any, rows: Sequence[Labelled], limits: Limits, *, chat: bool = False) -> Encoded:
    """A Read for each labelled text; truncate cuts its end. Raises BadRows, NoChatTemplate."""
    rendered = (_alone(tokenizer, row.text, chat) for row in rows)
    kept, problems, cut = [], [], 0
    for row, ids in zip(rows, _ids(tokenizer, rendered), strict=True):
        if len(ids) > limits.max_length and limits.too_long != "truncate":
            problems.append(_too_long("too long", row.where, len(ids), limits))
            continue
        cut += len(ids) > limits.max_length
        kept.append(Read(row.where, array("i", ids[: limits.max_length]), row.label, row.weight))
    return _settled(kept, problems, cut, limits, len(rows))


def check_template(tokenizer: Any, rows: Iterable, chat: bool, model: str) -> None:
    """Raise NoChatTemplate if a row has to be rendered as a chat and the tokenizer has no template for it."""
    if getattr(tokenizer, "chat_template", None):
        return
    for row in rows:
        if chat or any(isinstance(value, list) and value and isinstance(value[0], dict) for value in row[1:]):
            raise NoChatTemplate(
                f"{row.where}: {'chat is asked for' if chat else 'the row holds messages'}, and the tokenizer of "
                f"{model} has no chat template.\nGive it one (a chat_template.jinja in the model's folder), "
                "or use rows of plain texts: prompt and completion."
            )


# --- Texts to tokens -------------------------------------------------------------------------------------------------


def _tokenized(
    tokenizer: Any, texts: Iterable[tuple[Text, Text]], chat: bool, end_token: bool
) -> Iterator[tuple[list[int], list[int]]]:
    """(prompt's ids, completion's ids) for each prompt and completion."""
    texts = iter(texts)
    while some := list(islice(texts, _AT_ONCE)):
        rendered = [_rendered(tokenizer, prompt, completion, chat) for prompt, completion in some]
        prompts = list(_ids(tokenizer, [(text, plain) for (text, plain), _ in rendered]))
        wholes = _ids(tokenizer, [(prompt + rest, plain) for (prompt, plain), rest in rendered])
        for ((_, plain), rest), prompt, whole in zip(rendered, prompts, wholes, strict=True):
            if whole[: len(prompt)] == prompt:
                completion = whole[len(prompt) :]
            else:  # a token reaches over the border; generation will not see such a one
                completion = tokenizer(rest, add_special_tokens=False)["input_ids"]
            end = tokenizer.eos_token_id
            if plain and end_token and end is not None and completion[-1:] != [end]:
                completion = [*completion, end]
            yield prompt, completion


def _rendered(tokenizer: Any, prompt: Text, completion: Text, chat: bool) -> tuple[tuple[str, bool], str]:
    """((prompt's text, whether it is plain), completion's text)."""
    if isinstance(prompt, str) and isinstance(completion, str) and not chat:
        return (prompt, True), completion
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    answer = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    before = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*asked, *answer], tokenize=False)
    if not whole.startswith(before):
        raise NoChatTemplate(
            "The tokenizer's chat template renders a conversation differently once it is answered, so that prompt and "
            "completion cannot be told apart.\nRender the chats yourself: rows of plain texts, prompt and completion."
        )
    return (before, False), whole[len(before) :]


def _alone(tokenizer: Any, text: Text, chat: bool) -> tuple[str, bool]:
    if isinstance(text, str) and not chat:
        return text, True
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
    return tokenizer.apply_chat_template(messages, tokenize=False), False


def _ids(tokenizer: Any, texts: Iterable[tuple[str, bool]]) -> Iterator[list[int]]:
    """Token ids of each text; a plain one gets the tokenizer's beginning, but not its end."""
    texts = iter(texts)
    while some := list(islice(texts, _AT_ONCE)):
        found: list = [None] * len(some)
        for plain in {plain for _, plain in some}:
            where = [i for i, (_, kind) in enumerate(some) if kind == plain]
            rows = tokenizer([some[i][0] for i in where], add_special_tokens=plain)["input_ids"]
            for i, ids in zip(where, rows, strict=True):
                added = plain and ids[-1:] == [tokenizer.eos_token_id] and len(ids) > 1
                spelled = added and some[i][0].endswith(str(tokenizer.eos_token))
                found[i] = ids[:-1] if added and not spelled else ids
        yield from found


def _weights(given: list[float] | float | None, completion: list[int], tokenizer: Any) -> list[float] | None:
    """One weight for each token of a completion; an end token that has none gets the mean of the others.

    Only ratios of weights count, so a fixed number would drown, or be drowned by, weights of another scale.
    ValueError says how the completion was cut where the numbers differ.
    """
    if given is None or isinstance(given, float):
        return given if given is None else [given] * len(completion)
    ended = tokenizer.eos_token_id is not None and completion[-1:] == [tokenizer.eos_token_id]
    if ended and len(given) == len(completion) - 1:
        return [*given, sum(given) / len(given)]
    if len(given) != len(completion):
        n, tokens = len(completion), [repr(token) for token in tokenizer.convert_ids_to_tokens(completion)]
        cut = tokens if n <= _SHOWN else [*tokens[: _SHOWN - 3], "...", *tokens[-2:]]
        one = "1 weight" if len(given) == 1 else f"{len(given):,} weights"
        what = f"a completion of {n:,} tokens{', its end token included' if ended else ''}"
        raise ValueError(f"{one} for {what}: {' '.join(cut)}")
    return given


def _joined(prompt: list[int], completion: list[int]) -> tuple[array, int]:
    return array("i", [*prompt, *completion]), len(prompt)


# --- Lengths ---------------------------------------------------------------------------------------------------------


def _within(limits: Limits, rows: Iterable[list[Taught]], n: int, finish: Any) -> Encoded:
    """Rows of one or two completions, each judged by the longest."""
    kept, problems, cut = [], [], 0
    for row in rows:
        longest = max(row, key=lambda taught: len(taught.ids))
        if longest.n_prompt >= limits.max_length:
            problems.append(_too_long("prompt too long", longest.where, longest.n_prompt, limits))
        elif len(longest.ids) <= limits.max_length:
            kept.append(finish(row))
        elif limits.too_long == "truncate":
            cut += 1
            kept.append(finish([_cut(taught, limits.max_length) for taught in row]))
        else:
            problems.append(_too_long("too long", longest.where, len(longest.ids), limits))
    return _settled(kept, problems, cut, limits, n)


def _cut(taught: Taught, max_length: int) -> Taught:
    weights = taught.weights and taught.weights[: max_length - taught.n_prompt]
    return taught._replace(ids=taught.ids[:max_length], weights=weights)


def _too_long(kind: str, where: str, length: int, limits: Limits) -> Problem:
    what = "the prompt alone has" if kind == "prompt too long" else "it has"
    return Problem(kind, where, f"{what} {length:,} tokens; at most {limits.max_length:,} fit")


def _room(limits: Limits) -> str:
    if limits.context is None:
        return "To let longer rows in, raise --max-length."
    if limits.max_length < limits.context:
        return f"The model's context allows more: --max-length {limits.context}."
    return f"The model's context is {limits.context:,} tokens, so longer rows need another model."


def _settled(kept: list, problems: list[Problem], cut: int, limits: Limits, n: int) -> Encoded:
    """Long rows are left out, or are an error. A prompt is never cut: under truncate its row is left out too."""
    if problems and limits.too_long == "error":
        raise BadRows(problems, n, more=_room(limits))
    if not kept:
        none = "The only row does not fit" if n == 1 else f"None of {n:,} rows fits"
        raise BadData(f"{none} into {limits.max_length:,} tokens. {_room(limits)}")
    dropped: dict[str, int] = {}
    for problem in problems:
        dropped[problem.kind] = dropped.get(problem.kind, 0) + 1
    return Encoded(kept, dropped, cut)
