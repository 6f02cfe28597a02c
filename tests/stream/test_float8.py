"""Float8 with scales: read exactly, written as bfloat16, or with fresh scales that never overflow."""

import json

import numpy as np
import pytest
import torch
import transformers
from architectures import loaded, same, save_both_layouts, tensors_of
from engine import command
from float8 import BLOCKS, CONFIG, damaged, numbers, quantised, rewritten, steps_apart, write_float8
from pico import write_checkpoint

import expo
from expo.analysis.verify import verify
from expo.checkpoint import Shards, open_checkpoint
from expo.checkpoint.views.scaled import ScaledTensor
from expo.dtypes import DTYPES
from expo.errors import NonFinite
from expo.planning.budget import peak_memory
from expo.stream.rescale import as_stored, rounded_up

TYPES = [torch.float32, torch.bfloat16, torch.float8_e8m0fnu]


def same_bytes(one, other):
    """Whether two folders hold the same tensors, bit for bit."""
    sides = [{n: t.reshape(-1).view(torch.uint8) for n, t in tensors_of(folder).items()} for folder in (one, other)]
    return same(*sides)


def read(folder) -> dict[str, np.ndarray]:
    """Every float32 view of a checkpoint, as expo computes it, in uneven pieces."""
    checkpoint, found = open_checkpoint(folder), {}
    with Shards(checkpoint) as shards:
        for name, spec in checkpoint.tensors.items():
            if isinstance(spec.view, ScaledTensor):
                out = bytearray(spec.n_bytes)
                for at in range(0, len(out), 100_001):
                    shards.read_into(memoryview(out)[at : at + 100_001], spec, at)
                found[name] = np.frombuffer(out, np.float32).reshape(spec.shape)
    return found


@pytest.mark.parametrize("scale_type", TYPES, ids=str)
@pytest.mark.parametrize("kind", BLOCKS)
def test_dequantised_numbers_are_those_of_numpy_bit_for_bit(tmp_path, kind, scale_type):
    wanted = write_float8(tmp_path / "m", 0, kind, scale_type=scale_type)
    found = read(tmp_path / "m")
    assert set(found) == {name for name in wanted if "proj" in name}
    assert all((found[name].view(np.uint32) == wanted[name].view(np.uint32)).all() for name in found)


def test_stacked_experts_have_scales_of_each_matrix(tmp_path):
    generator = np.random.default_rng(0)
    values = generator.normal(size=(3, 40, 70))
    pairs = [quantised(matrix, (16, 32)) for matrix in values]
    tensors = {
        "experts.gate_up_proj": torch.stack([w for w, _ in pairs]),
        "experts.gate_up_proj_scale_inv": torch.stack([s for _, s in pairs]),
    }
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 32]}}
    write_checkpoint(tmp_path / "m", tensors, config=config)
    wanted = np.stack([numbers(w, s, (16, 32)) for w, s in pairs])
    assert (read(tmp_path / "m")["experts.gate_up_proj"] == wanted).all()


@pytest.fixture(scope="module", params=BLOCKS)
def float8_pair(request, tmp_path_factory):
    """(folder, numbers of sft, numbers of dpo, kind)."""
    home = tmp_path_factory.mktemp("float8")
    sft, dpo = (write_float8(home / name, seed, request.param) for seed, name in enumerate(("sft", "dpo")))
    return home, sft, dpo, request.param


def test_the_output_is_bfloat16_and_its_config_speaks_of_no_quantisation(float8_pair, tmp_path, capsys):
    home, sft, dpo, _ = float8_pair
    done, *_ = command(capsys, "extrapolate", "--sft", home / "sft", "--dpo", home / "dpo", "-o", tmp_path / "out")
    assert done == 0
    found = tensors_of(tmp_path / "out")
    assert found.keys() == dpo.keys() and {t.dtype for t in found.values()} == {torch.bfloat16}
    wrong = 0
    for name, own in found.items():
        exact = dpo[name].astype(np.float64) + 0.3 * (dpo[name].astype(np.float64) - sft[name])
        wrong += (own.double() != torch.from_numpy(exact).bfloat16().double()).sum().item()
    assert wrong <= 1e-3 * sum(t.numel() for t in found.values())
    assert json.loads((tmp_path / "out/config.json").read_text()) == CONFIG
    result = verify(tmp_path / "out", recompute=1.0, inputs={"sft": str(home / "sft"), "dpo": str(home / "dpo")})
    assert not result.problems


