"""The embedded task, running sums modulo 10: its questions, its tokenizer, its tiny Llamas, and how they learn.

A question is `31475=`, its answer the running sums `34850`; the last one, 0, is scored, the others are the scratchpad.
Knows nothing of the command line, and of files only how to save. The seeds decide everything, on any number of cores.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from expo.ops import one_thread

VOCABULARY = ("<pad>", "<eos>", "<unk>", *"0123456789=")
SPLITS = {"train": (0, 8), "validation": (8, 9), "test": (9, 10)}  # from and to, in tenths of all questions
MAX_TERMS = 7  # the 10 million questions of that length are listed in 80 MB
Z = 1.959964  # 95 % of a normal distribution lie within this many standard deviations


class Size(NamedTuple):
    """How large a tiny Llama is."""

    width: int
    layers: int


WEAK = Size(width=48, layers=2)  # 56 thousand parameters
STRONG = Size(width=64, layers=3)  # 149 thousand parameters


class Course(NamedTuple):
    """What to learn, and for how long."""

    lengths: tuple[int, ...]  # terms of its questions, an equal share of each
    steps: int
    lr: float
    batch_size: int


# Chosen on seeds 100 to 103: the base gets a third of the hard questions right, and fine-tuning stops far too early.
PRETRAINING = Course(lengths=(2, 3, 4, 5), steps=240, lr=2e-3, batch_size=128)
FINE_TUNING = Course(lengths=(5,), steps=60, lr=5e-4, batch_size=64)


class Example(NamedTuple):
    """One question with the completion to learn."""

    prompt: str
    completion: str


# --- The task --------------------------------------------------------------------------------------------------------


def solve(terms: Sequence[int]) -> Example:
    """The question of `terms` with its true running sums modulo 10."""
    sums, total = "", 0
    for term in terms:
        total = (total + term) % 10
        sums += str(total)
    return Example("".join(map(str, terms)) + "=", sums)


def answer(completion: str) -> str:
    """The scored part of a completion: its last character."""
    return completion[-1:]


def draw(n_terms: int, count: int, split: str, seed: int) -> list[Example]:
    """`count` different solved questions of `n_terms` numbers from one split, the same for the same seed.

    The split is a property of the question, never of the seed: two splits have no question in common, whatever the
    seeds. Of all questions eight tenths are for training, one tenth each for validation and test.
    Raises ValueError where the split holds fewer than `count`.
    """
    pool = _pool(n_terms, split)
    if count > len(pool):
        raise ValueError(f"{split} holds {len(pool)} questions of {n_terms} numbers; {count} were asked for")
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    return [solve([int(digit) for digit in f"{number:0{n_terms}d}"]) for number in pool[order[:count]].tolist()]


def mixture(lengths: Sequence[int], each: int, split: str, seed: int) -> list[Example]:
    """`each` solved questions of every length; a length that has fewer repeats its own."""
    examples: list[Example] = []
    for n_terms in lengths:
        different = draw(n_terms, min(each, len(_pool(n_terms, split))), split, seed)
        examples += islice(cycle(different), each)
    return examples


def available(n_terms: int, split: str) -> int:
    """How many different questions of `n_terms` numbers a split holds."""
    start, stop = _bounds(n_terms, split)
    return stop - start


def _bounds(n_terms: int, split: str) -> tuple[int, int]:
    """Where a split begins and ends among all questions of one length."""
    return tuple(tenth * 10**n_terms // 10 for tenth in SPLITS[split])


def _pool(n_terms: int, split: str) -> Tensor:
    """All questions of one length in a split, each as the decimal number that its terms spell."""
    if not 1 <= n_terms <= MAX_TERMS:
        raise ValueError(f"a question has 1 to {MAX_TERMS} numbers, not {n_terms}")
    start, stop = _bounds(n_terms, split)
    numbers = torch.arange(10**n_terms)
    # Sorted by a fixed hash without collisions, so that no split is an arithmetic pattern in the digits.
    mixed = numbers * 2654435761 % 2**32
    mixed = (mixed ^ (mixed >> 15)) * 668265261 % 2**32
    shuffled = (mixed ^ (mixed >> 13)).argsort()
    return shuffled[start:stop]


# --- Tokenizer and models --------------------------------------------------------------------------------------------


def build_tokenizer() -> Any:
    """A character-level PreTrainedTokenizerFast that saves and loads like any other."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(VOCABULARY)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def build_model(size: Size, seed: int) -> Any:
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
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).float()


