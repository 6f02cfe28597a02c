"""Checkpoints in different layouts and spellings give, to the bit, what checkpoints in one layout give."""

import itertools
import json

import pytest
import torch
from architectures import LAYOUTS, MODELS, loaded, logits, same, save_both_layouts, tensors_of
from pico import LLAMA, llama_tensors, nudged, write_checkpoint
from safetensors.torch import save_file

import expo
from expo.analysis.diff import diff
from expo.errors import PlanError
from expo.planning.budget import peak_memory, scratch_bytes
from expo.stream import load_model

ALPHA = 0.5


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """kind -> the folder of a pair in both layouts, made once."""
    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = save_both_layouts(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return of


def run(home, sft, dpo, out, **settings):
    expo.extrapolate(
        sft=home / "sft" / sft, dpo=home / "dpo" / dpo, alpha=ALPHA, output=out, overwrite=True, **settings
    )
    return tensors_of(out)


@pytest.mark.parametrize("kind", MODELS)
def test_layouts_change_no_bit_and_the_result_says_what_the_same_arithmetic_in_memory_says(saved, kind, tmp_path):
    home = saved(kind)
    within = {layout: run(home, layout, layout, tmp_path / layout) for layout in LAYOUTS}
    for sft, dpo in itertools.permutations(LAYOUTS, 2):
        out = tmp_path / f"{sft}-{dpo}"
        assert same(run(home, sft, dpo, out), within[dpo])
        a, b = (loaded(home / role / "original") for role in ("sft", "dpo"))
        with torch.no_grad():
            for p, q in zip(b.parameters(), a.parameters(), strict=True):
                p.copy_((p.double() + ALPHA * (p.double() - q.double())).to(p.dtype))
        # Within a rounding: float32 sums are not float64 ones.
        assert torch.allclose(logits(loaded(out)).float(), logits(b).float(), atol=2e-2, rtol=2e-2)
        differ = sum((p != q).sum().item() for p, q in zip(loaded(out).parameters(), b.parameters(), strict=True))
        assert differ <= 1e-3 * sum(p.numel() for p in b.parameters())


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "deepseek_v3"])
@pytest.mark.parametrize(("asked", "as_saved"), [("separate", "original"), ("packed", "module")])
def test_the_output_takes_a_layout_that_is_asked_for(saved, kind, asked, as_saved, tmp_path):
    home = saved(kind)
    wanted = run(home, as_saved, as_saved, tmp_path / "wanted")
    for sft, dpo in itertools.product(LAYOUTS, repeat=2):
        out = tmp_path / f"{sft}-{dpo}"
        assert same(run(home, sft, dpo, out, layout=asked), wanted)
    loaded(out)
    assert expo.open_checkpoint(out).config == expo.open_checkpoint(home / "dpo" / "original").config


def test_a_layout_that_transformers_does_not_know_is_refused(saved, tmp_path):
    home = saved("qwen2")
    recipe = expo.extrapolation(sft=home / "sft/original", dpo=home / "dpo/original", layout="packed")
    with pytest.raises(PlanError, match="knows only one layout of qwen2"):
        expo.plan(recipe)
    bare = [write_checkpoint(tmp_path / name, llama_tensors(), config={}) for name in "ab"]
    with pytest.raises(PlanError, match="names no model_type"):
        expo.plan(expo.extrapolation(sft=bare[0], dpo=bare[1], layout="packed"))


def edited(folder, to, change, config=None):
    """A copy of a checkpoint of one file with its tensors changed."""
    to.mkdir()
    tensors = tensors_of(folder)
    change(tensors)
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    content = json.loads((folder / "config.json").read_text()) | (config or {})
    (to / "config.json").write_text(json.dumps(content))
    return to


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.layers.1.mlp.experts.2.up_proj.weight"), ("of 4", "up_proj", "2 is not stored")),
        (
            lambda t: [t.pop(f"model.layers.0.mlp.experts.3.{p}_proj.weight") for p in ("up", "gate", "down")],
            ("layers.0.mlp.experts", "[3, 32, 32]", "config asks for [4, 32, 32]"),
        ),
    ],
    ids=["one of three", "the last"],
)
def test_experts_that_are_missing_are_named(saved, tmp_path, unreadable, change, words):
    home = saved("qwen3_moe")
    sft = edited(home / "sft/original", tmp_path / "sft", change)
    with pytest.raises(PlanError) as caught:
        expo.plan(expo.extrapolation(sft=sft, dpo=home / "dpo/module"))
    assert all(word in str(caught.value) for word in words), caught.value