def test_requantised_results_are_within_a_step_of_numpys_and_no_scale_overflows(float8_pair, tmp_path):
    home, sft, dpo, kind = float8_pair
    pair = {"sft": home / "sft", "dpo": home / "dpo"}
    expo.extrapolate(**pair, output=tmp_path / "out", requantize=True)
    found, stored = tensors_of(tmp_path / "out"), tensors_of(home / "dpo")
    assert {n: (t.dtype, t.shape) for n, t in found.items()} == {n: (t.dtype, t.shape) for n, t in stored.items()}
    for name in (name for name in dpo if "proj" in name):
        exact = dpo[name].astype(np.float64) + 0.3 * (dpo[name].astype(np.float64) - sft[name])
        weight, scales = quantised(exact, BLOCKS[kind])
        assert steps_apart(found[name], weight) <= 1
        own = found[name + "_scale_inv"].double().numpy().reshape(scales.shape)
        assert np.allclose(own, scales.numpy(), rtol=1e-6)
        assert np.isfinite(found[name].float().numpy()).all() and found[name].float().abs().max() == 448
    stated = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    assert stated == json.loads((home / "dpo/config.json").read_text())["quantization_config"]
    result = verify(tmp_path / "out", recompute=1.0, inputs={name: str(path) for name, path in pair.items()})
    assert not result.problems
    expo.extrapolate(**pair, output=tmp_path / "again", requantize=True, threads=3)
    assert same_bytes(tmp_path / "out", tmp_path / "again")


def test_alpha_0_copies_float8_and_scales_as_they_are(float8_pair, tmp_path):
    home, _, _, _ = float8_pair
    expo.extrapolate(sft=home / "sft", dpo=home / "dpo", alpha=0, output=tmp_path / "out", requantize=True)
    assert same_bytes(tmp_path / "out", home / "dpo")


def test_scales_of_powers_of_two_stay_powers_of_two(tmp_path):
    for seed, name in enumerate(("sft", "dpo")):
        write_float8(tmp_path / name, seed, "block", scale_type=torch.float8_e8m0fnu, scale_fmt="ue8m0")
    expo.extrapolate(sft=tmp_path / "sft", dpo=tmp_path / "dpo", output=tmp_path / "out", requantize=True)
    found = tensors_of(tmp_path / "out")
    scales = [t for name, t in found.items() if name.endswith("_scale_inv")]
    assert {t.dtype for t in scales} == {torch.float8_e8m0fnu}
    assert all(224 < t.float().abs().max() <= 448 for name, t in found.items() if t.dtype == torch.float8_e4m3fn)


@pytest.mark.parametrize("name", ["F32", "BF16", "F16"])
def test_rounding_up_gives_the_smallest_number_that_is_not_below(name):
    values = np.abs(np.random.default_rng(0).normal(0, 1e-3, 4000)) + 1e-30
    found = rounded_up(values, DTYPES[name], powers=False)
    narrow = torch.from_numpy(found).to(getattr(torch, DTYPES[name].torch_name))
    assert (found >= values).all() and (narrow.double().numpy() == found).all()
    bits = narrow.view(torch.int32 if name == "F32" else torch.int16) - 1
    assert (bits.view(narrow.dtype).double().numpy() < values).all()


def test_powers_of_two_are_stored_by_their_exponent():
    values = np.array([1e-45, 0.25, 0.3, 1.0, 3.0, 2.0**127])
    found = rounded_up(values, DTYPES["F8_E8M0"], powers=True)
    assert found.tolist() == [2.0**-127, 0.25, 0.5, 1.0, 4.0, 2.0**127]
    assert as_stored(found, DTYPES["F8_E8M0"]).tolist() == [0, 125, 126, 127, 129, 254]


def test_a_side_that_is_not_quantised_fits_one_that_is(float8_pair, tmp_path):
    home, sft, dpo, _ = float8_pair
    plain = {name: torch.from_numpy(values) for name, values in sft.items()}
    write_checkpoint(tmp_path / "plain", plain, config=CONFIG)
    one = expo.extrapolate(sft=tmp_path / "plain", dpo=home / "dpo", output=tmp_path / "one", dtype="float32")
    expo.extrapolate(sft=home / "sft", dpo=home / "dpo", output=tmp_path / "two", dtype="float32")
    a, b = tensors_of(tmp_path / "one"), tensors_of(tmp_path / "two")
    assert one.tensors == len(dpo) and all(torch.allclose(a[n], b[n], rtol=1e-6, atol=1e-9) for n in a)


def test_memory_is_that_of_plain_checkpoints(float8_pair, tmp_path):
    home, _, dpo, _ = float8_pair
    plain = {name: torch.from_numpy(values).bfloat16() for name, values in dpo.items()}
    for name in ("a", "b"):
        write_checkpoint(tmp_path / name, plain, config=CONFIG)
    needed = [
        peak_memory(expo.plan(expo.extrapolation(sft=sft, dpo=dpo)), 2)
        for sft, dpo in ((home / "sft", home / "dpo"), (tmp_path / "a", tmp_path / "b"))
    ]
    assert needed[0] - needed[1] < 2**22  # of 240 MiB; what a worker converts at a time


