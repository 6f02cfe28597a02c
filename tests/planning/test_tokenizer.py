"""Every input's embedding gets the output vocabulary's rows: each token's own, or the row that the rules give."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny_tokenizers import EMBED, HEAD, model, numbered, word_level

import expo
from expo.checkpoint import Shards
from expo.errors import RecipeError
from expo.planning.tokenizer import with_tokenizer
from expo.recipe.tokenizer import ZERO, TokenizerSpec, TokenRule, TokenSource

A = {"<unk>": 0, "a": 1, "b": 2, "c": 3}
B = {"<unk>": 0, "c": 1, "a": 2, "x": 3, "y": 4}
C = {"<unk>": 0, "x": 1, "b": 2, "z": 3}


def words(folder, tokens, *, n_rows=None, first=0, dtype=torch.float32, tensors=None, **written):
    """A model that knows whole words; row r of its embedding is [first + r, first + r + 1/8]."""
    embedding = {EMBED: numbered(n_rows or 1 + max(tokens.values()), first=first, dtype=dtype)}
    return model(folder, word_level(tokens), tensors=tensors or embedding, **written)


def three(tmp_path, **written):
    return {
        name: words(tmp_path / name, tokens, first=first, **written)
        for name, tokens, first in (("A", A, 100), ("B", B, 200), ("C", C, 300))
    }


def read(checkpoint, name=EMBED):
    """A tensor of a checkpoint with views, by the door that the engine reads through."""
    spec = checkpoint.tensors[name]
    out = bytearray(spec.n_bytes)
    with Shards(checkpoint) as shards:
        for at in range(0, len(out), 20):  # rows of 8 bytes are cut in the middle
            piece = memoryview(out)[at : at + 20]
            shards.read_into(piece, spec, at)
    return torch.frombuffer(out, dtype=getattr(torch, spec.dtype.torch_name)).view(spec.shape)


def firsts(checkpoint, name=EMBED):
    """The first number of each row: which model and which row it came from."""
    tensor = read(checkpoint, name)
    column = tensor if tensor.ndim == 1 else tensor[:, 0]
    return column.tolist()


def planned(spec, inputs, base="A", **more):
    plan = with_tokenizer(spec if isinstance(spec, TokenizerSpec) else TokenizerSpec(spec), inputs, base, **more)
    assert not plan.problems, plan.problems
    return plan


def complaint(spec, inputs, base="A", **more):
    """The one problem of a plan that must not be carried out."""
    plan = with_tokenizer(spec if isinstance(spec, TokenizerSpec) else TokenizerSpec(spec), inputs, base, **more)
    assert plan.files is None and plan.inputs == inputs
    (problem,) = plan.problems
    return problem


# --- Whose vocabulary ------------------------------------------------------------------------------------------------


def test_with_source_base_every_input_has_the_bases_rows(tmp_path):
    plan = planned("base", three(tmp_path))
    assert (plan.rows, plan.vocab_size) == (A, 4)
    assert firsts(plan.inputs["A"]) == [100, 101, 102, 103]
    assert firsts(plan.inputs["B"]) == [200, 202, 102, 201]  # b is the base's: B has none
    assert firsts(plan.inputs["C"]) == [300, 101, 302, 103]


def test_with_a_models_source_every_input_has_that_models_rows(tmp_path):
    plan = planned("B", three(tmp_path))
    assert (plan.rows, plan.vocab_size) == (B, 5)
    # x: not in the base, and of B and C the mean; y: only B's.
    assert firsts(plan.inputs["A"]) == [100, 103, 101, (203 + 301) / 2, 204]
    assert firsts(plan.inputs["B"]) == [200, 201, 202, 203, 204]
    assert firsts(plan.inputs["C"]) == [300, 103, 101, 301, 204]


def test_the_union_keeps_the_bases_ids_and_adds_in_the_recipes_order(tmp_path):
    plan = planned("union", three(tmp_path))
    assert plan.rows == {**A, "x": 4, "y": 5, "z": 6}
    assert firsts(plan.inputs["A"]) == [100, 101, 102, 103, (203 + 301) / 2, 204, 303]
    assert firsts(plan.inputs["B"]) == [200, 202, 102, 201, 203, 204, 303]
    assert firsts(plan.inputs["C"]) == [300, 101, 302, 103, 301, 204, 303]


def test_the_order_of_the_union_is_the_recipes(tmp_path):
    inputs = three(tmp_path)
    turned = {name: inputs[name] for name in "CBA"}
    assert planned("union", turned).rows == {**A, "x": 4, "z": 5, "y": 6}
    assert planned("union", turned, base=None).rows == {**C, "c": 4, "a": 5, "y": 6}


def test_without_a_base_a_token_that_several_have_is_their_mean(tmp_path):
    plan = planned("C", three(tmp_path), base=None)
    assert firsts(plan.inputs["B"]) == [200, 203, (102 + 302) / 2, 303]


def test_an_input_that_has_the_vocabulary_already_keeps_its_stored_tensors(tmp_path):
    inputs = three(tmp_path)
    twin = words(tmp_path / "twin", A, first=500)
    plan = planned("base", inputs | {"twin": twin})
    assert plan.inputs["A"] is inputs["A"] and plan.inputs["twin"] is twin
    assert plan.inputs["B"] is not inputs["B"]
    spec = plan.inputs["B"].tensors[EMBED]
    assert (spec.file, [part.file for part in spec.parts]) == (
        "model.safetensors",
        ["1::model.safetensors", "model.safetensors"],
    )
    (file,) = plan.inputs["B"].extra_files.values()
    assert list(plan.inputs["B"].extra_files) == [file.name] == ["1::model.safetensors"]
    assert file.path == inputs["A"].source.folder / "model.safetensors"


def test_a_model_may_be_named_as_the_user_wrote_it(tmp_path):
    inputs = three(tmp_path)
    assert planned(inputs["B"].source.text, inputs).rows == B


def test_a_model_that_only_the_entry_names_lends_its_rows(tmp_path):
    inputs = three(tmp_path)
    lender = inputs.pop("C")
    plan = planned("C", inputs, others={"C": lender})
    assert list(plan.inputs) == ["A", "B"]
    assert firsts(plan.inputs["A"]) == [100, 203, 102, 303]  # x: an input's row goes before a mere lender's
    assert plan.files.folder == lender.source.folder


# --- Rules for single tokens -----------------------------------------------------------------------------------------


def spec_with(source="union", **tokens):
    return TokenizerSpec(source, tokens)


def test_a_rule_gives_the_row_to_models_that_lack_the_token(tmp_path):
    plan = planned(spec_with(x=TokenRule(TokenSource("C"))), three(tmp_path))
    assert [firsts(plan.inputs[name])[4] for name in "ABC"] == [301, 203, 301]


def test_a_forced_rule_gives_the_row_to_all(tmp_path):
    plan = planned(spec_with(x=TokenRule(TokenSource("C"), force=True)), three(tmp_path))
    assert [firsts(plan.inputs[name])[4] for name in "ABC"] == [301, 301, 301]


def test_a_rule_may_name_another_token_or_row(tmp_path):
    by_token = planned(spec_with(y=TokenRule(TokenSource("A", token="b"))), three(tmp_path / "1"))
    by_id = planned(spec_with(y=TokenRule(TokenSource("C", token_id=3), force=True)), three(tmp_path / "2"))
    assert [firsts(by_token.inputs[name])[5] for name in "ABC"] == [102, 204, 102]
    assert [firsts(by_id.inputs[name])[5] for name in "ABC"] == [303, 303, 303]


def test_a_zero_rule_gives_zeros(tmp_path):
    plan = planned(spec_with(x=TokenRule(ZERO), b=TokenRule(ZERO, force=True)), three(tmp_path))
    assert [firsts(plan.inputs[name])[4] for name in "ABC"] == [0, 203, 301]
    assert [firsts(plan.inputs[name])[2] for name in "ABC"] == [0, 0, 0]


def test_a_forced_rule_reaches_an_input_that_has_the_vocabulary_already(tmp_path):
    plan = planned(spec_with("base", a=TokenRule(TokenSource("B"), force=True)), three(tmp_path))
    assert firsts(plan.inputs["A"]) == [100, 202, 102, 103]


# --- Padding ---------------------------------------------------------------------------------------------------------


def test_padded_rows_stay_and_are_the_donors_where_an_input_has_none(tmp_path):
    inputs = {
        "A": words(tmp_path / "A", A, n_rows=8, first=100),
        "B": words(tmp_path / "B", B, n_rows=7, first=200),
    }
    plan = planned("base", inputs)
    assert plan.vocab_size == 8
    assert plan.inputs["A"] is inputs["A"]
    # Row 4 is a token of B; rows 5 and 6 are its padding; it has no row 7.
    assert firsts(plan.inputs["B"]) == [200, 202, 102, 201, 104, 205, 206, 107]
    assert not plan.files.settings


def test_new_tokens_of_a_union_take_the_place_of_padding(tmp_path):
    inputs = {"A": words(tmp_path / "A", A, n_rows=6, first=100), "C": words(tmp_path / "C", C, first=300)}
    plan = planned("union", inputs)
    assert plan.rows == {**A, "x": 4, "z": 5} and plan.vocab_size == 6
    assert firsts(plan.inputs["A"]) == [100, 101, 102, 103, 301, 303]


def test_rows_are_rounded_up_to_a_multiple_with_zeros(tmp_path):
    plan = planned(TokenizerSpec("union", {}, 4), three(tmp_path))
    assert plan.vocab_size == 8
    assert all(firsts(plan.inputs[name])[7] == 0 for name in "ABC")
    assert any("rows 7 to 7 are padding" in note for note in plan.notes)
    alone = planned(TokenizerSpec("base", {}, 4), three(tmp_path / "again"))
    assert alone.vocab_size == 4 and not alone.notes


def test_a_token_beyond_the_embedding_has_no_row(tmp_path):
    inputs = {
        "A": words(tmp_path / "A", {**A, "far": 9}, n_rows=10, first=100),
        "B": words(tmp_path / "B", {**A, "far": 9}, n_rows=4, first=200),
    }
    assert firsts(planned("base", inputs).inputs["B"]) == [200, 201, 202, 203, 104, 105, 106, 107, 108, 109]
    plan = planned("B", inputs)
    assert plan.vocab_size == 4 and any("beyond" in note for note in plan.notes)


def test_a_token_without_a_row_anywhere_is_zeros_and_said(tmp_path):
    inputs = {
        "A": words(tmp_path / "A", A, first=100),
        "B": words(tmp_path / "B", {**A, "far": 7}, n_rows=4, first=200),
    }
    plan = planned("union", inputs)
    assert firsts(plan.inputs["A"])[4] == 0
    assert any("'far'" in note and "zeros" in note for note in plan.notes)


# --- Which tensors ---------------------------------------------------------------------------------------------------


def test_heads_and_biases_over_the_vocabulary_follow_the_embedding(tmp_path):
    def tensors(n_rows, first):
        return {
            EMBED: numbered(n_rows, first=first),
            "model.layers.0.mlp.weight": torch.ones(n_rows, 2),
            HEAD: numbered(n_rows, first=first + 50),
            "lm_head.bias": first + 70.0 + torch.arange(n_rows),
        }

    inputs = {
        "A": words(tmp_path / "A", A, tensors=tensors(4, 100), config={"vocab_size": 4, "intermediate_size": 4}),
        "B": words(tmp_path / "B", B, tensors=tensors(5, 200), config={"vocab_size": 5, "intermediate_size": 5}),
    }
    plan = planned("base", inputs)
    assert firsts(plan.inputs["B"], HEAD) == [250, 252, 152, 251]
    assert firsts(plan.inputs["B"], "lm_head.bias") == [270, 272, 172, 271]
    assert plan.inputs["B"].tensors["model.layers.0.mlp.weight"].view is None


def test_a_head_takes_rows_of_a_tied_model_from_its_embedding(tmp_path):
    tied = words(tmp_path / "A", A, first=100)
    tensors = {EMBED: numbered(5, first=200), HEAD: numbered(5, first=250), "lm_head.bias": 1.0 + torch.arange(5)}
    untied = words(tmp_path / "B", B, tensors=tensors)
    plan = planned("base", {"A": tied, "B": untied})
    assert firsts(plan.inputs["B"], HEAD) == [250, 252, 102, 251]
    assert firsts(plan.inputs["B"], "lm_head.bias") == [1, 3, 0, 2]  # A has no bias: nothing is added


def test_names_may_have_another_prefix(tmp_path):
    tensors = {"language_model.model.embed_tokens.weight": numbered(5, first=200)}
    inputs = {"A": words(tmp_path / "A", A, first=100), "B": words(tmp_path / "B", B, tensors=tensors)}
    assert firsts(planned("base", inputs).inputs["B"], next(iter(tensors))) == [200, 202, 102, 201]


def test_a_vocabulary_of_another_part_is_left_alone(tmp_path):
    tensors = {"talker.embed_tokens.weight": numbered(3), EMBED: numbered(5, first=200)}
    config = {"text_config": {"vocab_size": 5}, "talker_config": {"vocab_size": 3}}
    inputs = {"A": words(tmp_path / "A", A), "B": words(tmp_path / "B", B, tensors=tensors, config=config)}
    plan = planned("base", inputs)
    assert plan.inputs["B"].tensors["talker.embed_tokens.weight"].view is None
    assert plan.inputs["B"].tensors[EMBED].view is not None


def test_types_meet_only_where_rows_are_lent(tmp_path):
    half = words(tmp_path / "A", A, first=100, dtype=torch.bfloat16)
    same = words(tmp_path / "B", {"c": 0, "a": 1, "b": 2, "<unk>": 3}, first=200, dtype=torch.float16)
    lacking = words(tmp_path / "C", C, first=30, dtype=torch.float16)
    plan = planned("base", {"A": half, "B": same, "C": lacking})
    spec = plan.inputs["B"].tensors[EMBED]
    assert (spec.dtype.name, spec.stored_dtype.name) == ("F16", "F16")
    spec = plan.inputs["C"].tensors[EMBED]
    assert (spec.dtype.name, spec.stored_dtype.name) == ("F32", "F16")
    assert firsts(plan.inputs["C"]) == [30, float(torch.tensor(101.0).bfloat16()), 32, 103]


def test_rows_of_an_adapted_head_are_those_of_base_plus_adapter(tmp_path):
    """B's head is a view already; its own rows and those that it lends come through it."""
    tensors = {EMBED: numbered(5, first=200), HEAD: numbered(5, first=250)}
    words(tmp_path / "B", B, tensors=tensors, config={"vocab_size": 5})
    low_rank = {"lora_A": torch.tensor([[1.0, 2.0]]), "lora_B": torch.arange(5.0).view(5, 1) * 16}
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file(
        {f"base_model.model.lm_head.{part}.weight": tensor for part, tensor in low_rank.items()},
        adapter / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["lm_head"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    adapted = expo.open_checkpoint(f"{tmp_path / 'B'}+{adapter}")
    ours = {EMBED: numbered(4, first=100), HEAD: numbered(4, first=150)}
    plan = planned("union", {"A": words(tmp_path / "A", A, tensors=ours), "B": adapted})
    assert firsts(plan.inputs["B"], HEAD) == [250, 252 + 32, 152, 251 + 16, 253 + 48, 254 + 64]
    assert firsts(plan.inputs["A"], HEAD) == [150, 151, 152, 153, 253 + 48, 254 + 64]
    assert firsts(plan.inputs["B"]) == [200, 202, 102, 201, 203, 204]
    assert set(plan.inputs["A"].extra_files) == {"2::model.safetensors", "2::+1/adapter_model.safetensors"}


# --- What the configs say --------------------------------------------------------------------------------------------


def test_vocab_size_changes_where_the_config_states_it(tmp_path):
    config = {"text_config": {"vocab_size": 4, "hidden_size": 2}, "vocab_size": 4, "vision_config": {"vocab_size": 9}}
    inputs = {"A": words(tmp_path / "A", A, config=config), "B": words(tmp_path / "B", B)}
    plan = planned("union", inputs)
    assert plan.files.settings == {"config.json": {("vocab_size",): 6, ("text_config", "vocab_size"): 6}}
    silent = {"A": words(tmp_path / "A2", A, config={"model_type": "llama"}), "B": inputs["B"]}
    assert planned("union", silent).files.settings == {"config.json": {("vocab_size",): 6}}


def test_ids_of_tokens_follow_the_tokenizers_owner(tmp_path):
    ours = {"vocab_size": 4, "eos_token_id": 3, "pad_token_id": 2, "bos_token_id": None, "image_token_id": 1}
    theirs = {"vocab_size": 5, "eos_token_id": [4, 0]}
    generation = {"eos_token_id": [3, 1], "max_length": 3}
    inputs = {
        "A": words(tmp_path / "A", A, config=ours, side_files={"generation_config.json": json.dumps(generation)}),
        "B": words(tmp_path / "B", B, config=theirs),
    }
    plan = planned("B", inputs)
    # eos: as B says. The image token is `a`, which is B's row 2; the pad token `b` is in no place of B.
    assert plan.files.settings == {
        "config.json": {("eos_token_id",): [4, 0], ("image_token_id",): 2, ("vocab_size",): 5},
        "generation_config.json": {("eos_token_id",): [1, 2]},
    }
    assert any("pad_token_id is 2" in note for note in plan.notes)
    assert not planned("B", inputs, donor="B").files.settings
    assert not planned("base", inputs).files.settings


# --- Bad input -------------------------------------------------------------------------------------------------------


def test_a_base_source_needs_a_base(tmp_path):
    assert "no base_model" in complaint("base", three(tmp_path), base=None)


def test_an_unknown_model_is_named_with_the_nearest(tmp_path):
    inputs = {"first/llama": words(tmp_path / "A", A), "B": words(tmp_path / "B", B)}
    assert "Did you mean 'first/llama'?" in complaint("first/lama", inputs, base="B")
    problem = complaint(spec_with(a=TokenRule(TokenSource("D"))), inputs, base="B")
    assert "tokens: 'a'" in problem and "'D'" in problem


def test_an_unknown_token_is_named_with_the_nearest(tmp_path):
    problem = complaint(TokenizerSpec("union", {"<unc>": TokenRule(ZERO)}), three(tmp_path))
    assert "'<unc>'" in problem and "Did you mean '<unk>'?" in problem


def test_a_source_that_lacks_the_token_or_row_is_named(tmp_path):
    inputs = three(tmp_path)
    assert "A has no token 'x'" in complaint(spec_with(x=TokenRule(TokenSource("A"))), inputs)
    assert "A has no token 'q'" in complaint(spec_with(x=TokenRule(TokenSource("A", token="q"))), inputs)
    assert "A has no row 4" in complaint(spec_with(x=TokenRule(TokenSource("A", token_id=4))), inputs)
    assert "A has no row -1" in complaint(spec_with(x=TokenRule(TokenSource("A", token_id=-1))), inputs)


def test_all_mistakes_are_told_at_once(tmp_path):
    spec = spec_with(x=TokenRule(TokenSource("A")), q=TokenRule(ZERO), y=TokenRule(TokenSource("nobody")))
    assert len(with_tokenizer(spec, three(tmp_path), "A").problems) == 3


def test_a_missing_and_a_broken_tokenizer_are_told_by_model(tmp_path):
    inputs = three(tmp_path) | {
        "bare": model(tmp_path / "bare", None, tensors={EMBED: numbered(4)}),
        "torn": model(tmp_path / "torn", "{", tensors={EMBED: numbered(4)}),
    }
    for source in ("base", "union"):
        missing, torn = with_tokenizer(TokenizerSpec(source), inputs, "A").problems
        assert "bare" in missing and "no tokenizer" in missing
        assert "torn" in torn and "not JSON" in torn
    bare = {
        name: model(tmp_path / name, None, tensors={"other": numbered(9)}, config={"model_type": "x"})
        for name in ("one", "two")
    }
    missing, rowless = with_tokenizer(TokenizerSpec("union"), bare, "one").problems
    assert missing.startswith("tokenizer: one, two: no tokenizer") and "make a tokenizer.json" in missing
    assert rowless.startswith("tokenizer: one, two: no embedding")


def test_rows_of_another_width_are_refused_with_both_shapes(tmp_path):
    inputs = {"A": words(tmp_path / "A", A), "B": words(tmp_path / "B", B, tensors={EMBED: numbered(5, 3)})}
    problem = with_tokenizer(TokenizerSpec("union"), inputs, "A").problems[0]
    assert "(4, 2)" in problem and "(5, 3)" in problem


def test_a_column_for_each_token_is_refused(tmp_path):
    tensors = {EMBED: numbered(5), "final_logits_bias": torch.zeros(1, 5)}
    inputs = {"A": words(tmp_path / "A", A), "B": words(tmp_path / "B", B, tensors=tensors)}
    assert "final_logits_bias" in complaint("base", inputs)


def test_a_model_without_an_embedding_is_refused(tmp_path):
    bare = model(tmp_path / "B", word_level(B), tensors={"model.norm.weight": torch.ones(2)}, config={})
    assert "no embedding" in complaint("base", {"A": words(tmp_path / "A", A), "B": bare})


@pytest.mark.parametrize("multiple", [0, -8, 1 << 30])
def test_a_multiple_that_makes_no_sense_is_refused(multiple):
    with pytest.raises(RecipeError, match="pad_to_multiple_of"):
        TokenizerSpec("base", {}, multiple)


def test_the_spec_is_recorded_as_yaml_writes_it():
    tokens = {
        "a": TokenRule(TokenSource("m")),
        "b": TokenRule(TokenSource("m", token="x"), force=True),
        "c": TokenRule(TokenSource("n", token_id=7)),
        "d": TokenRule(ZERO),
    }
    spec = TokenizerSpec("union", tokens, 64)
    assert spec.record() == {
        "source": "union",
        "tokens": {
            "a": {"source": "m"},
            "b": {"source": {"kind": "model_token", "model": "m", "token": "x"}, "force": True},
            "c": {"source": {"kind": "model_token", "model": "n", "token_id": 7}},
            "d": {"source": {"kind": "zero"}},
        },
        "pad_to_multiple_of": 64,
    }
    assert spec.models() == ("m", "n")
    assert TokenizerSpec("q").models() == ("q",) and TokenizerSpec("base").models() == ()
