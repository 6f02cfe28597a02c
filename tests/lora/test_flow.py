"""A view goes through a run like a stored tensor: planned, extrapolated, recorded, verified."""

import json

import pytest
import torch
from adapters import llama, save_adapter, values_of
from engine import command, streamed
from oracle import encode, read_stored, rounded

import expo
from expo.errors import OutputError


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A bfloat16 base and two adapters of it."""
    home = tmp_path_factory.mktemp("flow")

    def model():
        return llama(torch.bfloat16)

    model().save_pretrained(home / "base", max_shard_size="60KB")
    for seed, name in enumerate(("sft", "dpo"), 1):
        save_adapter(home / name, model, seed=seed, r=5, target_modules=["q_proj", "down_proj", "embed_tokens"])
    return home


def between(home, **settings):
    return expo.extrapolation(sft=f"{home}/base+{home}/sft", dpo=f"{home}/base+{home}/dpo", **settings)


def test_the_output_has_the_bases_types_and_is_rounded_once(home, tmp_path):
    expo.run(expo.plan(between(home, alpha=0.5)), tmp_path / "out")
    a, b = (values_of(f"{home}/base+{home / name}") for name in ("sft", "dpo"))
    exact = 0
    for name, (dtype, _, stored) in read_stored(tmp_path / "out").items():
        assert dtype == "BF16"
        x, y = a[name].numpy().reshape(-1), b[name].numpy().reshape(-1)
        wanted = encode(rounded(y + 0.5 * (y - x), dtype), dtype)
        exact += sum(p == q for p, q in zip(stored, wanted, strict=True)) / len(stored)
    assert exact / len(a) > 0.9999
    assert sorted(p.name for p in (tmp_path / "out").glob("*.safetensors")) == sorted(
        p.name for p in (home / "base").glob("*.safetensors")
    )


def test_alpha_zero_writes_the_merged_model(home):
    held, _ = streamed(between(home, alpha=0))
    for name, tensor in values_of(f"{home}/base+{home}/dpo").items():
        assert held[name] == tensor.bfloat16().view(torch.uint8).numpy().tobytes()


def test_no_tile_and_no_thread_changes_a_bit(home):
    recipe = between(home, rounding="stochastic")
    wanted, _ = streamed(recipe)
    for tile, threads in ((64, 1), (1000, 3), (1 << 20, 2)):
        assert streamed(recipe, tile=tile, threads=threads)[0] == wanted


def test_adapters_are_recorded_and_checked(home, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--sft", f"{home}/base+{home}/sft", "--dpo", f"{home}/base+{home}/dpo", "-o", out]
    assert command(capsys, "extrapolate", *options)[0] == 0
    recorded = json.loads((out / "expo.json").read_text())["inputs"]["dpo"]
    assert recorded["label"] == "base+dpo" and [a["label"] for a in recorded["adapters"]] == ["dpo"]
    assert {"+1/adapter_model.safetensors", "+1/adapter_config.json"} < set(recorded["files"])
    again = ["verify", out, "--recompute", "100%", "--input", f"sft={home}/base+{home}/sft", "--input"]
    assert command(capsys, *again, f"dpo={home}/base+{home}/dpo")[0] == 0
    code, _, said = command(capsys, *again, f"dpo={home}/base+{home}/sft")
    assert code == 1 and "the recomputed elements differ" in said  # an adapter's header is that of its brother
    code, _, said = command(capsys, *again, f"dpo={home}/base")
    assert code == 1 and "+1/adapter_model.safetensors is missing" in said


def test_another_alpha_in_the_adapters_config_is_another_run(home, tmp_path):
    from expo.planning.identity import fingerprint

    before = fingerprint(expo.plan(between(home)))
    path = home / "dpo" / "adapter_config.json"
    text = path.read_text()
    try:
        path.write_text(text.replace('"lora_alpha": 8', '"lora_alpha": 9'))
        assert path.read_text() != text
        assert fingerprint(expo.plan(between(home))) != before
    finally:
        path.write_text(text)


def test_the_same_base_with_another_adapter_is_another_model(home):
    assert not [text for text in expo.plan(between(home)).warnings if "same checkpoint" in text]
    twice = expo.extrapolation(sft=f"{home}/base+{home}/dpo", dpo=f"{home}/base+{home}/dpo")
    assert [text for text in expo.plan(twice).warnings if "same checkpoint" in text]


def test_nothing_is_written_into_an_adapter(home):
    with pytest.raises(OutputError, match="adapter 1 of dpo"):
        expo.run(expo.plan(between(home)), home / "dpo" / "out")


def test_the_plan_counts_the_bytes_that_are_stored(home):
    plan = expo.plan(between(home))
    base = sum(p.stat().st_size for p in (home / "base").glob("*.safetensors"))
    assert plan.n_bytes_read < 2 * base + sum(p.stat().st_size for p in home.glob("*/adapter_model.safetensors"))


def test_warnings_of_opening_reach_the_user(home, tmp_path, capsys):
    from adapters import edited

    other = edited(home / "dpo", tmp_path / "other", base_model_name_or_path="org/another")
    options = ["--sft", home / "base", "--dpo", f"{home}/base+{other}", "-o", tmp_path / "out", "--dry-run"]
    code, _, said = command(capsys, "extrapolate", *options)
    assert code == 0 and "warning: the adapter other" in said and "org/another" in said