def test_a_nan_in_float8_is_named_where_it_lies(tmp_path):
    for seed, name in enumerate(("sft", "dpo")):
        write_float8(tmp_path / name, seed, "block")
    damaged(tmp_path / "dpo", "model.layers.0.mlp.up_proj.weight", b"\x00\x7f")
    for settings in ({}, {"requantize": True}):
        with pytest.raises(NonFinite, match=r"layers\.0\.mlp\.up_proj\.weight\[1\] is nan in dpo"):
            expo.extrapolate(sft=tmp_path / "sft", dpo=tmp_path / "dpo", output=tmp_path / "out", **settings)


ACTIVATIONS = {
    "model.layers.0.mlp.up_proj.input_scale": 2.0,
    "model.layers.0.mlp.up_proj.input_scale_ub": 1200.0,
    "model.layers.0.self_attn.kv_scale": 3.0,
    "model.layers.0.self_attn.k_proj.k_scale": 4.0,
    "model.layers.0.mlp.experts.gate_up_proj_activation_scale": 5.0,
}


def test_scales_of_activations_are_left_out_with_the_quantisation_and_kept_with_it(tmp_path):
    for seed, name in enumerate(("sft", "dpo")):
        write_float8(tmp_path / name, seed, "per-tensor")
        rewritten(tmp_path / name, lambda t: t.update({n: torch.tensor(value) for n, value in ACTIVATIONS.items()}))
    pair = {"sft": tmp_path / "sft", "dpo": tmp_path / "dpo"}
    expo.extrapolate(**pair, output=tmp_path / "plain")
    expo.extrapolate(**pair, output=tmp_path / "again", requantize=True)
    assert not any("scale" in name for name in tensors_of(tmp_path / "plain"))
    kept = tensors_of(tmp_path / "again")
    assert {name: kept[name].item() for name in ACTIVATIONS} == ACTIVATIONS


def test_float8_on_one_side_fits_another_layout_on_the_other(tmp_path):
    home = save_both_layouts(tmp_path, "qwen3_moe")
    plain = tensors_of(home / "sft/original")
    config = json.loads((home / "sft/original/config.json").read_text())
    tensors, wide = {}, {}
    for name, values in plain.items():
        if ".experts." in name:
            tensors[name], tensors[name + "_scale_inv"] = quantised(values.double().numpy(), (16, 16))
            wide[name] = torch.from_numpy(numbers(tensors[name], tensors[name + "_scale_inv"], (16, 16)))
        else:
            tensors[name] = wide[name] = values
    stated = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 16]}}
    write_checkpoint(tmp_path / "float8", tensors, shards=3, config=config | stated)
    write_checkpoint(tmp_path / "wide", wide, config=config)
    outs = []
    for sft, dpo in (("float8", "dpo/module"), ("wide", "dpo/module")):
        expo.extrapolate(sft=tmp_path / sft, dpo=home / dpo, output=tmp_path / f"out-{sft}", dtype="float32")
        outs.append(tensors_of(tmp_path / f"out-{sft}"))
    assert all(torch.allclose(outs[0][n], outs[1][n], rtol=1e-6, atol=1e-9) for n in outs[0])
    assert not same(outs[0], tensors_of(home / "dpo/module"))


def test_transformers_reads_a_requantised_result_as_the_numbers_that_expo_reads(tmp_path):
    home, block = save_both_layouts(tmp_path, "qwen3_moe"), (16, 16)
    stated = {"quant_method": "fp8", "weight_block_size": list(block), "modules_to_not_convert": ["lm_head"]}
    for role in ("sft", "dpo"):
        tensors = {}
        for name, values in tensors_of(home / role / "original").items():
            tensors[name] = values
            if "proj" in name:
                tensors[name], tensors[name + "_scale_inv"] = quantised(values.double().numpy(), block)
        config = json.loads((home / role / "original/config.json").read_text())
        write_checkpoint(tmp_path / f"{role}8", tensors, config=config | {"quantization_config": stated})
    out = tmp_path / "out"
    expo.extrapolate(sft=tmp_path / "sft8", dpo=tmp_path / "dpo8", output=out, requantize=True)
    expo.extrapolate(sft=out, dpo=out, alpha=0, output=tmp_path / "wide", dtype="float32")
    settings = transformers.FineGrainedFP8Config(weight_block_size=block, dequantize=True)
    model, found = transformers.Qwen3MoeForCausalLM.from_pretrained(
        out, quantization_config=settings, output_loading_info=True, dtype=torch.float32
    )
    assert not found["missing_keys"] and not found["unexpected_keys"]
    ours, theirs = loaded(tmp_path / "wide").state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[n].float(), theirs[n].float()) for n in ours)
