"""Tokenizers of a few dozen tokens, trained by the `tokenizers` library, and checkpoints that have them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pico import write_checkpoint
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import expo

ENGLISH = ["the cat sat on the mat", "the hat of the cat", "a cat and a hat on that mat"]
GERMAN = ["die katze und der hund", "der hund und die maus", "hunde und katzen und maeuse"]
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def byte_level(texts: Sequence[str] = ENGLISH, size: int = 280, added: Sequence[str] = ()) -> Tokenizer:
    """A byte-level BPE, as GPT-2, Llama 3 and Qwen have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained(tokenizer, texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    return with_added(tokenizer, added)


def piece_bpe(texts: Sequence[str] = ENGLISH, size: int = 60, added: Sequence[str] = ()) -> Tokenizer:
    """A BPE over characters with byte fallback, as Llama 2 has it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trained(tokenizer, texts, trainers.BpeTrainer(vocab_size=size, special_tokens=["<unk>"], show_progress=False))
    return with_added(tokenizer, added)


def unigram(texts: Sequence[str] = ENGLISH, size: int = 40, added: Sequence[str] = ()) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    settings = {"special_tokens": ["<unk>"], "unk_token": "<unk>", "show_progress": False}
    trained(tokenizer, texts, trainers.UnigramTrainer(vocab_size=size, **settings))
    return with_added(tokenizer, added)


def word_piece(texts: Sequence[str] = ENGLISH, size: int = 60, added: Sequence[str] = ()) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    trained(tokenizer, texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=["[UNK]"], show_progress=False))
    return with_added(tokenizer, added)


KINDS = {"byte-level BPE": byte_level, "piece BPE": piece_bpe, "Unigram": unigram, "WordPiece": word_piece}


def trained(tokenizer: Tokenizer, texts: Sequence[str], trainer) -> None:
    tokenizer.train_from_iterator(texts, trainer)


def with_added(tokenizer: Tokenizer, added: Sequence[str]) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    return tokenizer


def n_ids(tokenizer: Tokenizer) -> int:
    """The number of rows that a tokenizer's ids need."""
    return 1 + max(tokenizer.get_vocab().values())


def numbered(n_rows: int, width: int = 2, first: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows that tell where they come from: row r holds first + r, and fractions of it."""
    return (first + torch.arange(n_rows).unsqueeze(1) + torch.arange(width) / 8).to(dtype)


def model(
    folder: Path,
    tokenizer: Tokenizer | str | None,
    *,
    padding: int = 0,
    first: int = 0,
    dtype: torch.dtype = torch.float32,
    tensors: Mapping[str, torch.Tensor] | None = None,
    config: dict | None = None,
    side_files: Mapping[str, str | bytes] = {},
):
    """An opened checkpoint whose embedding has a numbered row for each id of `tokenizer`, then `padding` more."""
    text = tokenizer.to_str() if isinstance(tokenizer, Tokenizer) else tokenizer
    if tensors is None:
        n_rows = n_ids(tokenizer) + padding
        tensors = {EMBED: numbered(n_rows, first=first, dtype=dtype), "model.norm.weight": torch.ones(2)}
    n_rows = len(next(iter(tensors.values())))
    config = {"model_type": "llama", "vocab_size": n_rows} if config is None else config
    files = {"tokenizer.json": text, **side_files} if text is not None else side_files
    return expo.open_checkpoint(write_checkpoint(folder, dict(tensors), config=config, side_files=files))


def word_level(tokens: Mapping[str, int], added: Mapping[str, int] = {}) -> str:
    """tokenizer.json of a tokenizer that knows whole words: the ids are the test's own."""
    entries = [{"id": row, "content": token, "special": True} for token, row in added.items()]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [{**flags, **entry} for entry in entries],
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {"type": "WordLevel", "vocab": dict(tokens), "unk_token": next(iter(tokens))},
        }
    )
