"""Where two checkpoints do not fit, nothing is guessed: an error with every problem, or the policy that was asked."""

import json

import numpy as np
import pytest
import torch
from engine import streamed
from oracle import FORMATS, TORCH_NAMES, decode, draw, encode, near, read_stored, rounded, write_pair, write_stored
from pico import LLAMA, llama_tensors, nudged, pico_pair, write_checkpoint

import expo
from expo.errors import ExpoError, PlanError

TIED = {**LLAMA, "tie_word_embeddings": True}
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def raw(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


ALPHA = 0.5  # exact in every type, so that the authority and the engine meet the same ties


def pushed(a, b):
    """The bytes of b + ALPHA (b - a), rounded to b's type, by the authority."""
    dtype = {name: key for key, name in TORCH_NAMES.items()}[str(b.dtype).removeprefix("torch.")]
    a, b = a.double().numpy().reshape(-1), b.double().numpy().reshape(-1)
    return encode(rounded(b + ALPHA * (b - a), dtype), dtype)


def refused(folder, *words, **settings):
    with pytest.raises(PlanError) as caught:
        expo.extrapolate(sft=folder / "sft", dpo=folder / "dpo", output=folder / "out", alpha=ALPHA, **settings)
    assert not list(folder.glob("out*"))
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return str(caught.value)


def run(folder, **settings):
    """The run's report, and what it wrote."""
    report = expo.extrapolate(sft=folder / "sft", dpo=folder / "dpo", output=folder / "out", alpha=ALPHA, **settings)
    assert not list(folder.glob("out.partial"))
    return report, read_stored(folder / "out")


# --- tensors on one side, shapes and types ---------------------------------------------------------------------------


@pytest.fixture
def one_sided(tmp_path):
    """sft has two tensors of its own, dpo ten; they share `w`."""
    w = torch.randn(4, 4)
    sft = {"w": w, "z.extra": torch.ones(3), "a.extra": torch.zeros(2)}
    dpo = {"w": w + 1, **{f"new.{i}": torch.full((2,), float(i)) for i in range(10)}}
    write_checkpoint(tmp_path / "sft", sft)
    write_checkpoint(tmp_path / "dpo", dpo, shards=2)
    return tmp_path, sft, dpo


def test_tensors_on_one_side_only_are_all_told_in_one_refusal(one_sided):
    folder, _, _ = one_sided
    text = refused(folder, "10 tensors only in aligned (dpo)", "2 tensors only in base (sft)", "a.extra", "z.extra",
                   "new.0", "and 2 more", "--on-mismatch copy", "--on-mismatch skip")  # fmt: skip
    assert "new.9" not in text


def test_copy_takes_each_tensor_from_the_side_that_has_it_extra_ones_last_by_name(one_sided):
    folder, sft, dpo = one_sided
    _, out = run(folder, on_mismatch="copy")
    assert list(out)[-2:] == ["a.extra", "z.extra"] and set(out) == {*dpo, *sft}
    assert all(out[name][2] == raw(dpo[name]) for name in dpo if name != "w")
    assert all(out[name][2] == raw(sft[name]) for name in ("a.extra", "z.extra"))
    assert out["w"][2] == pushed(sft["w"], dpo["w"])
    index = json.loads((folder / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"]["z.extra"] == index["weight_map"]["a.extra"] == "model-00002-of-00002.safetensors"


def test_skip_leaves_out_what_one_side_lacks_and_says_so(one_sided):
    folder, sft, dpo = one_sided
    _, out = run(folder, on_mismatch="skip")
    assert set(out) == {"w"}
    left_out = json.loads((folder / "out" / "expo.json").read_text())["left_out"]
    assert sorted(left_out) == sorted([*(set(dpo) - {"w"}), "a.extra", "z.extra"])
    assert list(expo.open_checkpoint(folder / "out").tensors) == ["w"]


def test_nothing_in_common_is_refused(tmp_path):
    write_checkpoint(tmp_path / "sft", {"a": torch.ones(2)})
    write_checkpoint(tmp_path / "dpo", {"b": torch.ones(2)})
    refused(tmp_path, "nothing to write", on_mismatch="skip")


def test_shapes_that_differ_are_refused_with_both_or_follow_the_policy(tmp_path):
    sft = {"w": torch.zeros(4, 3), "v": torch.zeros(5), "u": torch.zeros(2)}
    dpo = {"w": torch.ones(3, 4), "v": torch.ones(6), "u": torch.ones(2)}
    write_checkpoint(tmp_path / "sft", sft)
    write_checkpoint(tmp_path / "dpo", dpo)
    refused(tmp_path, "2 problems", "w: shapes differ", "(3, 4)", "(4, 3)", "v: shapes differ", "--on-mismatch copy")
    _, out = run(tmp_path, on_mismatch="copy")
    assert out["w"][1:] == ((3, 4), raw(dpo["w"])) and out["v"][2] == raw(dpo["v"])
    assert decode(out["u"][2], "F32").tolist() == [1.5, 1.5]


def test_every_pair_of_float_types_is_computed_and_dpos_type_is_written(tmp_path):
    tensors = {}
    for i, ta in enumerate(FORMATS):
        for j, tb in enumerate(FORMATS):
            b = draw(33, seed=6 * i + j, dtype=tb, spread=1)
            tensors[f"{ta}.{tb}"] = (ta, near(b, seed=7, dtype=ta), tb, b)
    write_pair(tmp_path, tensors)
    _, out = run(tmp_path)
    for name, (_, a, tb, b) in tensors.items():
        assert out[name][0] == tb
        assert decode(out[name][2], tb).tolist() == rounded(b + ALPHA * (b - a), tb).tolist()


def test_a_float_against_an_integer_is_refused_or_copied(tmp_path):
    write_checkpoint(tmp_path / "sft", {"w": torch.zeros(4, dtype=torch.int8), "v": torch.ones(1)})
    write_checkpoint(tmp_path / "dpo", {"w": torch.ones(4), "v": torch.ones(1)})
    refused(tmp_path, "w: types differ", "F32", "I8", "--on-mismatch copy")
    assert run(tmp_path, on_mismatch="copy")[1]["w"][2] == raw(torch.ones(4))


COPIED = [
    "I64",
    "U64",
    "I32",
    "U32",
    "I16",
    "U16",
    "I8",
    "U8",
    "BOOL",
    "C64",
    "F8_E8M0",
    "F8_E4M3FNUZ",
    "F6_E2M3",
    "F6_E3M2",
    "F4",
]


@pytest.mark.parametrize("dtype", COPIED)
def test_types_that_are_not_computed_on_are_copied_when_equal_and_refused_by_name_when_not(tmp_path, dtype):
    bits = {"F4": 4, "F6": 6, "BO": 8}.get(dtype[:2]) or int("".join(c for c in dtype.split("_")[0] if c.isdigit()))
    body = bytes(i % 2 for i in range(64 * bits // 8))
    other = body[:-1] + bytes([body[-1] ^ 1])
    w = ("BF16", (2,), encode(np.ones(2), "BF16"))
    for role, content in (("sft", body), ("dpo", body)):
        write_stored(tmp_path / role / "model.safetensors", {"x": (dtype, (8, 8), content), "w": w})
    assert run(tmp_path)[1]["x"] == (dtype, (8, 8), body)
    assert expo.open_checkpoint(tmp_path / "out").tensors["x"].dtype.name == dtype
    write_stored(tmp_path / "sft" / "model.safetensors", {"x": (dtype, (8, 8), other), "w": w})
    recipe = expo.extrapolation(sft=tmp_path / "sft", dpo=tmp_path / "dpo")
    with pytest.raises(ExpoError, match=f"x is {dtype}"):
        expo.run(expo.plan(recipe), tmp_path / "again")
    assert not list(tmp_path.glob("again*"))
    assert streamed(expo.extrapolation(sft=tmp_path / "sft", dpo=tmp_path / "dpo", on_mismatch="copy"))[0]["x"] == body


# --- tied heads ------------------------------------------------------------------------------------------------------


def llama(folder, role, *, config, head=None, seed=0, changed=()):
    """A pico Llama, its head stored as given: "embedding" or its own tensor; returns the tensors."""
    tensors = llama_tensors(dtype=torch.bfloat16, seed=seed, config=TIED)
    if seed:
        tensors = nudged(llama_tensors(dtype=torch.bfloat16, config=TIED), seed=seed)
    if head is not None:
        tensors[HEAD] = tensors[EMBED].clone() if isinstance(head, str) else head
    write_checkpoint(folder / role, tensors, config=config)
    return tensors


@pytest.mark.parametrize("says", [True, None])
def test_a_head_that_only_the_base_stores_is_its_embedding_and_is_not_written(tmp_path, says):
    config = {key: value for key, value in TIED.items() if says or key != "tie_word_embeddings"}
    sft = llama(tmp_path, "sft", config=config, head="embedding")
    dpo = llama(tmp_path, "dpo", config=config, seed=1)
    _, out = run(tmp_path)
    assert set(out) == set(dpo) and HEAD not in out
    assert out[EMBED][2] == pushed(sft[EMBED], dpo[EMBED])


@pytest.mark.parametrize("dpo_config", [TIED, LLAMA])
def test_a_head_that_only_the_aligned_model_stores_is_computed_against_the_bases_embedding(tmp_path, dpo_config):
    sft = llama(tmp_path, "sft", config=TIED)
    own = torch.randn(64, 16).to(torch.bfloat16)
    dpo = llama(tmp_path, "dpo", config=dpo_config, seed=1, head="embedding" if dpo_config is TIED else own)
    _, out = run(tmp_path)
    assert out[HEAD][2] == pushed(sft[EMBED], dpo[HEAD])
    assert (out[HEAD][2] == out[EMBED][2]) == (dpo_config is TIED)


def test_equal_heads_on_both_sides_stay_equal(tmp_path):
    llama(tmp_path, "sft", config=TIED, head="embedding")
    llama(tmp_path, "dpo", config=TIED, head="embedding", seed=1)
    _, out = run(tmp_path)
    assert out[HEAD][2] == out[EMBED][2]


@pytest.mark.parametrize("role", ["sft", "dpo"])
def test_stored_copies_that_differ_although_the_config_ties_them_are_an_error_with_a_policy(tmp_path, role):
    own = torch.randn(64, 16).to(torch.bfloat16)
    made = {
        "sft": llama(tmp_path, "sft", config=TIED, head=own if role == "sft" else "embedding"),
        "dpo": llama(tmp_path, "dpo", config=TIED, head=own if role == "dpo" else "embedding", seed=1),
    }
    refused(tmp_path, HEAD, EMBED, f"({role})", "--tied keep")
    _, out = run(tmp_path, tied="keep")
    for name in (HEAD, EMBED):
        assert out[name][2] == pushed(made["sft"][name], made["dpo"][name])


def test_no_output_stores_differing_copies_of_what_its_own_config_ties(tmp_path):
    llama(tmp_path, "sft", config=LLAMA, head=torch.randn(64, 16).to(torch.bfloat16))
    llama(tmp_path, "dpo", config=TIED, head="embedding", seed=1)
    try:
        _, out = run(tmp_path)
    except PlanError as error:
        assert HEAD in str(error)
        return
    assert out[HEAD][2] == out[EMBED][2], "config.json says tied; transformers would drop the written head"


def test_an_untied_base_that_lacks_its_head_is_refused(tmp_path):
    llama(tmp_path, "sft", config=LLAMA)
    llama(tmp_path, "dpo", config=LLAMA, head=torch.randn(64, 16).to(torch.bfloat16), seed=1)
    refused(tmp_path, "1 tensors only in aligned", HEAD)


# --- vocabularies ----------------------------------------------------------------------------------------------------


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
    refused(
        tmp_path, "3 problems", f"({n_dpo}, 3)", f"({n_sft}, 3)", "--vocabulary common-rows", "--vocabulary keep-base"
    )
    common = streamed(_recipe(tmp_path, vocabulary="common-rows"), tile=5)[0]
    kept = streamed(_recipe(tmp_path, vocabulary="keep-base"))[0]
    n = min(n_sft, n_dpo)
    for name in (EMBED, HEAD, "lm_head.bias"):
        rows = torch.cat([sft[name][:n], dpo[name][n:]])
        assert common[name] == pushed(rows, dpo[name]), name
        assert kept[name] == raw(dpo[name])
    assert common["model.norm.weight"] == kept["model.norm.weight"] != raw(dpo["model.norm.weight"])


def _recipe(folder, **settings):
    return expo.extrapolation(sft=folder / "sft", dpo=folder / "dpo", alpha=ALPHA, **settings)


@pytest.mark.parametrize("tile", [1, 4, 7, 65_536])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_common_rows_match_by_token_when_the_tokenizers_differ(tmp_path, tile, rounding):
    ours = {"model": {"vocab": {t: i for i, t in enumerate("abcdefghij")}}}
    theirs = {
        "model": {"vocab": {t: i for i, t in enumerate("hgbcdxyza")}},
        "added_tokens": [{"content": "j", "id": 11}],
    }
    sft, dpo = vocabulary_pair(tmp_path, 12, 11, (theirs, ours), dtype=torch.bfloat16)
    out = streamed(_recipe(tmp_path, vocabulary="common-rows", rounding=rounding), tile=tile, threads=2)[0]
    rows_of_theirs = [8, 2, 3, 4, None, None, 1, 0, None, 11, None]  # of a b c d e f g h i j and a row without a token
    for name in (EMBED, HEAD, "lm_head.bias"):
        rows = [sft[name][r] if r is not None else dpo[name][i] for i, r in enumerate(rows_of_theirs)]
        if rounding == "nearest":
            assert out[name] == pushed(torch.stack(rows), dpo[name])
        else:
            assert out[name] == streamed(_recipe(tmp_path, vocabulary="common-rows", rounding=rounding))[0][name]
            width = len(raw(dpo[name])) // 11
            for i in (4, 5, 8, 10):
                assert out[name][i * width : (i + 1) * width] == raw(dpo[name][i])


def test_an_integer_table_of_the_vocabularys_length_is_not_read_beyond_its_end(tmp_path):
    for role, n in (("sft", 7), ("dpo", 10)):
        table = {EMBED: torch.randn(n, 3), "model.token_types": torch.arange(n)}
        write_checkpoint(tmp_path / role, table, config={"vocab_size": n})
    try:
        out = streamed(_recipe(tmp_path, vocabulary="common-rows"))[0]
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
    assert any("tokenizers disagree about 2 rows" in text for text in expo.plan(_recipe(tmp_path)).warnings)
    for name in ("sft", "dpo"):
        (tmp_path / name / "tokenizer.json").write_text(files[0]["tokenizer.json"] + ("\n" if name == "dpo" else ""))
    assert expo.plan(_recipe(tmp_path)).warnings == ()


# --- names, configs, pairs -------------------------------------------------------------------------------------------


def test_renamed_tensors_are_computed_and_keep_the_aligned_models_names(tmp_path):
    tensors = llama_tensors(dtype=torch.bfloat16)
    moved = nudged(tensors)
    write_checkpoint(tmp_path / "sft", {f"language_model.{name}": t for name, t in tensors.items()}, config=LLAMA)
    write_checkpoint(tmp_path / "dpo", moved, config=LLAMA)
    refused(tmp_path, "--rename 'language_model.=>'")
    _, out = run(tmp_path, rename=(("language_model.", ""),))
    assert {name: held[2] for name, held in out.items()} == {
        name: pushed(tensors[name], moved[name]) for name in tensors
    }


def test_a_nan_in_a_renamed_input_is_named_in_that_inputs_own_spelling(tmp_path):
    write_checkpoint(tmp_path / "sft", {"old.w": torch.tensor([0.0, torch.nan])})
    write_checkpoint(tmp_path / "dpo", {"new.w": torch.ones(2)})
    with pytest.raises(ExpoError, match=r"old\.w\[1\] is nan in base"):
        streamed(_recipe(tmp_path, rename=(("old.", "new."),)))


def test_a_nan_in_a_row_that_was_matched_by_token_is_named_where_it_is_stored(tmp_path):
    ours, theirs = ({"model": {"vocab": {t: i for i, t in enumerate(words)}}} for words in ("ab", "xyb"))
    sft, _ = vocabulary_pair(tmp_path, 3, 2, (theirs, ours))
    sft[EMBED][2, 1] = torch.nan
    write_checkpoint(tmp_path / "sft", sft)
    with pytest.raises(ExpoError) as caught:
        streamed(_recipe(tmp_path, vocabulary="common-rows"))
    assert f"{EMBED}[7] is nan in base" in str(caught.value)  # row 2, column 1, of 3 columns


@pytest.mark.parametrize("role", ["sft", "dpo"])
def test_a_checkpoint_that_needs_scales_is_refused_by_name(tmp_path, role):
    for said, scales, word in [
        ({"quantization_config": {"quant_method": "fp8"}}, {}, "quantization_config: fp8"),
        ({}, {"w.weight_scale_inv": torch.ones(1)}, "w.weight_scale_inv"),
    ]:
        for name in ("sft", "dpo"):
            mine = name == role
            tensors = {"w": torch.ones(2), **(scales if mine else {})}
            write_checkpoint(tmp_path / name, tensors, config=said if mine else {})
        refused(tmp_path, f"({role}) is quantised", word, on_mismatch="copy")


def test_all_problems_come_at_once(tmp_path):
    write_checkpoint(tmp_path / "sft", {"w": torch.ones(2), "x": torch.ones(1)}, config={"quantization_config": {}})
    write_checkpoint(tmp_path / "dpo", {"w": torch.ones(3), "y": torch.ones(1)}, config={})
    refused(tmp_path, "3 problems", "quantised", "w: shapes differ", "only in base", "only in aligned")


def test_different_architectures_are_warned_about_unless_shapes_differ(tmp_path):
    for role, name in (("sft", "LlamaForCausalLM"), ("dpo", "MistralForCausalLM")):
        write_checkpoint(tmp_path / role, {"w": torch.ones(2)}, config={"architectures": [name]})
    report, _ = run(tmp_path)
    assert any("different architectures" in text and "Mistral" in text and "Llama" in text for text in report.warnings)


def test_an_unrelated_pair_is_warned_about_and_a_related_one_is_not(tmp_path):
    for seed, warned in ((7, True), (0, False)):
        home = tmp_path / str(seed)
        tensors = llama_tensors(dtype=torch.bfloat16)
        other = llama_tensors(dtype=torch.bfloat16, seed=seed) if seed else nudged(tensors, relative=0.1)
        write_checkpoint(home / "sft", tensors, config=LLAMA)
        write_checkpoint(home / "dpo", other, config=LLAMA)
        heard = []
        plan = expo.plan(_recipe(home, dtype="float32"))
        expo.run(plan, home / "out", warn=heard.append)
        assert any("looks unrelated" in text for text in heard) == warned


SHA = {"org/sft": "1" * 40, "org/dpo": "2" * 40}


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A cache, offline, that holds org/sft and org/dpo; the card of the second names the first as its base model."""
    from huggingface_hub import constants

    home = tmp_path / "hub"
    sft, dpo = pico_pair(tmp_path)
    (sft / "README.md").write_text("---\nlicense: mit\n---\n# SFT\n")
    (dpo / "README.md").write_text("---\nbase_model:\n- org/sft\ntags: [x]\n---\n# DPO\n")
    for (repo, sha), folder in zip(SHA.items(), (sft, dpo), strict=True):
        at = home / f"models--{repo.replace('/', '--')}"
        (at / "refs").mkdir(parents=True)
        (at / "refs" / "main").write_text(sha)
        (at / "snapshots").mkdir()
        folder.rename(at / "snapshots" / sha)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_pair_that_its_cards_say_is_swapped_is_warned_about(hub_cache):
    for sft, dpo, warned in (("org/dpo", "org/sft", True), ("org/sft", "org/dpo", False)):
        heard = []
        expo.run(expo.plan(expo.extrapolation(sft=sft, dpo=dpo)), hub_cache / f"out-{warned}", warn=heard.append)
        assert any("looks swapped" in text and "org/sft" in text for text in heard) == warned


def test_the_card_that_would_tell_of_a_swapped_pair_is_fetched_from_the_hub(hub_cache, monkeypatch):
    from expo.checkpoint import hub

    asked = {}

    def download(repo_id, commit, names):
        asked.setdefault(repo_id, set()).update(names)
        return hub_cache / "hub" / f"models--{repo_id.replace('/', '--')}" / "snapshots" / commit

    def listing(repo_id, revision):
        return SHA[repo_id], [path.name for path in download(repo_id, SHA[repo_id], ()).iterdir()]

    monkeypatch.setattr(hub, "_listing", listing)
    monkeypatch.setattr(hub, "_download", download)
    expo.plan(expo.extrapolation(sft="org/dpo", dpo="org/sft"))
    assert "README.md" in asked["org/dpo"]


def test_inputs_from_the_hub_are_recorded_by_repository_and_commit(hub_cache):
    import yaml

    out = hub_cache / "out"
    expo.extrapolate(sft="org/sft", dpo=f"org/dpo@{SHA['org/dpo']}", output=out)
    inputs = json.loads((out / "expo.json").read_text())["inputs"]
    assert {role: (i["repo_id"], i["revision"]) for role, i in inputs.items()} == {
        "base": ("org/sft", SHA["org/sft"]), "aligned": ("org/dpo", SHA["org/dpo"])
    }  # fmt: skip
    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["base_model"] == ["org/sft", "org/dpo"] and "expo" in front["tags"]
    assert str(hub_cache) not in card and "arxiv.org/abs/2404.16792" in card
