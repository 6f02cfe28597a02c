"""Vocabularies of different length: rows are matched by token where both tokenizers can be read, else by number."""

import json

import pytest
import torch
from engine import pushed, raw, recipe_of, refused_in, streamed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pico import write_checkpoint

import expo
from expo.errors import ExpoError
from expo.planning.jobs import RowRun
from expo.planning.vocabulary import row_runs, tokens

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def checkpoint(folder, tensors, **written):
    return expo.open_checkpoint(write_checkpoint(folder, tensors, **written))


def tokenizer(vocab, added=()):
    return json.dumps({"model": {"vocab": vocab}, "added_tokens": [{"content": t, "id": i} for t, i in added]})


def opened_pair(folder, ours, theirs, n_ours, n_theirs):
    files = [{"tokenizer.json": text} if text else {} for text in (ours, theirs)]
    name = "model.embed_tokens.weight"
    return (
        checkpoint(folder / "dpo", {name: torch.zeros(n_ours, 2)}, config={}, side_files=files[0]),
        checkpoint(folder / "sft", {name: torch.zeros(n_theirs, 2)}, config={}, side_files=files[1]),
        name,
    )


def sources(runs):
    """The source row of each row, None where there is none; the runs must be consecutive."""
    rows = []
    for run in runs:
        assert run.first == len(rows) and run.n_rows > 0
        rows += [None if run.source is None else run.source + k for k in range(run.n_rows)]
    return rows


def runs_of(folder, ours, theirs, n_ours, n_theirs):
    dpo, sft, name = opened_pair(folder, ours, theirs, n_ours, n_theirs)
    return row_runs(dpo.tensors[name], dpo, sft.tensors[name], sft)


def test_rows_match_by_number_where_no_tokenizer_can_be_read(tmp_path):
    assert runs_of(tmp_path / "a", None, None, 5, 3) == (RowRun(0, 3, 0), RowRun(3, 2, None))
    assert runs_of(tmp_path / "b", None, None, 3, 5) == (RowRun(0, 3, 0),)
    same = tokenizer({"a": 0, "b": 1})
    assert sources(runs_of(tmp_path / "c", same, same, 4, 3)) == [0, 1, 2, None]


def test_rows_match_by_token_where_the_tokenizers_differ(tmp_path):
    ours = tokenizer({"a": 0, "b": 1, "c": 2, "d": 3}, added=[("<pad>", 4)])
    theirs = tokenizer({"c": 0, "d": 1, "a": 2, "x": 3}, added=[("<pad>", 5), ("<far>", 9)])
    assert sources(runs_of(tmp_path, ours, theirs, 6, 6)) == [2, None, 0, 1, 5, None]


def test_a_token_whose_row_the_other_tensor_lacks_keeps_our_row(tmp_path):
    ours, theirs = tokenizer({"a": 0, "b": 1}), tokenizer({"b": 0, "a": 7})
    assert sources(runs_of(tmp_path, ours, theirs, 2, 3)) == [None, 0]


def test_a_unigram_vocabulary_is_a_list_of_pieces(tmp_path):
    ours, theirs = tokenizer([["a", 0.0], ["b", -1.0]]), tokenizer([["b", 0.0], ["c", -1.0], ["a", -2.0]])
    assert sources(runs_of(tmp_path, ours, theirs, 2, 3)) == [2, 0]


@QUICK
@given(
    st.lists(st.sampled_from("abcdefgh"), unique=True), st.lists(st.sampled_from("abcdefgh"), unique=True), st.data()
)
def test_runs_say_the_same_as_a_table_of_tokens(tmp_path_factory, ours, theirs, data):
    n_ours, n_theirs = len(ours) + data.draw(st.integers(1, 3)), len(theirs) + data.draw(st.integers(1, 3))
    texts = [tokenizer({token: row for row, token in enumerate(words)}) for words in (ours, theirs)]
    found = sources(runs_of(tmp_path_factory.mktemp("pair"), *texts, n_ours, n_theirs))
    if ours and theirs and ours != theirs:
        right = [theirs.index(t) if t in theirs else None for t in ours] + [None] * (n_ours - len(ours))
    else:
        right = [row if row < n_theirs else None for row in range(n_ours)]
    assert found == right


HOSTILE = {
    "not JSON": "{",
    "no object": "[]",
    "no vocab": '{"model": {}}',
    "vocab of a number": '{"model": {"vocab": 3}}',
    "row of text": '{"model": {"vocab": {"a": "x", "b": 1}}}',
    "row of a half": '{"model": {"vocab": {"a": 0.5, "b": 1}}}',
    "row of a list": '{"model": {"vocab": {"a": [0], "b": 1}}}',
    "row below zero": '{"model": {"vocab": {"a": -1, "b": 1}}}',
    "row of nothing": '{"model": {"vocab": {"a": null, "b": 1}}}',
    "huge row": '{"model": {"vocab": {"a": 1e400, "b": 123456789012345678901234567890}}}',
    "pieces of numbers": '{"model": {"vocab": [1, 2]}}',
    "pieces of lists": '{"model": {"vocab": [[["a"], 1]]}}',
    "added of text": '{"model": {"vocab": {"a": 0}}, "added_tokens": "xyz"}',
    "added without id": '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "b"}]}',
    "added list content": '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": ["b"], "id": 1}]}',
    "deep": '{"model": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "not UTF-8": "\udcff{}",
}


@pytest.mark.parametrize("side", ["dpo", "sft"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_tokenizer_that_cannot_be_read_never_ends_in_a_traceback(tmp_path, text, side):
    texts = {"dpo": tokenizer({"a": 0, "b": 1, "c": 2}), "sft": tokenizer({"a": 0, "b": 1, "d": 2})}
    texts[side] = text
    raw = {role: {"tokenizer.json": t.encode("utf-8", "surrogateescape")} for role, t in texts.items()}
    name = "model.embed_tokens.weight"
    for role, n in (("dpo", 4), ("sft", 3)):
        write_checkpoint(tmp_path / role, {name: torch.ones(n, 2)}, config={}, side_files=raw[role])
    recipe = expo.extrapolation(sft=tmp_path / "sft", dpo=tmp_path / "dpo", vocabulary="common-rows")
    tokens(expo.open_checkpoint(tmp_path / side))
    try:
        expo.run(expo.plan(recipe), tmp_path / "out")
    except expo.errors.ExpoError:
        return
    assert (tmp_path / "out").is_dir()


# --- policies --------------------------------------------------------------------------------------------------------


def vocabulary_pair(folder, n_sft, n_dpo, tokenizers=(None, None), dtype=torch.float32):
    made = {}
    for role, rows, text, seed in (("sft", n_sft, tokenizers[0], 0), ("dpo", n_dpo, tokenizers[1], 1)):
        noise = torch.Generator().manual_seed(seed)
        shapes = {EMBED: (rows, 3), HEAD: (rows, 3), "lm_head.bias": (rows,), "model.norm.weight": (3,)}
        made[role] = {name: (torch.randn(shape, generator=noise)).to(dtype) for name, shape in shapes.items()}
        files = {"tokenizer.json": json.dumps(text)} if text else {}
        write_checkpoint(
            folder / role, made[role], config={"vocab_size": rows, "tie_word_embeddings": False}, side_files=files
        )
    return made["sft"], made["dpo"]


@pytest.mark.parametrize("n_sft, n_dpo", [(10, 7), (7, 10)])
def test_vocabularies_of_different_length_are_refused_or_follow_the_policy(tmp_path, n_sft, n_dpo):
    sft, dpo = vocabulary_pair(tmp_path, n_sft, n_dpo)
    refused_in(
        tmp_path, "3 problems", f"({n_dpo}, 3)", f"({n_sft}, 3)", "--vocabulary common-rows", "--vocabulary keep-base"
    )
    common = streamed(recipe_of(tmp_path, vocabulary="common-rows"), tile=5)[0]
    kept = streamed(recipe_of(tmp_path, vocabulary="keep-base"))[0]
    n = min(n_sft, n_dpo)
    for name in (EMBED, HEAD, "lm_head.bias"):
        rows = torch.cat([sft[name][:n], dpo[name][n:]])
        assert common[name] == pushed(rows, dpo[name]), name
        assert kept[name] == raw(dpo[name])
    assert common["model.norm.weight"] == kept["model.norm.weight"] != raw(dpo["model.norm.weight"])


@pytest.mark.parametrize("tile", [1, 4, 7, 65_536])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_common_rows_match_by_token_when_the_tokenizers_differ(tmp_path, tile, rounding):
    ours = {"model": {"vocab": {t: i for i, t in enumerate("abcdefghij")}}}
    theirs = {
        "model": {"vocab": {t: i for i, t in enumerate("hgbcdxyza")}},
        "added_tokens": [{"content": "j", "id": 11}],
    }
    sft, dpo = vocabulary_pair(tmp_path, 12, 11, (theirs, ours), dtype=torch.bfloat16)
    out = streamed(recipe_of(tmp_path, vocabulary="common-rows", rounding=rounding), tile=tile, threads=2)[0]
    rows_of_theirs = [8, 2, 3, 4, None, None, 1, 0, None, 11, None]  # of a b c d e f g h i j and a row without a token
    for name in (EMBED, HEAD, "lm_head.bias"):
        rows = [sft[name][r] if r is not None else dpo[name][i] for i, r in enumerate(rows_of_theirs)]
        if rounding == "nearest":
            assert out[name] == pushed(torch.stack(rows), dpo[name])
        else:
            assert out[name] == streamed(recipe_of(tmp_path, vocabulary="common-rows", rounding=rounding))[0][name]
            width = len(raw(dpo[name])) // 11
            for i in (4, 5, 8, 10):
                assert out[name][i * width : (i + 1) * width] == raw(dpo[name][i])


def test_an_integer_table_of_the_vocabularys_length_is_not_read_beyond_its_end(tmp_path):
    for role, n in (("sft", 7), ("dpo", 10)):
        table = {EMBED: torch.randn(n, 3), "model.token_types": torch.arange(n)}
        write_checkpoint(tmp_path / role, table, config={"vocab_size": n})
    try:
        out = streamed(recipe_of(tmp_path, vocabulary="common-rows"))[0]
    except ExpoError as error:
        assert "model.token_types" in str(error)
    else:
        assert out["model.token_types"] == raw(torch.arange(10))


def test_tokenizers_that_give_a_row_to_different_tokens_are_warned_about(tmp_path):
    files = [
        {"tokenizer.json": json.dumps({"model": {"vocab": dict(zip(words, range(3), strict=True))}})}
        for words in ("abc", "acb")
    ]
    for role, side in zip(("sft", "dpo"), files, strict=True):
        write_checkpoint(tmp_path / role, {"w": torch.ones(2, 2)}, config={}, side_files=side)
    assert any("tokenizers disagree about 2 rows" in text for text in expo.plan(recipe_of(tmp_path)).warnings)
    for name in ("sft", "dpo"):
        (tmp_path / name / "tokenizer.json").write_text(files[0]["tokenizer.json"] + ("\n" if name == "dpo" else ""))
    assert expo.plan(recipe_of(tmp_path)).warnings == ()


def test_a_nan_in_a_row_that_was_matched_by_token_is_named_where_it_is_stored(tmp_path):
    ours, theirs = ({"model": {"vocab": {t: i for i, t in enumerate(words)}}} for words in ("ab", "xyb"))
    sft, _ = vocabulary_pair(tmp_path, 3, 2, (theirs, ours))
    sft[EMBED][2, 1] = torch.nan
    write_checkpoint(tmp_path / "sft", sft)
    with pytest.raises(ExpoError) as caught:
        streamed(recipe_of(tmp_path, vocabulary="common-rows"))
    assert f"{EMBED}[7] is nan in sft" in str(caught.value)  # row 2, column 1, of 3 columns
