"""margin: log p(chosen) - log p(rejected) of preference pairs, summed over tokens or averaged over each side's.

The sum is what DPO's loss pushes up, the average what IPO's and ORPO's do. No reference model takes part: it would
subtract the same number from a pair's margin under every alpha.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expo.evaluate.metrics.metric import Metric, Scored, hash_of
from expo.evaluate.metrics.named import named_rows


def margin(
    data: str | Path | Sequence[Mapping],
    *,
    per_token: bool = False,
    chat: bool | None = None,
    batch_tokens: int | None = None,
) -> Metric:
    """Rows: prompt/chosen/rejected, or instruction/output of [chosen, rejected], as for `expo train dpo`.

    per_token: the difference of the averages a token, which does not grow with length.
    chat: plain prompts become a user's message. batch_tokens: of a batch; it changes no score beyond the last bits.
    Raises TrainError.
    """
    from expo.train.rows import pairs

    ids, rows = named_rows(data, pairs, "margin")
    at = dict(zip(ids, rows, strict=True))

    def measure(model: Any, tokenizer: Any, asked: Sequence[str]) -> list[Scored]:
        from expo.evaluate.metrics.logps import completion_logps, limits_of
        from expo.train.encode import check_template, encode_pairs

        wanted = [at[key] for key in asked]
        check_template(tokenizer, wanted, bool(chat), "the model")
        encoded = encode_pairs(tokenizer, wanted, limits_of(model), chat=bool(chat)).rows
        sides = [side for pair in encoded for side in (pair.chosen, pair.rejected)]
        found = completion_logps(model, tokenizer, sides, batch_tokens)
        values = [one.total / one.tokens if per_token else one.total for one in found]
        margins = [chosen - rejected for chosen, rejected in zip(values[::2], values[1::2], strict=True)]
        return [Scored(key, value) for key, value in zip(asked, margins, strict=True)]

    return Metric(
        name="margin:per-token" if per_token else "margin",
        ids=ids,
        asked=tuple(hash_of(row.prompt) for row in rows),
        data=hash_of([[key, row.prompt, row.chosen, row.rejected] for key, row in at.items()]),
        measure=measure,
        settings={"chat": bool(chat)},
    )