def save(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Write an ordinary checkpoint folder: weights in the model's own type, config, tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# --- Learning --------------------------------------------------------------------------------------------------------


def teach(
    model: Any, tokenizer: Any, course: Course, seed: int, progress: Callable[[], object] = lambda: None
) -> list[float]:
    """Train `model` in place on a course with true answers; the loss of every step."""
    examples = mixture(course.lengths, 4000, "train", seed)
    how = {"steps": course.steps, "lr": course.lr, "batch_size": course.batch_size}
    return train(model, tokenizer, examples, **how, seed=seed, progress=progress)


def train(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    steps: int,
    lr: float,
    batch_size: int = 64,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> list[float]:
    """Train `model` in place on the completions of `examples`, true or not; the loss of every step.

    AdamW, a linear warm-up over the first tenth of the steps, then a linear decay to zero. `seed` decides the order
    of the examples; `progress` is called after each step.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    warm_up = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up))
    )
    losses = []
    model.train()
    with one_thread():
        for tokens, labels in islice(_batches(tokenizer, examples, batch_size, seed), steps):
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


def _batches(tokenizer: Any, examples: Sequence[Example], batch_size: int, seed: int) -> Iterator[tuple]:
    """Endless (tokens, labels), both (batch, length); only a completion and its end have labels."""
    prompts, completions = (tokenizer(list(column))["input_ids"] for column in zip(*examples, strict=True))
    rows = [(p, [*c, tokenizer.eos_token_id]) for p, c in zip(prompts, completions, strict=True)]
    length = max(len(prompt) + len(taught) for prompt, taught in rows)
    # Padding stands to the right of all that a causal model looks at, so no attention mask is needed.
    tokens = torch.full((len(rows), length), tokenizer.pad_token_id)
    labels = torch.full((len(rows), length), -100)
    for i, (prompt, taught) in enumerate(rows):
        here = slice(len(prompt), len(prompt) + len(taught))
        tokens[i, : len(prompt)] = torch.tensor(prompt)
        tokens[i, here] = labels[i, here] = torch.tensor(taught)
    generator = torch.Generator().manual_seed(seed)
    while True:
        for batch in torch.randperm(len(rows), generator=generator).split(batch_size):
            yield tokens[batch], labels[batch]


# --- Answering -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def complete(
    model: Any, tokenizer: Any, prompts: Sequence[str], *, max_new_tokens: int = MAX_TERMS + 1, cache: bool = True
) -> list[str]:
    """What `model` writes after each prompt, greedily, up to its end token or `max_new_tokens`."""
    texts = [""] * len(prompts)
    of_length: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        of_length.setdefault(len(prompt), []).append(i)
    model.eval()
    with one_thread():
        for members in of_length.values():  # prompts of one length need no padding
            tokens = torch.tensor(tokenizer([prompts[i] for i in members])["input_ids"])
            written = _greedy(model, tokens, tokenizer.eos_token_id, max_new_tokens, cache)
            for i, row in zip(members, written.tolist(), strict=True):
                end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
                texts[i] = tokenizer.decode(row[:end])
    return texts


def _greedy(model: Any, tokens: Tensor, eos: int, max_new_tokens: int, cache: bool) -> Tensor:
    written = tokens[:, :0]  # (batch, 0)
    ended = torch.zeros(len(tokens), dtype=torch.bool)
    past, unread = None, tokens
    while written.shape[1] < max_new_tokens and not ended.all():
        out = model(unread, past_key_values=past, use_cache=cache)
        chosen = out.logits[:, -1].argmax(-1, keepdim=True)  # (batch, 1)
        written = torch.cat([written, chosen], dim=1)
        past, unread = (out.past_key_values, chosen) if cache else (None, torch.cat([tokens, written], dim=1))
        ended |= chosen[:, 0] == eos
    return written


def grade(model: Any, tokenizer: Any, examples: Sequence[Example]) -> Tensor:
    """Whether `model` answers each question: a bool for each example, in their order."""
    written = complete(model, tokenizer, [example.prompt for example in examples])
    right = [answer(text) == answer(example.completion) for text, example in zip(written, examples, strict=True)]
    return torch.tensor(right, dtype=torch.bool)


# --- How sure one can be ---------------------------------------------------------------------------------------------


def paired_difference(before: Tensor, after: Tensor) -> tuple[float, float, float]:
    """Mean of after - before over the same questions, and the bounds of its 95 % interval."""
    change = after.double() - before.double()  # (n,) of -1, 0, 1
    mean, half = change.mean().item(), Z * change.std().item() / math.sqrt(len(change))
    return mean, mean - half, mean + half
