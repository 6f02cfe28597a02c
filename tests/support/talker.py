"""A tiny model that reads and writes bytes: random weights, a chat template, and answers that vary."""

import json
from pathlib import Path

import torch

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
QUESTIONS = [{"id": f"q{i}", "prompt": "ab" * i + f" {i * 37 % 11}="} for i in range(1, 12)]


def build_tokenizer(*, chat: bool = True):
    """One token a byte, and an end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<end>": 0, **{letter: i for i, letter in enumerate(alphabet, start=1)}}
    core = Tokenizer(models.BPE(vocabulary, [], unk_token=None))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = TEMPLATE if chat else None
    return tokenizer


def build_model(seed: int = 0, *, window: int = 128, ends: bool = True):
    """A float32 Llama of a few thousand parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=window, initializer_range=0.3,
        bos_token_id=None, eos_token_id=0 if ends else None, pad_token_id=0,
    )  # fmt: skip
    return _seeded(LlamaForCausalLM, config, seed)


def build_sliding(seed: int = 0):
    """A Mistral that sees its last 6 tokens only."""
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=257, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, sliding_window=6, initializer_range=0.3,
        bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return _seeded(MistralForCausalLM, config, seed)


def build_learned(seed: int = 0):
    """A GPT-2, whose positions are learnt."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=257, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3,
        bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return _seeded(GPT2LMHeadModel, config, seed)


def _seeded(kind, config, seed: int):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(config).float().eval()


def save(folder: Path, seed: int = 0, *, chat: bool = True, window: int = 128) -> Path:
    """An ordinary checkpoint folder."""
    build_model(seed, window=window).save_pretrained(folder)
    build_tokenizer(chat=chat).save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows) -> Path:
    """A JSONL file of these rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> list[dict]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]
