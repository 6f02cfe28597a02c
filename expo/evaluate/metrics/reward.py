"""reward:MODEL: the output of a transformers sequence-classification model with one label, on generated answers.

A prompt and its answer become a chat that the reward model's own template renders. The reward model stays loaded
beside the scored one, on its device.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expo.evaluate.metrics.answering import asking_of, scored
from expo.evaluate.metrics.metric import Metric, Scored, hash_of, texts_of
from expo.evaluate.metrics.rewarder import open_rewarder
from expo.generate.prompts import Question
from expo.generate.sampling import Sampling


def reward(
    rewarder: str,
    data: str | Path | Sequence[Mapping],
    sampling: Sampling,
    *,
    reward_dtype: str | None = None,
    template: str | None = None,
    chat: bool | None = None,
    demos: Any = None,
    long_prompts: str = "error",
    batch_tokens: int | None = None,
    trust_remote_code: bool = False,
) -> Metric:
    """Rows: messages, prompt or question. Of several samples the mean reward counts.

    rewarder: folder or Hub id. reward_dtype: of its weights; by default float32 on a CPU, elsewhere the checkpoint's
    own. The other settings are those of `expo generate`. Raises RowsError, RewardError, NoChatTemplate, SourceError.
    """
    judge = open_rewarder(rewarder, dtype=reward_dtype, trust_remote_code=trust_remote_code)
    asking = asking_of(
        data, sampling, template=template, chat=chat, demos=demos, long_prompts=long_prompts, batch_tokens=batch_tokens
    )
    ids = texts_of([question.id for question in asking.questions], f"reward:{rewarder}")
    at = dict(zip(ids, asking.questions, strict=True))

    def measure(model: Any, tokenizer: Any, wanted: Sequence[str]) -> list[Scored]:
        questions = [at[key] for key in wanted]
        judge.load(next(model.parameters()).device)  # what is wrong with it shows before any answer is written
        answers = asking.answers(model, tokenizer, questions)
        chats = [
            (question.id, chat_of(question, one.response)) for question in questions for one in answers[question.id]
        ]
        values = judge.rewards(chats, next(model.parameters()).device, batch_tokens)
        each = sampling.samples
        means = [sum(values[i : i + each]) / each for i in range(0, len(values), each)]
        return list(map(scored, wanted, means, [answers[one.id] for one in questions]))

    return Metric(
        name=f"reward:{rewarder}",
        ids=ids,
        asked=tuple(hash_of(question.shown()) for question in asking.questions),
        data=hash_of([[key, question.shown()] for key, question in at.items()]),
        measure=measure,
        settings={"reward_model": judge.fingerprint, "reward_dtype": reward_dtype, **asking.record()},
        generates=True,
    )


def chat_of(question: Question, response: str) -> list[dict[str, Any]]:
    """The question as it was put, without template and demos, and its answer."""
    asked = question.messages or ({"role": "user", "content": question.text},)
    return [*map(dict, asked), {"role": "assistant", "content": response}]
