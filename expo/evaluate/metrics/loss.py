"""loss: the mean negative log-likelihood of an answer's tokens, for each example; lower is better.

The mean of the scores is over examples, each counted once however long its answer is. An end token after a plain
answer counts, as in training; weights that rows may have do not.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expo.evaluate.metrics.metric import Metric, Scored, hash_of
from expo.evaluate.metrics.named import named_rows


def loss(data: str | Path | Sequence[Mapping], *, chat: bool | None = None, batch_tokens: int | None = None) -> Metric:
    """Rows: prompt/completion, messages, content/output or instruction/output, as for `expo train sft`.

    chat: plain prompts become a user's message. batch_tokens: of a batch; it changes no score beyond the last bits.
    Raises TrainError.
    """
    from expo.train.rows import completions

    ids, rows = named_rows(data, completions, "loss")
    at = dict(zip(ids, rows, strict=True))

    def measure(model: Any, tokenizer: Any, asked: Sequence[str]) -> list[Scored]:
        from expo.evaluate.metrics.logps import completion_logps, limits_of
        from expo.train.encode import check_template, encode_completions

        wanted = [at[key] for key in asked]
        check_template(tokenizer, wanted, bool(chat), "the model")
        taught = encode_completions(tokenizer, wanted, limits_of(model), chat=bool(chat)).rows
        found = completion_logps(model, tokenizer, taught, batch_tokens)
        return [Scored(key, -one.total / one.tokens) for key, one in zip(asked, found, strict=True)]

    return Metric(
        name="loss",
        ids=ids,
        asked=tuple(hash_of(row.prompt) for row in rows),
        data=hash_of([[key, row.prompt, row.completion] for key, row in at.items()]),
        measure=measure,
        settings={"chat": bool(chat)},
        higher_is_better=False,
    )
