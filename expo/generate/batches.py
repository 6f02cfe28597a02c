"""Which answers are written together: prompts of like length, as many as the cache has room for."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from expo.generate.prompts import Question

_ON_CPU = 16_384  # tokens in the cache
_MOST_ROWS = 512
_SHARE = 0.6  # of the device's free memory that the cache may take


class Task(NamedTuple):
    """One answer to write: at most `limit` tokens after `tokens`; `full` where the window sets that limit."""

    question: Question
    sample: int
    tokens: tuple[int, ...]
    limit: int
    full: bool


def batches(tasks: Sequence[Task], batch_tokens: int, *, padded: bool = True) -> list[list[Task]]:
    """The tasks in batches, the longest first, so that what does not fit shows at once.

    A batch's rows times its longest prompt and answer stay within `batch_tokens`, one row always fits.
    padded=False keeps prompts of different length apart.
    """
    ordered = sorted(enumerate(tasks), key=lambda item: (-len(item[1].tokens), item[0]))
    found: list[list[Task]] = []
    longest = 0
    for _, task in ordered:
        length = len(task.tokens) + task.limit
        batch = found[-1] if found else []
        longest = max(longest, length)
        fits = (len(batch) + 1) * longest <= batch_tokens and len(batch) < _MOST_ROWS
        if batch and fits and (padded or len(batch[0].tokens) == len(task.tokens)):
            batch.append(task)
        else:
            found.append([task])
            longest = length
    return found


def default_batch_tokens(models: Sequence[Any]) -> int:
    """Tokens that each device's free memory holds in its models' caches, or a figure that suits a CPU."""
    import torch

    n_bytes: dict[Any, int] = {}
    for model in models:
        device = next(model.parameters()).device
        if device.type == "cuda":
            n_bytes[device] = n_bytes.get(device, 0) + _bytes_of_one_token(model)
    room = [torch.cuda.mem_get_info(device)[0] * _SHARE / taken for device, taken in n_bytes.items()]
    return max(_ON_CPU, int(min(room))) if room else _ON_CPU


def _bytes_of_one_token(model: Any) -> int:
    """Keys and values of all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize
