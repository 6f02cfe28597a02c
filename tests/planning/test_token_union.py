"""A union keeps what base's tokenizer does, and gives every token of every input its row and its text."""

import json

import pytest
from tiny_tokenizers import EMBED, ENGLISH, GERMAN, KINDS, byte_level, model, numbered, piece_bpe, unigram, with_added
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from expo.output.sidecars import copy_side_files, hash_file
from expo.output.tokenizer import is_tokenizer_file, write_tokenizer
from expo.planning.tokenizer import with_tokenizer
from expo.recipe.tokenizer import TokenizerSpec

CHATML = ("<|im_start|>", "<|im_end|>")


def union(tmp_path, *tokenizers, **files):
    """(the output's tokenizer as the library loads it, the plan) of models A, B, ..."""
    inputs = {
        name: model(tmp_path / name, tokenizer, side_files=files.get(name, {}))
        for name, tokenizer in zip("ABC", tokenizers, strict=False)
    }
    plan = with_tokenizer(TokenizerSpec("union"), inputs, "A")
    assert not plan.problems, plan.problems
    output = written(inputs["A"], plan, tmp_path / "out")
    return Tokenizer.from_file(str(output / "tokenizer.json")), plan


def written(donor, plan, target):
    """The donor's side files, then the output's tokenizer, as a run writes them; their hashes must be true."""
    target.mkdir()
    source = donor.source
    hashes = copy_side_files(source.side_files, source.folder, target, dtype=None, do_sample=False)
    hashes = write_tokenizer(plan.files, target, hashes)
    assert hashes == {path.name: hash_file(path) for path in target.iterdir()}
    return target


def refused(tmp_path, *tokenizers, **more):
    inputs = {
        name: model(tmp_path / name, tokenizer, **more) for name, tokenizer in zip("ABC", tokenizers, strict=False)
    }
    (problem,) = with_tokenizer(TokenizerSpec("union"), inputs, "A").problems
    assert "source: base" in problem
    return problem


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_keeps_its_text_and_base_texts_their_ids(kind, tmp_path):
    build = KINDS[kind]
    ours, theirs = build(added=CHATML[:1]), build(ENGLISH + GERMAN, 320 if build is byte_level else 90, added=CHATML)
    output, plan = union(tmp_path, ours, theirs)
    vocab = output.get_vocab()
    assert vocab == plan.rows and vocab.items() >= ours.get_vocab().items() and set(theirs.get_vocab()) <= set(vocab)
    assert sorted(vocab.values()) == list(range(len(vocab)))
    for source in (ours, theirs):
        for token, row in source.get_vocab().items():
            decoded = output.decode([vocab[token]], skip_special_tokens=False)
            assert decoded == source.decode([row], skip_special_tokens=False)
            assert output.id_to_token(vocab[token]) == token
    for text in [*ENGLISH, "the hat", "<|im_start|>the cat on the mat<|im_start|>"]:
        assert output.encode(text).ids == ours.encode(text).ids


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_an_extended_vocabulary_are_cut_as_there(kind, tmp_path):
    """The other tokenizer is base's with more of its kind: what a vocabulary extension for a language makes."""
    build = KINDS[kind]
    ours = build(GERMAN, 275 if build is byte_level else 40)
    theirs = build(GERMAN, 300 if build is byte_level else 70, added=CHATML)
    output, _ = union(tmp_path, ours, theirs)
    for text in [*GERMAN, "<|im_start|>hunde und maeuse<|im_end|>"]:
        found, expected = output.encode(text), theirs.encode(text)
        # Pieces of a Unigram compete by score, and base's spelling wins.
        assert found.tokens == expected.tokens or kind == "Unigram"
        ends = [
            tokenizer.decode(each.ids, skip_special_tokens=False)
            for tokenizer, each in ((output, found), (theirs, expected))
        ]
        assert ends[0] == ends[1]


def test_a_unigrams_new_pieces_spell_what_base_cannot(tmp_path):
    output, plan = union(tmp_path, unigram(ENGLISH), unigram(["ж жу жук", "жук жу"], 20))
    new = [token for token in plan.rows if "ж" in token]
    found = output.encode("the cat жук")
    assert set(found.tokens) & set(new) and "<unk>" not in found.tokens


