"""Layouts that cannot be brought together, and configs that a stranger wrote: one reason, and nothing else is done."""

import json

import pytest
from architectures import MORE, loaded, same, save_both_layouts, tensors_of
from engine import command
from safetensors.torch import save_file

import expo
from expo.checkpoint.views.conversions import NoSuchModel, architecture
from expo.errors import PlanError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Pairs of a mixture of experts, and of one whose first checkpoints had their experts' axes swapped."""
    home = tmp_path_factory.mktemp("strangers")
    return {kind: save_both_layouts(home / kind, kind) for kind in ("qwen3_moe", *MORE)}


def edited(folder, to, change=lambda tensors: tensors, config=None):
    """A copy of a checkpoint of one file with other tensors or another config."""
    to.mkdir()
    tensors = {name: tensor.contiguous() for name, tensor in change(tensors_of(folder)).items()}
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    content = json.loads((folder / "config.json").read_text()) | (config or {})
    (to / "config.json").write_text(json.dumps(content))
    return to


def swapped(tensors):
    return {name: t.transpose(1, 2).contiguous() if ".experts." in name else t for name, t in tensors.items()}


def run(sft, dpo, out):
    expo.extrapolate(sft=sft, dpo=dpo, alpha=0.5, output=out)
    return tensors_of(out)


def test_a_donor_with_swapped_axes_keeps_them(saved, tmp_path):
    home = saved["qwen3_vl_moe"]
    plain = {role: home / role / "original" for role in ("sft", "dpo")}
    turned = {role: edited(plain[role], tmp_path / role, swapped) for role in plain}
    wanted = run(plain["sft"], plain["dpo"], tmp_path / "plain")
    assert same(run(turned["sft"], plain["dpo"], tmp_path / "a"), wanted)
    assert same(run(plain["sft"], turned["dpo"], tmp_path / "b"), swapped(wanted))
    assert same(run(turned["sft"], turned["dpo"], tmp_path / "c"), swapped(wanted))
    assert same(loaded(tmp_path / "b").state_dict(), loaded(tmp_path / "plain").state_dict())


WRONG = {
    "a list as the type": ({"model_type": ["qwen3_moe"]}, "names no model_type"),
    "another type": ({"model_type": "martian"}, "no conversions for its model type 'martian'"),
    "no class": ({"architectures": None}, "names no class under architectures"),
    "an object of classes": ({"architectures": {}}, "names no class under architectures"),
    "a function": ({"architectures": ["pipeline"]}, "no model class 'pipeline'"),
    "another class": ({"architectures": ["Trainer"]}, "no model class 'Trainer'"),
    "too many layers": ({"num_hidden_layers": 10**7}, "asks for 10,000,000 num_hidden_layers"),
    "too many labels": ({"num_labels": 10**11}, "num_labels, which no model has"),
    "words for numbers": ({"hidden_size": "wide"}, "cannot make the qwen3_moe that its config.json describes"),
    "too wide": ({"hidden_size": 10**18}, "cannot make the qwen3_moe that its config.json describes"),
}


@pytest.mark.parametrize(("config", "words"), WRONG.values(), ids=WRONG)
def test_a_config_that_describes_no_model_says_why(saved, tmp_path, unreadable, config, words):
    home = saved["qwen3_moe"]
    dpo = edited(home / "dpo/original", tmp_path / "dpo", config=config)
    with pytest.raises(PlanError) as caught:
        expo.plan(expo.extrapolation(sft=home / "sft/module", dpo=dpo))
    assert words in str(caught.value) and "problems" not in str(caught.value)


def test_a_config_fetches_no_kernel_and_opens_no_connection(saved, monkeypatch):
    from huggingface_hub import constants

    config = json.loads((saved["qwen3_moe"] / "dpo/original/config.json").read_text())
    seen = []
    model_class = __import__("transformers").Qwen3MoeForCausalLM
    first = model_class.__init__

    def init(self, own):
        seen.append((own._attn_implementation, constants.HF_HUB_OFFLINE))
        first(self, own)

    monkeypatch.setattr(model_class, "__init__", init)
    architecture(config | {"attn_implementation": "kernels-community/flash-attn"})
    assert seen == [(None, True)] and not constants.HF_HUB_OFFLINE
    with pytest.raises(NoSuchModel):
        architecture(config | {"text_config": {"vision": {"depths": [1, 10**9]}}})


@pytest.mark.parametrize("lost", ["experts.0.", "experts.3."])
def test_a_missing_expert_is_one_complaint_with_the_reason(saved, tmp_path, unreadable, capsys, lost):
    home = saved["qwen3_moe"]
    sft = edited(home / "sft/original", tmp_path / "sft", lambda t: {n: v for n, v in t.items() if lost not in n})
    code, _, err = command(capsys, "extrapolate", "--sft", sft, "--dpo", home / "dpo/module", "-o", tmp_path / "out")
    assert code == 1 and "problems" not in err and "do not cover" not in err
    assert "No change of layout brings them together: sft" in err and "cannot be put together as" in err
    assert not list(tmp_path.glob("out*"))


def test_a_policy_that_lets_tensors_be_missing_still_says_why(saved, tmp_path):
    home = saved["qwen3_moe"]
    sft = edited(home / "sft/original", tmp_path / "sft", lambda t: {n: v for n, v in t.items() if ".0.up" not in n})
    plan = expo.plan(expo.extrapolation(sft=sft, dpo=home / "dpo/module", on_mismatch="skip"))
    assert any("0 is not stored" in warning for warning in plan.warnings), plan.warnings


def test_a_layout_that_cannot_be_had_is_the_only_complaint(saved, tmp_path, unreadable):
    home = saved["qwen3_vl_moe"]
    sft = edited(home / "sft/original", tmp_path / "s", lambda t: {f"x.{name}": tensor for name, tensor in t.items()})
    with pytest.raises(PlanError) as caught:
        expo.plan(expo.extrapolation(sft=sft, dpo=home / "dpo/original", layout="packed"))
    assert "knows only one layout of qwen3_vl_moe" in str(caught.value) and "only in" not in str(caught.value)
