"""Names, tied heads and vocabulary rows are matched as the configs and tokenizers say; each complaint has its way out."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pico import LLAMA, llama_tensors, nudged, write_checkpoint

import expo
import expo.errors
from expo.errors import PlanError, RecipeError
from expo.planning.complaints import suggested_rename
from expo.planning.jobs import RowRun
from expo.planning.tied import embedding_of, says_tied, tied_heads
from expo.planning.vocabulary import row_runs, tokens
from expo.recipe import Recipe, parse_rename, parse_size

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def checkpoint(folder, tensors, **written):
    return expo.open_checkpoint(write_checkpoint(folder, tensors, **written))


def spec_of(tensors):
    """Specs of tensors given by shape, without a file."""
    from expo.checkpoint import TensorSpec
    from expo.dtypes import DTYPES

    return {name: TensorSpec(name, DTYPES["BF16"], shape, "m", 0, 0) for name, shape in tensors.items()}


# --- renames ---------------------------------------------------------------------------------------------------------

NAMES = ["model.embed_tokens.weight", "model.layers.0.q.weight", "model.layers.1.q.weight", "model.norm.weight"]


def renamed(name, rule):
    old, new = parse_rename(rule)
    return new + name[len(old) :] if name.startswith(old) else name


@pytest.mark.parametrize(
    "extra, missing, rule",
    [
        ([f"language_model.{name}" for name in NAMES], NAMES, "language_model.=>"),
        (NAMES, [f"language_model.{name}" for name in NAMES], "=>language_model."),
        (NAMES, [f"model.language_{name}" for name in NAMES], "model.=>model.language_model."),
        ([n.replace("model.", "transformer.") for n in NAMES], NAMES, "transformer.=>model."),
        (["module.w"], ["w"], "module.=>"),
        (["w"], ["module.w"], "=>module."),
        (["a.weight"], ["b.weight"], "a.=>b."),
    ],
)
def test_a_differing_prefix_is_recognised(extra, missing, rule):
    found = suggested_rename(missing, extra)
    assert found == rule or {renamed(name, found) for name in extra} == set(missing)


@pytest.mark.parametrize(
    "extra, missing",
    [([], ["a"]), (["a"], []), (["x.a", "y.b"], ["z.a", "w.b"]), (["a"], ["b"]), (["x.a", "x.c"], ["z.a"])],
)
def test_no_rule_is_suggested_where_none_explains_the_names(extra, missing):
    assert suggested_rename(missing, extra) is None


PART = st.sampled_from(["model", "layers", "0", "1", "weight", "w", "q"])
NAME = st.lists(PART, min_size=1, max_size=4).map(".".join)


@QUICK
@given(st.sets(NAME, min_size=1, max_size=5), st.sets(NAME, min_size=1, max_size=5))
def test_a_suggested_rule_turns_every_extra_name_into_a_missing_one(extra, missing):
    extra, missing = sorted(extra - missing), sorted(missing - extra)
    rule = suggested_rename(missing, extra)
    if rule:
        assert {renamed(name, rule) for name in extra} <= set(missing)


@pytest.mark.parametrize(
    "other",
    [
        lambda name: f"language_model.{name}",
        lambda name: name.removeprefix("model."),
        lambda name: name.replace("model.layers", "model.text.layers"),
        lambda name: name if name == "lm_head.weight" else name.removeprefix("model."),
        lambda name: name.replace("model.layers.1.", "model.blocks.1."),
    ],
    ids=["all", "model.", "inner", "all but one", "one layer"],
)
def test_the_rule_that_a_refusal_suggests_makes_the_pair_fit(tmp_path, other):
    tensors = llama_tensors(dtype=torch.bfloat16)
    dpo = write_checkpoint(tmp_path / "dpo", nudged(tensors), config=LLAMA)
    sft = write_checkpoint(tmp_path / "sft", {other(name): t for name, t in tensors.items()}, config=LLAMA)
    with pytest.raises(PlanError) as caught:
        expo.plan(expo.extrapolation(sft=sft, dpo=dpo))
    text = str(caught.value)
    assert "--rename '" in text
    rule = text.split("--rename '")[1].split("'")[0]
    plan = expo.plan(expo.extrapolation(sft=sft, dpo=dpo, rename=(parse_rename(rule),)))
    assert all(job.method for job in plan.jobs) and not plan.left_out and len(plan.jobs) == len(tensors)


def test_the_first_rule_that_fits_a_name_is_used_and_collisions_are_refused(tmp_path):
    one, two = torch.ones(2), torch.zeros(2)
    sft = write_checkpoint(tmp_path / "sft", {"x.a": one, "x.y.b": two})
    dpo = write_checkpoint(tmp_path / "dpo", {"m.a": one, "n.b": two})
    for rules in ((("x.y.", "n."), ("x.", "m.")),):
        plan = expo.plan(expo.extrapolation(sft=sft, dpo=dpo, rename=rules))
        assert [job.operands[0].spec.name for job in plan.jobs] == ["x.a", "x.y.b"]
    clash = write_checkpoint(tmp_path / "clash", {"x.a": one, "y.a": two})
    with pytest.raises(PlanError, match=r"one name: x\.a and y\.a both become a"):
        expo.plan(expo.extrapolation(sft=clash, dpo=dpo, rename=(("x.", ""), ("y.", ""))))


@pytest.mark.parametrize("rule", ["", "a", "a=b", "=>", "a.=>a."])
def test_a_rule_that_renames_nothing_is_refused(rule):
    with pytest.raises(RecipeError, match="prefix=>prefix"):
        parse_rename(rule)


# --- tied heads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config, said",
    [({}, None), ({"tie_word_embeddings": True}, True), ({"tie_word_embeddings": False}, False),
     ({"text_config": {"tie_word_embeddings": True}}, True), ({"text_config": 3}, None), ({"tie_word_embeddings": "yes"}, None),
     ({"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}}, False)],
)  # fmt: skip
def test_what_a_config_says_of_tying_is_read_from_it_or_from_its_text_part(tmp_path, config, said):
    assert says_tied(checkpoint(tmp_path / "c", {"w": torch.ones(1)}, config=config)) is said


def test_heads_and_embeddings_are_known_by_whole_parts_of_their_names():
    table = spec_of(
        {"model.embed_tokens.weight": (8, 4), "lm_head.weight": (8, 4), "xlm_head.weight": (8, 4), "w": (8, 4)}
    )
    assert tied_heads(table) == {"lm_head.weight": "model.embed_tokens.weight"}
    assert tied_heads(spec_of({"model.embed_tokens.weight": (8, 4), "lm_head.weight": (9, 4)})) == {}
    assert tied_heads(spec_of({"transformer.wte.weight": (8, 4), "lm_head.weight": (8, 4)})) == {
        "lm_head.weight": "transformer.wte.weight"
    }
    t5 = spec_of({"encoder.embed_tokens.weight": (8, 4), "shared.weight": (8, 4), "lm_head.weight": (8, 4)})
    assert embedding_of("lm_head.weight", t5) == "shared.weight"
    assert embedding_of("w", t5) is None and embedding_of("lm_head.weight", spec_of({"w": (1,)})) is None


# --- rows of a vocabulary --------------------------------------------------------------------------------------------


def tokenizer(vocab, added=()):
    return json.dumps({"model": {"vocab": vocab}, "added_tokens": [{"content": t, "id": i} for t, i in added]})


def vocabulary_pair(folder, ours, theirs, n_ours, n_theirs):
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
    dpo, sft, name = vocabulary_pair(folder, ours, theirs, n_ours, n_theirs)
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


# --- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, n",
    [("5GB", 5 * 10**9), ("500 MiB", 500 * 2**20), ("1.5k", 1500), ("123", 123), ("2tib", 2 * 2**40), ("7B", 7)],
)
def test_sizes_are_read_as_people_write_them(text, n):
    assert parse_size(text) == n


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "5 XB", "0", "nan", "1.2.3", "5i"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(RecipeError, match="not a size"):
        parse_size(text)


def test_a_recipe_survives_its_own_record():
    recipe = expo.extrapolation(
        sft="a", dpo="b", alpha=0.7, dtype="float16", rounding="stochastic", seed=5, shard_size=10, on_mismatch="skip",
        vocabulary="keep-base", tied="keep", rename=(("a.", "b."),), saturate=True,
    )  # fmt: skip
    record = json.loads(json.dumps(recipe.record()))
    assert Recipe.from_record(record, recipe.models) == recipe
    assert "models" not in record
    assert recipe.with_parameters(alpha=0.1).parameters == {"alpha": 0.1} and recipe.parameters == {"alpha": 0.7}


@pytest.mark.parametrize(
    "setting, value, word",
    [("rounding", "nearst", "'nearest'"), ("dtype", "bfloat61", "'bfloat16'"), ("on_mismatch", "ignore", "error"),
     ("vocabulary", "common", "common-rows"), ("tied", "drop", "keep"), ("arithmetic", "fast", "reference"),
     ("dtype", "int8", "float32"), ("dtype", "F4", "float32")],
)  # fmt: skip
def test_a_setting_that_does_not_exist_is_refused_with_those_that_do(setting, value, word):
    with pytest.raises(RecipeError, match=word):
        expo.extrapolation(sft="a", dpo="b", **{setting: value})


def test_a_recipe_names_the_input_that_it_lacks():
    with pytest.raises(RecipeError, match="aligned is not given"):
        Recipe("extrapolate", {"base": "a"})
    with pytest.raises(RecipeError, match="reference always writes bfloat16"):
        expo.extrapolation(sft="a", dpo="b", arithmetic="reference", dtype="float32")
