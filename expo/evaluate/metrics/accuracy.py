"""accuracy: the share of an example's answers that are right, generated and graded as by `expo eval`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expo.evaluate.equivalence import SECONDS, judge
from expo.evaluate.extract import extractor
from expo.evaluate.grade import grade, read_references
from expo.evaluate.metrics.answering import asking_of, scored
from expo.evaluate.metrics.metric import Metric, Scored, hash_of, texts_of
from expo.generate.sampling import Sampling


def accuracy(
    data: str | Path | Sequence[Mapping],
    sampling: Sampling,
    *,
    extraction: str = "default",
    equivalence: str = "numeric",
    judge_seconds: float = SECONDS,
    gold_field: str | None = None,
    template: str | None = None,
    chat: bool | None = None,
    demos: Any = None,
    long_prompts: str = "error",
    batch_tokens: int | None = None,
) -> Metric:
    """Rows: a question (messages, prompt or question) with its true answer (gold, answer, solution or completion).

    The settings are those of `expo eval`. Raises RowsError, UnknownExtraction, JudgeError.
    """
    extractor(extraction)
    judge(equivalence, seconds=judge_seconds)
    asking = asking_of(
        data, sampling, template=template, chat=chat, demos=demos, long_prompts=long_prompts, batch_tokens=batch_tokens
    )
    references = read_references(data, gold_field=gold_field)
    ids = texts_of([question.id for question in asking.questions], "accuracy")
    at = dict(zip(ids, zip(asking.questions, references, strict=True), strict=True))
    how = {"extraction": extraction, "equivalence": equivalence, "seconds": judge_seconds}

    def measure(model: Any, tokenizer: Any, wanted: Sequence[str]) -> list[Scored]:
        questions, golds = zip(*(at[key] for key in wanted), strict=True)
        answers = asking.answers(model, tokenizer, questions)
        rows = [
            {"id": key, "sample": sample, "response": answer.response}
            for key, found in answers.items()
            for sample, answer in enumerate(found)
        ]
        shares = grade(rows, list(golds), **how).shares
        return [
            scored(key, shares[question.id], answers[question.id])
            for key, question in zip(wanted, questions, strict=True)
        ]

    return Metric(
        name="accuracy",
        ids=ids,
        asked=tuple(hash_of(question.shown()) for question in asking.questions),
        data=hash_of([[key, question.shown(), reference.gold] for key, (question, reference) in at.items()]),
        measure=measure,
        settings={"extraction": extraction, "equivalence": equivalence, "gold_field": gold_field, **asking.record()},
        generates=True,
    )
