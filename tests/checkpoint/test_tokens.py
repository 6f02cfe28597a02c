"""Tokens and their rows, from whichever files a checkpoint has; a stranger's files are refused in one line."""

import json
import re

import pytest
import torch
from pico import write_checkpoint
from tiny_tokenizers import KINDS, model

import expo
from expo.checkpoint.sentencepiece import pieces
from expo.checkpoint.tokens import read_table, read_tokens
from expo.errors import ExpoError, MissingTokenizer, UnreadableTokenizer


def opened(folder, **files):
    tensors = {"model.embed_tokens.weight": torch.zeros(4, 2)}
    names = {name.replace("__", "."): content for name, content in files.items()}
    return expo.open_checkpoint(write_checkpoint(folder, tensors, config={}, side_files=names))


def piece_model(*texts):
    """A sentencepiece model: pieces with a score and a type, then a field that is of no interest."""

    def field(number, content):
        return bytes([number << 3 | 2, len(content)]) + content

    pieces = [field(1, text.encode()) + b"\x15\x00\x00\x80\xbf" + b"\x18\x02" for text in texts]
    return b"".join(field(1, piece) for piece in pieces) + field(2, b"\x08\x01" + b"x" * 90)


@pytest.mark.parametrize("kind", KINDS)
def test_the_library_and_expo_read_the_same_ids(kind, tmp_path):
    tokenizer = KINDS[kind](added=["<|im_start|>", "<|im_end|>"])
    checkpoint = model(tmp_path, tokenizer)
    found = read_tokens(checkpoint)
    assert found.rows == tokenizer.get_vocab(with_added_tokens=True)
    assert {"<|im_start|>", "<|im_end|>"} <= set(found.added)
    assert read_table(checkpoint)["model"]["type"]


def test_without_tokenizer_json_other_files_are_read(tmp_path):
    a = opened(tmp_path / "a", vocab__json='{"x": 0, "y": 1}', added_tokens__json='{"<z>": 2, "x": 9}')
    assert read_tokens(a).rows == {"x": 0, "y": 1, "<z>": 2}
    b = opened(tmp_path / "b", vocab__txt="[PAD]\nün\r\n##s\n")
    assert read_tokens(b).rows == {"[PAD]": 0, "ün": 1, "##s": 2}
    listed = {"added_tokens_decoder": {"3": {"content": "<|end|>", "special": True}}}
    c = opened(
        tmp_path / "c", tokenizer__model=piece_model("<unk>", "▁a", "b"), tokenizer_config__json=json.dumps(listed)
    )
    assert read_tokens(c).rows == {"<unk>": 0, "▁a": 1, "b": 2, "<|end|>": 3}
    assert read_tokens(c).file == "tokenizer.model"
    assert read_tokens(c).added == {"<|end|>": {"content": "<|end|>", "special": True}}


def test_equal_tokenizers_have_equal_digests(tmp_path):
    one, two = (opened(tmp_path / name, vocab__json='{"x": 0}') for name in "ab")
    other = opened(tmp_path / "c", vocab__json='{"x": 0}', added_tokens__json='{"y": 1}')
    first = read_tokens(one)
    assert read_tokens(two).digest == first.digest != read_tokens(other).digest
    assert read_tokens(two, [read_tokens(other), first]) is first
    assert read_tokens(other, [first]).rows == {"x": 0, "y": 1}


def test_no_tokenizer_is_said_with_the_way_out(tmp_path):
    with pytest.raises(MissingTokenizer, match=r"save_pretrained"):
        read_tokens(opened(tmp_path))


BROKEN = {
    "no json": ({"tokenizer.json": "{"}, "not JSON"),
    "no model": ({"tokenizer.json": "{}"}, "no vocabulary"),
    "a list of words": ({"tokenizer.json": '{"model": {"vocab": ["a"]}}'}, "no vocabulary"),
    "id as text": ({"tokenizer.json": '{"model": {"vocab": {"a": "1"}}}'}, "not an integer"),
    "id as bool": ({"tokenizer.json": '{"model": {"vocab": {"a": true}}}'}, "not an integer"),
    "negative id": ({"tokenizer.json": '{"model": {"vocab": {"a": -1}}}'}, "no row"),
    "huge id": ({"tokenizer.json": '{"model": {"vocab": {"a": 99999999999}}}'}, "no row"),
    "token twice": ({"tokenizer.json": '{"model": {"vocab": {"a": 1, "a": 2}}}'}, "twice"),
    "nameless added": ({"tokenizer.json": '{"model": {"vocab": {}}, "added_tokens": [{"id": 1}]}'}, "added token"),
    "added without id": ({"tokenizer.json": '{"model": {"vocab": {}}, "added_tokens": [{"content": "a"}]}'}, "not an"),
    "not utf-8": ({"vocab.txt": b"\xff\xfe"}, "UTF-8"),
    "decoder": (
        {"vocab.json": "{}", "tokenizer_config.json": '{"added_tokens_decoder": {"x": {"content": "a"}}}'},
        "is no id",
    ),
    "no sentencepiece": ({"tokenizer.model": b"version https://git-lfs.github.com/spec/v1\n"}, "not a sentencepiece"),
    "empty sentencepiece": ({"tokenizer.model": b""}, "not a sentencepiece"),
    "cut sentencepiece": ({"tokenizer.model": piece_model("a", "b")[:-3]}, "not a sentencepiece"),
}


@pytest.mark.parametrize(("files", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_by_name(files, said, tmp_path):
    with pytest.raises(ExpoError, match=re.escape(said)) as caught:
        read_tokens(opened(tmp_path, **{name.replace(".", "__"): content for name, content in files.items()}))
    assert next(reversed(files)) in str(caught.value)


def test_a_sentencepiece_model_of_random_bytes_ends_in_one_error(tmp_path):
    noise = torch.Generator().manual_seed(0)
    for _ in range(500):
        with pytest.raises(UnreadableTokenizer):
            pieces(bytes(torch.randint(0, 256, (40,), generator=noise).tolist()), tmp_path / "tokenizer.model")
