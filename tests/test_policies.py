"""Where two checkpoints do not fit, nothing is guessed: an error with every problem, or the policy that was asked."""

import json

import numpy as np
import pytest
import torch
import yaml
from engine import ALPHA, pushed, raw, recipe_of, refused_in, run_in, streamed
from oracle import FORMATS, decode, draw, encode, near, rounded, write_pair, write_stored
from pico import LLAMA, llama_tensors, nudged, pico_pair, write_checkpoint

import expo
from expo.errors import ExpoError

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
    text = refused_in(folder, "10 tensors only in dpo (dpo)", "2 tensors only in sft (sft)", "a.extra", "z.extra",
                   "new.0", "and 2 more", "--on-mismatch copy", "--on-mismatch skip")  # fmt: skip
    assert "new.9" not in text


def test_copy_takes_each_tensor_from_the_side_that_has_it_extra_ones_last_by_name(one_sided):
    folder, sft, dpo = one_sided
    _, out = run_in(folder, on_mismatch="copy")
    assert list(out)[-2:] == ["a.extra", "z.extra"] and set(out) == {*dpo, *sft}
    assert all(out[name][2] == raw(dpo[name]) for name in dpo if name != "w")
    assert all(out[name][2] == raw(sft[name]) for name in ("a.extra", "z.extra"))
    assert out["w"][2] == pushed(sft["w"], dpo["w"])
    index = json.loads((folder / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"]["z.extra"] == index["weight_map"]["a.extra"] == "model-00002-of-00002.safetensors"


def test_skip_leaves_out_what_one_side_lacks_and_says_so(one_sided):
    folder, _, dpo = one_sided
    _, out = run_in(folder, on_mismatch="skip")
    assert set(out) == {"w"}
    left_out = json.loads((folder / "out" / "expo.json").read_text())["left_out"]
    assert sorted(left_out) == sorted([*(set(dpo) - {"w"}), "a.extra", "z.extra"])
    assert list(expo.open_checkpoint(folder / "out").tensors) == ["w"]


def test_nothing_in_common_is_refused_in(tmp_path):
    write_checkpoint(tmp_path / "sft", {"a": torch.ones(2)})
    write_checkpoint(tmp_path / "dpo", {"b": torch.ones(2)})
    refused_in(tmp_path, "nothing to write", on_mismatch="skip")


def test_shapes_that_differ_are_refused_with_both_or_follow_the_policy(tmp_path):
    sft = {"w": torch.zeros(4, 3), "v": torch.zeros(5), "u": torch.zeros(2)}
    dpo = {"w": torch.ones(3, 4), "v": torch.ones(6), "u": torch.ones(2)}
    write_checkpoint(tmp_path / "sft", sft)
    write_checkpoint(tmp_path / "dpo", dpo)
    refused_in(tmp_path, "2 problems", "w: shapes differ", "(3, 4)", "(4, 3)", "v: shapes differ", "--on-mismatch copy")
    _, out = run_in(tmp_path, on_mismatch="copy")
    assert out["w"][1:] == ((3, 4), raw(dpo["w"])) and out["v"][2] == raw(dpo["v"])
    assert decode(out["u"][2], "F32").tolist() == [1.5, 1.5]


def test_every_pair_of_float_types_is_computed_and_dpos_type_is_written(tmp_path):
    tensors = {}
    for i, ta in enumerate(FORMATS):
        for j, tb in enumerate(FORMATS):
            b = draw(33, seed=6 * i + j, dtype=tb, spread=1)
            tensors[f"{ta}.{tb}"] = (ta, near(b, seed=7, dtype=ta), tb, b)
    write_pair(tmp_path, tensors)
    _, out = run_in(tmp_path)
    for name, (_, a, tb, b) in tensors.items():
        assert out[name][0] == tb
        assert decode(out[name][2], tb).tolist() == rounded(b + ALPHA * (b - a), tb).tolist()


def test_a_float_against_an_integer_is_refused_or_copied(tmp_path):
    write_checkpoint(tmp_path / "sft", {"w": torch.zeros(4, dtype=torch.int8), "v": torch.ones(1)})
    write_checkpoint(tmp_path / "dpo", {"w": torch.ones(4), "v": torch.ones(1)})
    refused_in(tmp_path, "w: types differ", "F32", "I8", "--on-mismatch copy")
    assert run_in(tmp_path, on_mismatch="copy")[1]["w"][2] == raw(torch.ones(4))


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
    assert run_in(tmp_path)[1]["x"] == (dtype, (8, 8), body)
    assert expo.open_checkpoint(tmp_path / "out").tensors["x"].dtype.name == dtype
    write_stored(tmp_path / "sft" / "model.safetensors", {"x": (dtype, (8, 8), other), "w": w})
    recipe = expo.extrapolation(sft=tmp_path / "sft", dpo=tmp_path / "dpo")
    with pytest.raises(ExpoError, match=f"x is {dtype}"):
        expo.run(expo.plan(recipe), tmp_path / "again")
    assert not list(tmp_path.glob("again*"))
    assert streamed(expo.extrapolation(sft=tmp_path / "sft", dpo=tmp_path / "dpo", on_mismatch="copy"))[0]["x"] == body


# --- names, configs, pairs -------------------------------------------------------------------------------------------


def test_renamed_tensors_are_computed_and_keep_the_aligned_models_names(tmp_path):
    tensors = llama_tensors(dtype=torch.bfloat16)
    moved = nudged(tensors)
    write_checkpoint(tmp_path / "sft", {f"language_model.{name}": t for name, t in tensors.items()}, config=LLAMA)
    write_checkpoint(tmp_path / "dpo", moved, config=LLAMA)
    refused_in(tmp_path, "--rename 'language_model.=>'")
    _, out = run_in(tmp_path, rename=(("language_model.", ""),))
    assert {name: held[2] for name, held in out.items()} == {
        name: pushed(tensors[name], moved[name]) for name in tensors
    }


def test_a_nan_in_a_renamed_input_is_named_in_that_inputs_own_spelling(tmp_path):
    write_checkpoint(tmp_path / "sft", {"old.w": torch.tensor([0.0, torch.nan])})
    write_checkpoint(tmp_path / "dpo", {"new.w": torch.ones(2)})
    with pytest.raises(ExpoError, match=r"old\.w\[1\] is nan in sft"):
        streamed(recipe_of(tmp_path, rename=(("old.", "new."),)))


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
        refused_in(tmp_path, f"({role}) is quantised", word, on_mismatch="copy")


def test_all_problems_come_at_once(tmp_path):
    write_checkpoint(tmp_path / "sft", {"w": torch.ones(2), "x": torch.ones(1)}, config={"quantization_config": {}})
    write_checkpoint(tmp_path / "dpo", {"w": torch.ones(3), "y": torch.ones(1)}, config={})
    refused_in(tmp_path, "3 problems", "quantised", "w: shapes differ", "only in sft", "only in dpo")


def test_different_architectures_are_warned_about_unless_shapes_differ(tmp_path):
    for role, name in (("sft", "LlamaForCausalLM"), ("dpo", "MistralForCausalLM")):
        write_checkpoint(tmp_path / role, {"w": torch.ones(2)}, config={"architectures": [name]})
    report, _ = run_in(tmp_path)
    assert any("different architectures" in text and "Mistral" in text and "Llama" in text for text in report.warnings)


def test_an_unrelated_pair_is_warned_about_and_a_related_one_is_not(tmp_path):
    for seed, warned in ((7, True), (0, False)):
        home = tmp_path / str(seed)
        tensors = llama_tensors(dtype=torch.bfloat16)
        other = llama_tensors(dtype=torch.bfloat16, seed=seed) if seed else nudged(tensors, relative=0.1)
        write_checkpoint(home / "sft", tensors, config=LLAMA)
        write_checkpoint(home / "dpo", other, config=LLAMA)
        heard = []
        plan = expo.plan(recipe_of(home, dtype="float32"))
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

    def listing(repo_id, revision, **_):
        return SHA[repo_id], [path.name for path in download(repo_id, SHA[repo_id], ()).iterdir()]

    monkeypatch.setattr(hub, "_listing", listing)
    monkeypatch.setattr(hub, "_download", download)
    expo.plan(expo.extrapolation(sft="org/dpo", dpo="org/sft"))
    assert "README.md" in asked["org/dpo"]


def test_inputs_from_the_hub_are_recorded_by_repository_and_commit(hub_cache):
    out = hub_cache / "out"
    expo.extrapolate(sft="org/sft", dpo=f"org/dpo@{SHA['org/dpo']}", output=out)
    inputs = json.loads((out / "expo.json").read_text())["inputs"]
    assert {role: (i["repo_id"], i["revision"]) for role, i in inputs.items()} == {
        "sft": ("org/sft", SHA["org/sft"]), "dpo": ("org/dpo", SHA["org/dpo"])
    }  # fmt: skip
    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["base_model"] == ["org/sft", "org/dpo"] and "expo" in front["tags"]
    assert str(hub_cache) not in card and "arxiv.org/abs/2404.16792" in card