def test_differing_numbers_of_experts_are_refused_whatever_the_layout(saved, tmp_path, unreadable):
    home = saved("qwen3_moe")

    def fewer(tensors):
        for name in list(tensors):
            if ".experts.3." in name:
                del tensors[name]
            if name.endswith("mlp.gate.weight"):
                tensors[name] = tensors[name][:3].contiguous()

    sft = edited(home / "sft/original", tmp_path / "sft", fewer, {"num_experts": 3})
    for layout in LAYOUTS:
        with pytest.raises(PlanError, match="experts") as caught:
            expo.plan(expo.extrapolation(sft=sft, dpo=home / "dpo" / layout))
        assert "3" in str(caught.value) and "4" in str(caught.value)


def test_names_that_no_mapping_knows_are_shown_in_both_spellings_with_a_rule(tmp_path, unreadable):
    tensors = llama_tensors(dtype=torch.bfloat16)
    dpo = write_checkpoint(tmp_path / "dpo", nudged(tensors), config=LLAMA)
    other = {f"tower.{name}": t for name, t in tensors.items()}
    sft = write_checkpoint(tmp_path / "sft", other, config=LLAMA)
    with pytest.raises(PlanError) as caught:
        expo.plan(expo.extrapolation(sft=sft, dpo=dpo))
    text = str(caught.value)
    assert "--rename 'tower.=>'" in text and "  model.embed_tokens.weight" in text and "  tower.model." in text
    assert "do not cover them" in text


def test_a_base_model_without_its_prefix_fits(tmp_path):
    tensors = llama_tensors(dtype=torch.bfloat16)
    dpo = write_checkpoint(tmp_path / "dpo", nudged(tensors), config=LLAMA)
    stripped = {name.removeprefix("model."): t for name, t in tensors.items()}
    sft = write_checkpoint(tmp_path / "sft", stripped, config=LLAMA | {"architectures": ["LlamaModel"]})
    plan = expo.plan(expo.extrapolation(sft=sft, dpo=dpo))
    assert all(job.method for job in plan.jobs) and not plan.left_out and len(plan.jobs) == len(tensors)


def test_a_live_model_is_filled_from_any_layout(saved, tmp_path):
    home = saved("mixtral")
    out = tmp_path / "out"
    run(home, "original", "original", out)
    recipe = expo.extrapolation(sft=home / "sft/module", dpo=home / "dpo/original", alpha=ALPHA)
    live, stored = load_model(recipe), loaded(out)
    assert same(live.state_dict(), stored.state_dict())


def test_a_comparison_sees_through_layouts(saved):
    home = saved("mixtral")
    one, other = (diff(home / "sft" / layout, home / "dpo/original") for layout in ("original", "module"))
    assert [t.sums for t in one.tensors] == [t.sums for t in other.tensors] and len(one.tensors) == 41
    assert not other.pairing.only_a and not other.pairing.only_b and one.verdict() == other.verdict()


def test_a_view_of_experts_costs_no_more_memory_than_what_it_stands_for(saved):
    home = saved("qwen3_moe")
    plain, mixed = (
        expo.plan(expo.extrapolation(sft=home / "sft" / sft, dpo=home / "dpo/module")) for sft in ("module", "original")
    )
    largest = [max(map(scratch_bytes, plan.jobs)) for plan in (plain, mixed)]
    assert largest[0] == largest[1] and peak_memory(mixed, 2) > peak_memory(plain, 2)  # which counts transformers
    assert mixed.n_bytes_read == plain.n_bytes_read


@pytest.mark.parametrize("config", ["none", "empty"])
def test_an_input_without_a_config_is_taken_for_the_donors_model(saved, config, tmp_path):
    home = saved("mixtral")
    bare = write_checkpoint(tmp_path / "sft", tensors_of(home / "sft/original"), config={})
    if config == "none":
        (bare / "config.json").unlink()
    expo.extrapolate(sft=bare, dpo=home / "dpo/module", alpha=ALPHA, output=tmp_path / "out")
    assert same(tensors_of(tmp_path / "out"), run(home, "module", "module", tmp_path / "within"))
