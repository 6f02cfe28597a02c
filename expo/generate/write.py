"""A local model's answers: prompts become tasks, tasks become batches, rows become text with its stops cut off."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from expo.errors import ExpoError
from expo.generate.answers import Answer
from expo.generate.batches import Task, batches, default_batch_tokens
from expo.generate.memory import OutOfMemory, free_memory, is_out_of_memory
from expo.generate.prompts import Demo, Question
from expo.generate.sampling import Sampling
from expo.generate.sizes import threads_for

if TYPE_CHECKING:
    from torch import Tensor

    from expo.generate.decode import Member
    from expo.generate.local import LocalModel
    from expo.generate.members import Members

    Local = LocalModel | Members

_WINDOW_MARGIN = 16  # tokens that are decoded again beside those that a stop text may span
_SHOWN = 5


class PromptTooLong(ExpoError):
    """Prompts that do not fit into the model's window."""


def tasks_of(
    missing: Sequence[tuple[Question, int]],
    local: "Local",
    demos: Sequence[Demo],
    sampling: Sampling,
    long_prompts: str,
) -> tuple[list[Task], list[tuple[Question, int]]]:
    """The tasks, and what is not asked because its prompt is too long and the policy is `skip`.

    A prompt is too long where it leaves no room for one token. error: raises PromptTooLong with their number; cut:
    keeps the end that leaves room for max_tokens, or half the window where that is more.
    """
    context, known, tasks, skipped, over = local.context, {}, [], [], {}
    for question, sample in missing:
        if question.id not in known:
            known[question.id] = tuple(local.encode(question, demos))
        tokens = known[question.id]
        if context is not None and len(tokens) >= context:
            over[question.id] = (question, len(tokens))
            if long_prompts != "cut":
                skipped.append((question, sample))
                continue
            tokens = tokens[-max(context - sampling.max_tokens, context // 2, 1) :]
        room = sampling.max_tokens if context is None else context - len(tokens)
        tasks.append(Task(question, sample, tokens, min(room, sampling.max_tokens), room < sampling.max_tokens))
    if over and long_prompts == "error":
        _refuse(over, context, len(known), local.label)
    return tasks, skipped


def _refuse(over: dict, context: int, n_questions: int, label: str) -> None:
    named = [f"{question.where}: {length:,} tokens" for question, length in list(over.values())[:_SHOWN]]
    more = [f"... and {len(over) - _SHOWN:,} more"] if len(over) > _SHOWN else []
    raise PromptTooLong(
        "\n".join(
            [
                f"{len(over):,} of {n_questions:,} prompts do not fit into the {context:,} tokens of {label}:",
                *named,
                *more,
                "To answer them with nothing: --long-prompts skip. To drop their beginning: --long-prompts cut.",
            ]
        )
    )


def write_answers(
    local: "Local", tasks: Sequence[Task], sampling: Sampling, batch_tokens: int | None
) -> Iterator[tuple[Task, Answer]]:
    """Every task with its answer, as soon as it is finished."""
    from expo.generate.decode import Member

    if not tasks:
        return
    members = [Member(model) for model in local.models]
    room = batch_tokens or default_batch_tokens(local.models)
    with threads_for(local.models):
        for batch in batches(tasks, room, padded=all(member.by_row for member in members)):
            yield from _batch(local, members, batch, sampling)


def _batch(
    local: "Local", members: "list[Member]", batch: list[Task], sampling: Sampling, tried: tuple[int, ...] = ()
) -> Iterator[tuple[Task, Answer]]:
    """One batch; where the device's memory does not hold it, what is left of it in halves. tried: batches before it."""
    left = dict(enumerate(batch))
    tried = (*tried, len(batch))
    try:
        for row, answer in _rows(local, members, batch, sampling):
            yield left.pop(row), answer
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) == 1:
            raise OutOfMemory(
                f"the device's memory does not hold one prompt of {len(batch[0].tokens):,} tokens and an answer of at "
                f"most {batch[0].limit:,}.\nTried, answers at a time: {', '.join(map(str, tried))}.\n"
                "Use a larger device, a shorter --max-tokens, or --device cpu."
            ) from None
    if left:
        for member in members:
            member.cache = None
        free_memory()
        rest = list(left.values())
        middle = -(-len(rest) // 2)
        for part in filter(None, (rest[:middle], rest[middle:])):
            yield from _batch(local, members, part, sampling, tried)


def _rows(
    local: "Local", members: "list[Member]", batch: list[Task], sampling: Sampling
) -> Iterator[tuple[int, Answer]]:
    from expo.generate.decode import decode
    from expo.generate.noise import draw_key
    from expo.generate.penalties import Penalties
    from expo.generate.pick import pick

    keys = [draw_key(sampling.seed, task.question.id, task.sample) for task in batch]
    finish, ends = _finish(local, batch, sampling), sorted(local.ends)
    penalties = Penalties(sampling, len(batch)) if sampling.penalised else None

    def choose(logits: "Tensor", rows: list[int], step: int) -> "Tensor":
        if penalties is not None:
            logits = penalties.applied(logits, rows)
        if step < sampling.min_tokens:
            logits[:, ends] = float("-inf")
        tokens = pick(logits, sampling, [keys[row] for row in rows], [step] * len(rows))
        if penalties is not None:
            penalties.add(rows, tokens)
        return tokens

    prompts = [[task.tokens for task in batch]] * len(members)
    join = local.join(logs=sampling.penalised or not sampling.greedy)
    for row, tokens, why in decode(members, prompts, pick=choose, finish=finish, join=join):
        yield row, _answer(local, batch[row], tokens, why, sampling.stop)


def _finish(local: "Local", batch: list[Task], sampling: Sampling) -> Callable[[int, list[int]], str | None]:
    # A token stands for one byte at least, so a stop text spans no more tokens than it has bytes.
    window = max((len(text.encode()) for text in sampling.stop), default=0) + _WINDOW_MARGIN
    ends = local.ends

    def finish(row: int, tokens: list[int]) -> str | None:
        task = batch[row]
        if tokens[-1] in ends:
            return "stop"
        if sampling.stop:
            before = tokens[:-window] or task.tokens
            if stop_at(local.text(before, tokens[-window:]), sampling.stop) >= 0:
                return "stop"
        if len(tokens) >= task.limit:
            return "context" if task.full else "length"
        return None

    return finish


def _answer(local: "Local", task: Task, tokens: list[int], why: str, stop: Sequence[str]) -> Answer:
    text = local.text(task.tokens, tokens[:-1] if tokens[-1] in local.ends else tokens)
    return Answer(cut_at_stop(text, stop), len(tokens), why)


def stop_at(text: str, stop: Sequence[str]) -> int:
    """Where the first stop text begins, -1 where there is none."""
    return min((at for at in map(text.find, stop) if at >= 0), default=-1)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before its first stop text."""
    at = stop_at(text, stop)
    return text if at < 0 else text[:at]