@pytest.mark.parametrize("kind", KINDS)
def test_added_tokens_alone_change_nothing_but_the_list(kind, tmp_path):
    build = KINDS[kind]
    output, _ = union(tmp_path, build(added=["<s>"]), build(added=["<pad>", "<s>"]), build(added=CHATML))
    before, after = (json.loads((tmp_path / name / "tokenizer.json").read_text()) for name in ("A", "out"))
    assert after["added_tokens"][:-3] == before["added_tokens"]
    n = before["added_tokens"][-1]["id"]
    new = {token["content"]: token["id"] for token in after["added_tokens"][-3:]}
    assert new == {"<pad>": n + 1, CHATML[0]: n + 2, CHATML[1]: n + 3}
    assert {**after, "added_tokens": 0} == {**before, "added_tokens": 0}
    text = f"{CHATML[0]}the cat<pad>{CHATML[1]}"
    assert output.encode(text).tokens[0] == CHATML[0] and output.encode(text).tokens[-2:] == ["<pad>", CHATML[1]]


def test_equal_tokenizers_make_a_union_byte_for_byte(tmp_path):
    _, plan = union(tmp_path, byte_level(), byte_level(), A={"tokenizer_config.json": '{"a":1}'})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "A" / name).read_bytes()
    assert not plan.files.written and not plan.files.settings


def test_a_smaller_vocabulary_adds_nothing(tmp_path):
    _, plan = union(tmp_path, byte_level(size=290, added=CHATML), byte_level(size=270))
    assert not plan.files.written
    assert plan.inputs["B"].tensors[EMBED].shape == plan.inputs["A"].tensors[EMBED].shape


def test_how_an_added_token_is_matched_is_its_owners(tmp_path):
    plain = byte_level()
    plain.add_tokens([AddedToken("tool call", lstrip=True, normalized=False)])
    output, plan = union(tmp_path, byte_level(added=["<s>"]), plain)
    found = output.get_added_tokens_decoder()[plan.rows["tool call"]]
    assert (found.lstrip, found.special, found.normalized) == (True, False, False)


def test_added_tokens_that_only_tokenizer_config_lists_are_counted_in(tmp_path):
    ours = byte_level(added=["<s>"])
    listed = {"added_tokens_decoder": {str(ours.token_to_id("<s>") + 1): {"content": "<x>", "special": True}}}
    output, plan = union(
        tmp_path, ours, byte_level(added=["<y>"]), A={"tokenizer_config.json": json.dumps(listed, indent=1)}
    )
    assert output.token_to_id("<x>") + 1 == output.token_to_id("<y>") == plan.rows["<y>"]
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert list(config["added_tokens_decoder"]) == [str(plan.rows["<x>"]), str(plan.rows["<y>"])]
    assert config["added_tokens_decoder"][str(plan.rows["<y>"])]["special"] is True


def test_files_that_repeat_the_vocabulary_follow_it(tmp_path):
    ours, theirs = byte_level(added=["<s>"]), byte_level(ENGLISH + GERMAN, 300, added=["<e>"])
    table = json.loads(ours.to_str())["model"]
    merges = [" ".join(merge) for merge in table["merges"]]
    files = {
        "vocab.json": json.dumps(table["vocab"]),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "added_tokens.json": json.dumps({"<s>": ours.token_to_id("<s>")}),
        "special_tokens_map.json": '{"eos_token": "<s>"}',
        "tokenizer.model": b"pieces",
    }
    _, plan = union(tmp_path, ours, theirs, A=files)
    out = tmp_path / "out"
    vocab = json.loads((out / "vocab.json").read_text())
    assert vocab == {token: row for token, row in plan.rows.items() if token not in ("<s>", "<e>")}
    assert json.loads((out / "added_tokens.json").read_text()) == {token: plan.rows[token] for token in ("<s>", "<e>")}
    after = (out / "merges.txt").read_text().splitlines()[1:]
    assert after[: len(merges)] == merges and len(after) > len(merges)
    assert after == [" ".join(merge) for merge in json.loads((out / "tokenizer.json").read_text())["model"]["merges"]]
    assert (out / "special_tokens_map.json").read_text() == files["special_tokens_map.json"]
    assert not (out / "tokenizer.model").exists() and any("tokenizer.model" in note for note in plan.notes)


def test_a_sentencepiece_file_stays_where_only_added_tokens_are_new(tmp_path):
    union(tmp_path, piece_bpe(), piece_bpe(added=CHATML), A={"tokenizer.model": b"pieces"})
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == b"pieces"


def test_merges_written_as_text_stay_text(tmp_path):
    ours, theirs = json.loads(byte_level().to_str()), json.loads(byte_level(ENGLISH + GERMAN, 300).to_str())
    ours["model"]["merges"] = [" ".join(merge) for merge in ours["model"]["merges"]]
    inputs = {
        "A": model(tmp_path / "A", json.dumps(ours), tensors={EMBED: numbered(280)}),
        "B": model(tmp_path / "B", json.dumps(theirs), tensors={EMBED: numbered(300)}),
    }
    plan = with_tokenizer(TokenizerSpec("union"), inputs, "A")
    merges = json.loads(plan.files.written["tokenizer.json"])["model"]["merges"]
    assert all(isinstance(merge, str) for merge in merges) and len(merges) > len(ours["model"]["merges"])


