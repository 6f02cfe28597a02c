"""The embedded task, running sums modulo 10: its questions, its tokenizer, its tiny Llamas, and how they learn.

A question is `3+1+4+7+5=`, its answer the running sums `3,4,8,5,0`; the last one, 0, is what is scored. It knows
nothing of files beyond `save` and nothing of the command line. Everything here is decided by its seeds.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

VOCABULARY = ("<pad>", "<eos>", *"0123456789+=,")
SPLITS = {"train": range(0, 8), "validation": range(8, 9), "test": range(9, 10)}  # tenths of all questions
MAX_TERMS = 7  # 10 million questions of that length are listed in 80 MB


class Size(NamedTuple):
    """How large a tiny Llama is."""

    width: int
    layers: int


WEAK = Size(width=48, layers=2)  # 57 thousand parameters
STRONG = Size(width=64, layers=3)  # 148 thousand parameters


class Example(NamedTuple):
    """One question with the completion to learn."""

    prompt: str
    completion: str


# --- The task --------------------------------------------------------------------------------------------------------


def solve(terms: Sequence[int]) -> Example:
    """The question of `terms` and its true running sums modulo 10."""
    sums, total = [], 0
    for term in terms:
        total = (total + term) % 10
        sums.append(str(total))
    return Example("+".join(map(str, terms)) + "=", ",".join(sums))


def answer(completion: str) -> str:
    """The scored part of a completion: what stands behind the last comma."""
    return completion.rsplit(",", 1)[-1]


def draw(n_terms: int, count: int, split: str, seed: int) -> list[Example]:
    """`count` different solved questions of `n_terms` numbers from one split, the same for the same seed.

    Which split a question belongs to is a property of the question, never of the seed: whatever is drawn from two
    splits, by whatever seeds, has no question in common. Eight tenths of all questions are for training, one tenth
    each for validation and test. Raises ValueError where the split holds fewer than `count`.
    """
    if not 1 <= n_terms <= MAX_TERMS:
        raise ValueError(f"n_terms is {n_terms}; a question has 1 to {MAX_TERMS} numbers")
    numbers = torch.arange(10**n_terms)
    tenths = SPLITS[split]
    tenth = _scatter(numbers) % 10
    pool = numbers[(tenth >= tenths.start) & (tenth < tenths.stop)]
    if count > len(pool):
        raise ValueError(f"{split} has {len(pool)} questions of {n_terms} numbers, and {count} were asked for")
    generator = torch.Generator().manual_seed(seed)
    chosen = pool[torch.randperm(len(pool), generator=generator)[:count]]
    return [solve([int(digit) for digit in f"{number:0{n_terms}d}"]) for number in chosen.tolist()]


def _scatter(numbers: Tensor) -> Tensor:
    """A fixed integer hash, so that a split is no arithmetic pattern in the digits."""
    mixed = numbers * 2654435761 % 2**32
    mixed = (mixed ^ (mixed >> 15)) * 2246822519 % 2**32
    return mixed ^ (mixed >> 13)


# --- Tokenizer and models --------------------------------------------------------------------------------------------


def build_tokenizer():
    """A character-level PreTrainedTokenizerFast that saves and loads like any other."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<pad>")


def build_model(size: Size, seed: int):
    """A new float32 Llama of that size with random weights, the same for the same seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=size.width,
        intermediate_size=size.width * 8 // 3,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.1,  # with the usual 0.02 models this small stay at chance for 700 steps
        bos_token_id=None,
        eos_token_id=VOCABULARY.index("<eos>"),
        pad_token_id=VOCABULARY.index("<pad>"),
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def save(model, tokenizer, folder: Path) -> None:
    """An ordinary checkpoint folder: weights in the model's own type, config, tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# --- Learning --------------------------------------------------------------------------------------------------------


