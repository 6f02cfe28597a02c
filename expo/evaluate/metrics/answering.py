"""Answers of a model that is loaded already, by the same prompts, batches and draws as `expo generate`. Writes no file.

Nothing outlives a call but the questions: the model may hold other weights at the next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expo.evaluate.metrics.degenerate import is_degenerate
from expo.evaluate.metrics.metric import MetricError, Scored, hash_of
from expo.generate.answers import Answer
from expo.generate.prompts import TEMPLATE, Demo, Question, check_chat, read_demos, read_questions
from expo.generate.sampling import Sampling, check_long_prompts

_LABEL = "the model"


@dataclass(frozen=True)
class Asking:
    """Questions, and how they are asked."""

    questions: list[Question]
    sampling: Sampling
    demos: list[Demo] = field(default_factory=list)
    long_prompts: str = "error"
    batch_tokens: int | None = None

    def answers(self, model: Any, tokenizer: Any, questions: Sequence[Question]) -> dict[Any, list[Answer]]:
        """The answers to each question by its id, in the order of the samples.

        Raises PromptTooLong, NoChatTemplate, OutOfMemory.
        """
        from expo.generate.local import LocalModel
        from expo.generate.write import tasks_of, write_answers

        local = LocalModel(tokenizer, lambda: model, model.config, _LABEL, "")
        check_chat(questions, local)
        samples = range(self.sampling.samples)
        asked = [(question, sample) for question in questions for sample in samples]
        tasks, skipped = tasks_of(asked, local, self.demos, self.sampling, self.long_prompts)
        found = {(question.id, sample): Answer("", 0, "too long") for question, sample in skipped}
        for task, answer in write_answers(local, tasks, self.sampling, self.batch_tokens):
            found[task.question.id, task.sample] = answer
        return {question.id: [found[question.id, sample] for sample in samples] for question in questions}

    def record(self) -> dict[str, Any]:
        """What decides an answer beside the model and the question."""
        demos = hash_of([[demo.question.shown(), demo.response] for demo in self.demos]) if self.demos else None
        return {"sampling": self.sampling.record(), "demos": demos, "long_prompts": self.long_prompts}


def asking_of(
    data: str | Path | Sequence[Mapping],
    sampling: Sampling,
    *,
    template: str | None,
    chat: bool | None,
    demos: Any,
    long_prompts: str,
    batch_tokens: int | None,
) -> Asking:
    """The questions of `data` as `expo generate` reads them, and its settings. Raises RowsError, BadSetting."""
    check_long_prompts(long_prompts)
    template = template or TEMPLATE
    questions = read_questions(data, template=template, chat=chat)
    chats = {bool(question.messages) for question in questions}
    shown = read_demos(demos, template=template, chat=chat if len(chats) > 1 else chats == {True})
    return Asking(questions, sampling, shown, long_prompts, batch_tokens)


def scored(key: str, score: float, answers: Sequence[Answer]) -> Scored:
    """A score with its answers' mean length in tokens, end tokens included, and whether one of them is degenerate."""
    lengths = [answer.n_tokens for answer in answers]
    if any(length is None for length in lengths):
        raise MetricError(f"{key}: an answer has no length.")
    bad = any(is_degenerate(answer.response, answer.finish) for answer in answers)
    return Scored(key, score, round(sum(lengths) / len(lengths)), bad)