def test_another_normaliser_or_pre_tokeniser_is_told(tmp_path):
    other = byte_level(added=["<x>"])
    other.normalizer = normalizers.NFC()
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    output, plan = union(tmp_path, byte_level(), other)
    assert any("B differs from A in normalizer and pre_tokenizer" in note for note in plan.notes)
    assert output.normalizer is None


# --- What no one tokenizer can be -------------------------------------------------------------------------------------


def test_tokenizers_of_different_kinds_are_refused(tmp_path):
    problem = refused(tmp_path / "1", byte_level(), unigram())
    assert "BPE, byte-level" in problem and "Unigram" in problem
    problem = refused(tmp_path / "2", piece_bpe(), byte_level())
    assert "with byte fallback" in problem and "byte-level" in problem


def test_a_tokenizer_without_tokenizer_json_is_refused_by_name(tmp_path):
    vocab = {"vocab.json": json.dumps({"a": 0, "zzz": 1})}
    inputs = {
        "A": model(tmp_path / "A", byte_level()),
        "B": model(tmp_path / "B", None, tensors={EMBED: numbered(2)}, side_files=vocab),
    }
    (problem,) = with_tokenizer(TokenizerSpec("union"), inputs, "A").problems
    assert "B has vocab.json and no tokenizer.json" in problem and "save_pretrained" in problem
    assert not with_tokenizer(TokenizerSpec("base"), inputs, "A").problems
    assert not with_tokenizer(TokenizerSpec("B"), inputs, "A").problems


def test_ids_that_cannot_be_written_are_refused_before_anything_is(tmp_path):
    holed = json.loads(unigram(added=["<s>"]).to_str())
    holed["added_tokens"][-1]["id"] += 3
    tensors = {EMBED: numbered(60)}
    inputs = {
        "A": model(tmp_path / "A", json.dumps(holed), tensors=tensors),
        "B": model(tmp_path / "B", unigram(ENGLISH + GERMAN, 50)),
    }
    (problem,) = with_tokenizer(TokenizerSpec("union"), inputs, "A").problems
    assert "leave out ids" in problem


# --- Files of one model's tokenizer -----------------------------------------------------------------------------------


def test_with_a_models_source_its_files_arrive_byte_for_byte_and_the_donors_go(tmp_path):
    ours = {"tokenizer_config.json": "{}", "tokenizer.model": b"pieces", "chat_template.jinja": "a", "LICENSE": "A"}
    theirs = {"tokenizer_config.json": '{"x": 1}\r\n', "merges.txt": "m", "additional_chat_templates/tool.jinja": "t"}
    inputs = {
        "A": model(tmp_path / "A", byte_level(), side_files=ours),
        "B": model(tmp_path / "B", with_added(byte_level(), ["<x>"]), side_files=theirs),
    }
    plan = with_tokenizer(TokenizerSpec("B"), inputs, "A")
    target = tmp_path / "out"
    target.mkdir()
    source = inputs["A"].source
    hashes = copy_side_files(source.side_files, source.folder, target, dtype=None, do_sample=False)
    hashes = write_tokenizer(plan.files, target, hashes)
    assert set(hashes) == {"config.json", "LICENSE", "tokenizer.json", *theirs}
    for name, digest in hashes.items():
        assert hash_file(target / name) == digest
        if is_tokenizer_file(name):
            assert (target / name).read_bytes() == (tmp_path / "B" / name).read_bytes()
    assert not (target / "tokenizer.model").exists() and not (target / "chat_template.jinja").exists()
    assert json.loads((target / "config.json").read_text())["vocab_size"] == plan.vocab_size
    assert (target / "LICENSE").read_text() == "A"


def test_with_source_base_and_base_as_donor_no_byte_changes(tmp_path):
    files = {"tokenizer_config.json": '{"x": 1}\r\n', "chat_template.jinja": "t"}
    inputs = {
        "A": model(tmp_path / "A", byte_level(), side_files=files, padding=7),
        "B": model(tmp_path / "B", byte_level(GERMAN)),
    }
    out = written(inputs["A"], with_tokenizer(TokenizerSpec("base"), inputs, "A"), tmp_path / "out")
    for name in [*files, "config.json", "tokenizer.json"]:
        assert (out / name).read_bytes() == (tmp_path / "A" / name).read_bytes()