def train(
    model,
    tokenizer,
    examples: Sequence[Example],
    *,
    steps: int,
    lr: float,
    batch_size: int = 64,
    seed: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> list[float]:
    """Teach `model` the completions in place; the loss of every step.

    AdamW with a linear warm-up over the first tenth and a linear decay to zero; batches in an order decided by
    `seed`; `progress` is called after each step.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _slope(step, steps))
    losses = []
    model.train()
    with one_thread():
        batches = _batches(tokenizer, examples, batch_size, seed)
        for _, (tokens, labels) in zip(range(steps), batches, strict=False):
            logits = model(tokens).logits[:, :-1]  # (batch, length - 1, vocabulary)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            progress()
    model.eval()
    return losses


def _slope(step: int, steps: int) -> float:
    warm_up = max(1, steps // 10)
    return min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up))


def _batches(tokenizer, examples: Sequence[Example], batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (tokens, labels), both (batch, length); only a completion and its end have labels."""
    rows = [tokenizer(list(column), add_special_tokens=False)["input_ids"] for column in zip(*examples, strict=True)]
    width = max(len(prompt) + len(completion) + 1 for prompt, completion in zip(*rows, strict=True))
    # Padding is on the right, behind everything a causal model looks at: no attention mask is needed.
    tokens = torch.full((len(examples), width), tokenizer.pad_token_id)
    labels = torch.full((len(examples), width), -100)
    for i, (prompt, completion) in enumerate(zip(*rows, strict=True)):
        taught = torch.tensor([*completion, tokenizer.eos_token_id])
        here = slice(len(prompt), len(prompt) + len(taught))
        tokens[i, : len(prompt)] = torch.tensor(prompt)
        tokens[i, here] = labels[i, here] = taught
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(examples), generator=generator)
        for piece in order.split(batch_size):
            yield tokens[piece], labels[piece]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: as quick for matrices this small, and no result depends on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- Answering -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def complete(model, tokenizer, prompts: Sequence[str], *, max_new_tokens: int = 32, cache: bool = True) -> list[str]:
    """What `model` writes behind each prompt, greedily, up to the end token or `max_new_tokens`."""
    texts = [""] * len(prompts)
    by_length: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(i)
    model.eval()
    with one_thread():
        for members in by_length.values():  # prompts of one length need no padding
            tokens = tokenizer([prompts[i] for i in members], return_tensors="pt")["input_ids"]
            written = _greedy(model, tokens, tokenizer.eos_token_id, max_new_tokens, cache)
            for i, row in zip(members, written.tolist(), strict=True):
                end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
                texts[i] = tokenizer.decode(row[:end])
    return texts


def _greedy(model, tokens: Tensor, eos: int, max_new_tokens: int, cache: bool) -> Tensor:
    start = tokens.shape[1]
    past, unread = None, tokens
    done = torch.zeros(len(tokens), dtype=torch.bool)
    while tokens.shape[1] < start + max_new_tokens and not done.all():
        out = model(unread, past_key_values=past, use_cache=cache)
        chosen = out.logits[:, -1].argmax(-1, keepdim=True)  # (batch, 1)
        tokens = torch.cat([tokens, chosen], dim=1)
        past, unread = (out.past_key_values, chosen) if cache else (None, tokens)
        done |= chosen[:, 0] == eos
    return tokens[:, start:]


def grade(model, tokenizer, examples: Sequence[Example]) -> Tensor:
    """Whether `model` answers each question: a bool for each example, in their order."""
    written = complete(model, tokenizer, [example.prompt for example in examples])
    right = [answer(text) == answer(example.completion) for text, example in zip(written, examples, strict=True)]
    return torch.tensor(right, dtype=torch.bool)


# --- How sure one can be ---------------------------------------------------------------------------------------------

Z = 1.959964  # 95 % of a normal distribution lies within this many standard deviations


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of an accuracy of `correct` in `n`."""
    share, z2 = correct / n, Z * Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return middle - half, middle + half


def paired_difference(before: Tensor, after: Tensor) -> tuple[float, float, float]:
    """Mean of after - before over the same questions, with its 95 % interval."""
    change = after.double() - before.double()  # (n,) of -1, 0, 1
    mean = change.mean().item()
    half = Z * (change.std() / math.sqrt(len(change))).item()
    return mean, mean - half, mean + half
