"""Float8 checkpoints in a live model and under a launcher: the numbers and the bytes of one written checkpoint."""

import pytest
from architectures import LAYOUTS, same, save_both_layouts, tensors_of
from crash import tree
from float8 import write_float8
from launching import launch
from live import state
from transformers import LlamaForCausalLM

import expo
from expo.errors import OutputError


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a float8 pair, and a pair of mixtures of experts in both layouts."""
    folder = tmp_path_factory.mktemp("float8-live")
    for seed, name in enumerate(("sft", "dpo")):
        write_float8(folder / name, seed, "block")
    save_both_layouts(folder / "moe", "qwen3_moe")
    return folder


def test_a_live_model_holds_what_is_written_and_says_nothing_of_a_quantisation(home, tmp_path):
    pair = {"sft": home / "sft", "dpo": home / "dpo"}
    live = expo.load_model(expo.extrapolation(**pair, alpha=0.5))
    assert isinstance(live, LlamaForCausalLM)
    assert getattr(live.config, "quantization_config", None) is None
    for alpha in (0.5, 0.0, -0.7):
        assert expo.load_model(expo.extrapolation(**pair, alpha=alpha), model=live) is live
        expo.extrapolate(**pair, alpha=alpha, output=tmp_path / "out", overwrite=True)
        assert same(state(live), state(LlamaForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")))


def test_a_live_model_takes_no_scales(home):
    recipe = expo.extrapolation(sft=home / "sft", dpo=home / "dpo", requantize=True)
    for given in (recipe, expo.plan(recipe)):
        with pytest.raises(OutputError, match="a live model holds no scales: leave requantize out"):
            expo.load_model(given)


def test_processes_write_the_bytes_of_one_whatever_the_views(home):
    body = f"""
    pair = dict(sft=f"{{home}}/sft", dpo=f"{{home}}/dpo")
    experts = dict(sft=f"{{home}}/moe/sft/{LAYOUTS[0]}", dpo=f"{{home}}/moe/dpo/{LAYOUTS[1]}")
    out = home + "/" + os.environ["INTO"]
    expo.extrapolate(**pair, output=out + "-plain")
    expo.extrapolate(**pair, output=out + "-requantised", requantize=True)
    expo.extrapolate(**experts, output=out + "-experts")
    """
    done = launch(home, body, processes=3)
    assert done.returncode == 0, done.stderr[-3000:]
    pair = {"sft": home / "sft", "dpo": home / "dpo"}
    expo.extrapolate(**pair, output=home / "one-plain")
    expo.extrapolate(**pair, output=home / "one-requantised", requantize=True)
    experts = {role: home / "moe" / role / layout for role, layout in zip(("sft", "dpo"), LAYOUTS, strict=True)}
    expo.extrapolate(**experts, output=home / "one-experts")
    for name in ("plain", "requantised", "experts"):
        assert tree(home / f"many-{name}") == tree(home / f"one-{name}"), name
    assert any("scale_inv" in name for name in tensors_of(home / "many-requantised"))
