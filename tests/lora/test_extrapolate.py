"""expo lora extrapolate: the adapter's change is the extrapolated one, exactly; PEFT computes the same logits."""

import json

import pytest
import torch
import yaml
from adapters import edited, gpt2, llama, merged, save_adapter, values_of, write_adapter
from engine import command, tree

from expo.errors import DataError, PlanError, RecipeError
from expo.lora import extrapolate_adapters

ALPHA = 0.3
KINDS = {
    "one rank": (llama, {"r": 4, "target_modules": ["q_proj", "down_proj"]},
                 {"r": 4, "target_modules": ["q_proj", "down_proj"]}),
    "other ranks, scales and modules": (
        llama,
        {"r": 4, "lora_alpha": 3, "use_rslora": True, "target_modules": ["q_proj", "v_proj"]},
        {"r": 6, "lora_alpha": 20, "target_modules": ["q_proj", "down_proj"], "rank_pattern": {"down_proj": 2}},
    ),
    "embeddings": (llama, {"r": 4, "target_modules": ["embed_tokens", "q_proj"]},
                   {"r": 3, "target_modules": ["embed_tokens", "q_proj"]}),
    "whole modules": (llama, {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "model.norm"]},
                      {"r": 3, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "model.norm"]}),
    "weights stored as (in, out)": (gpt2, {"r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True},
                                    {"r": 3, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
}  # fmt: skip
TOKENS = torch.tensor([[1, 5, 9, 33, 100, 7]])


@pytest.fixture(params=KINDS)
def trio(request, tmp_path):
    """(maker of the base, folder of the sft adapter, folder of the dpo adapter)"""
    model, sft, dpo = KINDS[request.param]
    return (
        model,
        save_adapter(tmp_path / "sft", model, seed=1, **sft),
        save_adapter(tmp_path / "dpo", model, seed=2, **dpo),
    )


def extrapolated(model, sft, dpo, alpha: float = ALPHA) -> dict[str, torch.Tensor]:
    """dpo + alpha (dpo - sft) of the merged models, in float64."""
    a, b = merged(model, sft), merged(model, dpo)
    return {name: b[name] + alpha * (b[name] - a[name]) for name in b}


def test_peft_and_the_view_hold_the_extrapolated_weights(trio, tmp_path):
    model, sft, dpo = trio
    found = extrapolate_adapters(sft, dpo, tmp_path / "out", alpha=ALPHA)
    assert found.captured is None
    model().save_pretrained(tmp_path / "base")
    wanted, held = extrapolated(model, sft, dpo), merged(model, tmp_path / "out")
    view = values_of(f"{tmp_path / 'base'}+{tmp_path / 'out'}")
    for name, tensor in wanted.items():
        bound = 8 * 2.0**-24 * float(tensor.abs().max()) + 1e-12  # float32 roundings of both sides
        assert float((held[name] - tensor).abs().max()) <= bound, name
        assert name not in view or float((view[name] - tensor).abs().max()) <= bound, name


def test_peft_computes_the_logits_of_the_extrapolated_model(trio, tmp_path):
    from peft import PeftModel

    model, sft, dpo = trio
    extrapolate_adapters(sft, dpo, tmp_path / "out", alpha=ALPHA)
    whole = model()
    whole.load_state_dict({name: tensor.float() for name, tensor in extrapolated(model, sft, dpo).items()})
    with torch.no_grad():
        wanted = whole.eval()(TOKENS).logits
        found = PeftModel.from_pretrained(model(), tmp_path / "out").eval()(TOKENS).logits
        before = model().eval()(TOKENS).logits
    assert float((found - wanted).abs().max()) < 2e-5 * float(wanted.abs().max())
    assert float((before - wanted).abs().max()) > 1e-2 * float(wanted.abs().max())


def test_ranks_add_up_and_the_scale_is_in_the_factors(tmp_path):
    model, sft, dpo = KINDS["other ranks, scales and modules"]
    places = [save_adapter(tmp_path / n, model, **c) for n, c in (("sft", sft), ("dpo", dpo))]
    found = extrapolate_adapters(*places, tmp_path / "out", alpha=ALPHA)
    ranks = {module.rpartition(".")[2]: rank for module, rank in found.ranks.items()}
    assert ranks == {"q_proj": 10, "down_proj": 2, "v_proj": 4}
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["alpha_pattern"] == config["rank_pattern"] and config["r"] == config["lora_alpha"]
    assert config["use_rslora"] is False


@pytest.fixture
def plain(tmp_path):
    config = {"r": 4, "target_modules": ["q_proj", "down_proj"]}
    return [save_adapter(tmp_path / name, llama, seed=seed, **config) for seed, name in enumerate(("sft", "dpo"), 1)]


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_an_alpha_that_leaves_one_side_out_keeps_the_other_alone(alpha, plain, tmp_path):
    found = extrapolate_adapters(*plain, tmp_path / "out", alpha=alpha)
    assert set(found.ranks.values()) == {4}
    held, wanted = merged(llama, tmp_path / "out"), merged(llama, plain[1 if alpha == 0 else 0])
    assert all(torch.equal(held[name], wanted[name]) for name in wanted)


def test_a_lower_rank_is_the_best_of_that_rank(plain, tmp_path):
    found = extrapolate_adapters(*plain, tmp_path / "out", alpha=ALPHA, rank=3)
    assert set(found.ranks.values()) == {3}
    exact, held = extrapolated(llama, *plain), merged(llama, tmp_path / "out")
    kept = total = 0.0
    for name in (n for n in exact if "q_proj" in n or "down_proj" in n):
        base = llama().state_dict()[name].double()
        values = torch.linalg.svdvals(exact[name] - base).square()
        kept, total = kept + float(values[:3].sum()), total + float(values.sum())
        assert float((held[name] - exact[name]).square().sum()) == pytest.approx(float(values[3:].sum()), rel=1e-4)
    assert found.captured == pytest.approx(kept / total, rel=1e-5) and found.captured < 0.99


def test_by_hand(tmp_path):
    def adapter(name, a, b, **config):
        stored = {"m.lora_A.weight": torch.tensor([a]), "m.lora_B.weight": torch.tensor([[x] for x in b])}
        return write_adapter(tmp_path / name, stored, r=1, lora_alpha=2, **config)

    sft, dpo = adapter("sft", [1.0, 0.0], [1.0, 1.0]), adapter("dpo", [0.0, 1.0], [2.0, 4.0])
    extrapolate_adapters(sft, dpo, tmp_path / "out", alpha=0.5)
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert stored["base_model.model.m.lora_A.weight"].tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert stored["base_model.model.m.lora_B.weight"].tolist() == [[6.0, -1.0], [12.0, -1.0]]


def test_what_is_no_product_of_factors_is_refused_with_the_way_out(plain, tmp_path):
    dora = save_adapter(tmp_path / "dora", llama, r=4, target_modules=["q_proj"], use_dora=True)
    whole = save_adapter(tmp_path / "whole", llama, r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    for other, words in ((dora, "DoRA"), (whole, "lm_head.weight")):
        for pair in ((plain[0], other), (other, plain[1])):
            with pytest.raises(PlanError, match=rf"(?s){words}.*BASE\+A"):
                extrapolate_adapters(*pair, tmp_path / "out")


def test_adapters_of_other_shapes_are_refused(plain, tmp_path):
    wide = save_adapter(tmp_path / "wide", lambda: llama(intermediate_size=140), r=4, target_modules=["down_proj"])
    with pytest.raises(PlanError, match=r"(?s)down_proj: shapes differ.*136.*140"):
        extrapolate_adapters(plain[0], wide, tmp_path / "out")


def test_other_bases_are_warned_about(plain, tmp_path):
    named = [edited(p, tmp_path / f"n{k}", base_model_name_or_path=f"org/{k}") for k, p in enumerate(plain)]
    assert "org/0" in extrapolate_adapters(*named, tmp_path / "out").warnings[0]


@pytest.mark.parametrize("name", ["org/base", "a b/c: d", "./here/base", "org/base@v1", "here/base", ""])
def test_only_a_repository_is_the_base_model_of_the_card(plain, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    named = [edited(p, tmp_path / f"n{k}", base_model_name_or_path=name) for k, p in enumerate(plain)]
    extrapolate_adapters(*named, tmp_path / "out")
    data = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---\n")[1])
    said = {"base_model": name, "base_model_relation": "adapter"} if name == "org/base" else {}
    assert data == {**said, "library_name": "peft", "tags": ["expo", "lora"]}


@pytest.mark.parametrize("options", [{"alpha": float("nan")}, {"alpha": "x"}, {"rank": 0}, {"dtype": "int8"}])
def test_settings_that_cannot_be_are_refused(options, plain, tmp_path):
    with pytest.raises(RecipeError):
        extrapolate_adapters(*plain, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_nan_in_a_factor_stops_it(plain, tmp_path):
    stored = {"m.lora_A.weight": torch.full((1, 2), float("nan")), "m.lora_B.weight": torch.ones(2, 1)}
    broken = write_adapter(tmp_path / "broken", stored, r=1)
    with pytest.raises(DataError, match=r"m\.lora_A"):
        extrapolate_adapters(broken, broken, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_the_command_writes_the_same_bytes_twice(plain, tmp_path, capsys):
    for name in ("one", "two"):
        arguments = ["--sft", plain[0], "--dpo", plain[1], "--alpha", ALPHA, "-o", tmp_path / name]
        code, said, _ = command(capsys, "lora", "extrapolate", *arguments)
        assert code == 0 and "4 modules of rank 8" in said and "exact" in said
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert command(capsys, "verify", tmp_path / "one")[0] == 0
