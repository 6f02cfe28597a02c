"""Teacher forcing: what a language model says of each token of given answers, the true tokens before it.

The tokens are those that `expo train sft` teaches, the end token included, so that weights can be given to each.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from expo.weak_to_strong.errors import BoostingError

_LOGITS = 1 << 26  # at a time: 256 MiB of them in float32
_SMALL = 5_000_000  # parameters below which threads only wait for each other


class Forced(NamedTuple):
    """One entry for each token of all answers, row after row; `rows` are the positions of the rows that were kept."""

    rows: list[int]
    lengths: list[int]  # tokens of each kept row's answer
    wrong: NDArray[np.bool_]  # whether another token is likelier
    shares: NDArray[np.float64]  # the probability of the true token
    vocabulary: int

    def by_row(self, values: NDArray) -> list[NDArray]:
        """Values of tokens, cut into rows."""
        return np.split(values, np.cumsum(self.lengths)[:-1])


def forced(model: Any, rows: Sequence[Mapping[str, Any]], settings: Any, device: str = "auto") -> Forced:
    """Read {prompt, completion} rows with `model`, a folder, a Hub id or what expo.generate.load returned.

    settings: the SftSettings that the model is trained with; they decide what is a token of the answer, and whether
    long rows are an error or left out. Raises what encoding and loading raise.
    """
    import torch

    from expo.generate import load
    from expo.ops import one_thread

    local = load(model, device=device)
    taught, kept = _encoded(local, rows, settings)
    vocabulary = local.config.get_text_config().vocab_size
    small = local.model.num_parameters() < _SMALL
    wrong: list = [None] * len(taught)
    shares: list = [None] * len(taught)
    with torch.inference_mode(), one_thread() if small else nullcontext():
        for batch in batches_of([len(one.ids) for one in taught], max(1, _LOGITS // vocabulary)):
            for at, (missed, share) in zip(batch, _read(local, [taught[i] for i in batch]), strict=True):
                wrong[at], shares[at] = missed, share
    lengths = [len(one) for one in wrong]
    return Forced(kept, lengths, np.concatenate(wrong), np.concatenate(shares), vocabulary)


def _encoded(local: Any, rows: Sequence[Mapping], settings: Any) -> tuple[list, list[int]]:
    """Taught rows, and the positions of those that fit."""
    from expo.train.encode import Limits, encode_completions
    from expo.train.rows import Completion

    most = min(found for found in (settings.max_length, local.context, 1 << 30) if found)
    told = [Completion(str(i), row["prompt"], row["completion"]) for i, row in enumerate(rows)]
    limits = Limits(most, settings.too_long, local.context)
    how = {"chat": settings.chat, "end_token": settings.end_token}
    taught = encode_completions(local.tokenizer, told, limits, **how).rows
    return taught, [int(one.where) for one in taught]


def batches_of(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Positions of rows of like length, so many together that rows times the longest stay within `most` tokens."""
    batch: list[int] = []
    for at in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > most:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def _read(local: Any, taught: Sequence[Any]) -> Iterator[tuple[NDArray, NDArray]]:
    """(wrong, probability of the true token) of each answer's tokens."""
    import torch

    from expo.train.exact import lengths_mask, pad
    from expo.train.load import filler_of

    ids = pad([one.ids for one in taught], filler_of(local.tokenizer), torch.int64).to(local.model.device)
    mask = lengths_mask([one.ids for one in taught]).to(ids.device)
    logits = local.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    likeliest = logits.argmax(-1)  # (rows, length - 1)
    true = logits.gather(-1, ids[:, 1:, None])[..., 0] - logits.logsumexp(-1)
    if not torch.isfinite(true[mask[:, 1:].bool()]).all():
        raise BoostingError(f"{local.label}: its probabilities are not finite. Look at it: expo inspect.")
    missed, shares = (likeliest != ids[:, 1:]).cpu().numpy(), true.double().exp().cpu().numpy()
    for row, one in enumerate(taught):
        span = slice(one.n_prompt - 1, len(one.ids) - 1)  # entry i belongs to the token i + 1
        yield missed[row, span], shares[row, span]
