"""What holds whatever the weights are: alpha 0 is B, shared elements keep their bits, same recipe means same bytes."""

import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from engine import command, streamed
from oracle import FORMATS, TORCH_NAMES, decode, draw, encode, near, read_stored, write_pair, write_stored
from pico import nudged, pico_pair, write_checkpoint
from safetensors.torch import load_file

import expo
from expo.ops import SEGMENT


def finite_patterns(dtype, n, seed):
    """Any bits that are finite numbers: subnormals, both zeros, the largest."""
    raw = np.frombuffer(np.random.default_rng(seed).bytes(n * FORMATS[dtype].bits // 8), f"V{FORMATS[dtype].bits // 8}")
    raw = raw[np.isfinite(decode(raw.tobytes(), dtype))]
    edges = np.array([0.0, -0.0, FORMATS[dtype].largest, -FORMATS[dtype].largest])
    return raw.tobytes() + encode(edges, dtype)


def written(inputs, **recipe):
    settings = {name: recipe.pop(name) for name in ("tile", "threads") if name in recipe}
    return streamed(expo.extrapolation(**inputs, **recipe), **settings)[0]


# --- alpha 0, zeros and shared elements ------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0, 0.0, -0.0])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_alpha_zero_is_the_aligned_model_bit_for_bit(tmp_path, alpha, rounding):
    a, b = {}, {}
    for i, dtype in enumerate(FORMATS):
        raw = finite_patterns(dtype, 5000, i)
        shape = (len(raw) * 8 // FORMATS[dtype].bits,)
        a[dtype], b[dtype] = (dtype, shape, bytes(len(raw))), (dtype, shape, raw)
    b["ids"] = a["ids"] = ("I64", (2,), bytes(range(16)))
    inputs = {
        "sft": write_stored(tmp_path / "sft" / "model.safetensors", a),
        "dpo": write_stored(tmp_path / "dpo" / "model.safetensors", b),
    }
    report = expo.extrapolate(**inputs, alpha=alpha, rounding=rounding, output=tmp_path / "out")
    assert read_stored(tmp_path / "out") == dict(read_stored(inputs["dpo"]))
    assert report.fidelity.multiple is None


def test_alpha_zero_in_another_type_is_the_aligned_model_rounded_to_it(tmp_path):
    b = draw(3000, seed=1, dtype="F32")
    inputs = write_pair(tmp_path, {"w": ("F32", b * 2, "F32", b)})
    assert written(inputs, alpha=0, dtype="bfloat16")["w"] == encode(b, "BF16")


@pytest.mark.parametrize("alpha", [0.3, -0.3, 1.0, -1.0, 5.0, 1e-30, -1e-30])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_elements_that_the_models_share_keep_their_bits_whatever_the_sign_of_zero_and_alpha(tmp_path, alpha, rounding):
    tensors = {}
    for i, dtype in enumerate(FORMATS):
        shared = decode(finite_patterns(dtype, 2000, i), dtype)
        zeros_a, zeros_b = np.array([0.0, 0.0, -0.0, -0.0]), np.array([0.0, -0.0, 0.0, -0.0])
        moved = draw(500, seed=i, dtype=dtype, spread=1)
        b = np.concatenate([shared, zeros_b, moved])
        a = np.concatenate([shared, zeros_a, near(moved, seed=i + 1, dtype=dtype)])
        tensors[dtype] = (dtype, a, dtype, b)
    tensors["F32.BF16"] = ("F32", np.array([0.0, -0.0, 1.5]), "BF16", np.array([-0.0, 0.0, 1.5]))
    out = written(write_pair(tmp_path, tensors), alpha=alpha, rounding=rounding)
    for name, (_, a, dtype, b) in tensors.items():
        width = FORMATS[dtype].bits // 8
        before = encode(b, dtype)
        for i in np.flatnonzero(a == b):
            kept = out[name][i * width : (i + 1) * width] == before[i * width : (i + 1) * width]
            assert kept, (name, a[i], b[i], decode(out[name], dtype)[i])


@pytest.mark.parametrize("alpha", [0.3, -0.3])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F8_E5M2"])
def test_infinities_that_the_models_share_keep_their_bits_where_they_are_allowed(tmp_path, dtype, alpha):
    raw = torch.tensor([math.inf, -math.inf, 1.0], dtype=torch.float64).to(getattr(torch, TORCH_NAMES[dtype]))
    raw = raw.view(torch.uint8).numpy().tobytes()
    inputs = {
        "sft": write_stored(tmp_path / "a.safetensors", {"mask": (dtype, (3,), raw)}),
        "dpo": write_stored(tmp_path / "b.safetensors", {"mask": (dtype, (3,), raw)}),
    }
    assert written(inputs, alpha=alpha, allow_non_finite=True)["mask"] == raw


# --- same recipe, same bytes -----------------------------------------------------------------------------------------

WAYS = {
    "nearest": {},
    "stochastic": {"rounding": "stochastic", "seed": 3},
    "stochastic float32": {"rounding": "stochastic", "dtype": "float32"},
    "stochastic float8": {"rounding": "stochastic", "dtype": "float8_e4m3fn"},
    "float16": {"dtype": "float16"},
    "reference": {"arithmetic": "reference"},
    "copy": {"alpha": 0},
}


@pytest.fixture(scope="module")
def awkward_pair(tmp_path_factory):
    """A pair of odd sizes in several types, one tensor longer than a segment."""
    tensors = {}
    for i, (ta, tb, n) in enumerate(
        [("BF16", "BF16", SEGMENT + 1001), ("F32", "F32", 70_001), ("F64", "F64", 5003), ("F16", "BF16", 9999),
         ("F8_E4M3", "F8_E4M3", 4001), ("BF16", "F16", 1), ("F32", "F8_E5M2", 0)]
    ):  # fmt: skip
        b = draw(n, seed=i, dtype=tb, spread=3)
        tensors[f"t{i}"] = (ta, near(b, seed=i + 50, dtype=ta), tb, b)
    return write_pair(tmp_path_factory.mktemp("pair"), tensors)


@pytest.mark.parametrize("way", WAYS)
def test_tile_size_and_threads_never_change_a_bit_nor_a_figure(awkward_pair, way):
    recipe = expo.extrapolation(**awkward_pair, **{"alpha": 0.3, **WAYS[way]})
    right, report = streamed(recipe, tile=2 * SEGMENT)
    for tile, threads in [(1000, 2), (4096, 3), (10_008, 1), (65_536, 4), (SEGMENT, 2)]:
        found, again = streamed(recipe, tile=tile, threads=threads)
        assert found == right, (tile, threads)
        assert again.hashes == report.hashes
        if report.effective_alpha is not None:
            assert again.effective_alpha == pytest.approx(report.effective_alpha, rel=1e-3)
    one, four = (streamed(recipe, threads=threads)[1].effective() for threads in (1, 4))
    assert one == four


def test_a_tile_of_an_odd_number_of_elements_changes_nothing_either(tmp_path):
    b = draw(5000, seed=0, dtype="BF16")
    inputs = write_pair(tmp_path, {"w": ("BF16", near(b, seed=1, dtype="BF16"), "BF16", b)})
    for rounding in ("nearest", "stochastic"):
        right = written(inputs, rounding=rounding)
        for tile in (7, 333, 1001):
            assert written(inputs, rounding=rounding, tile=tile) == right


def test_two_runs_elsewhere_with_other_threads_and_hash_seeds_are_the_same_to_the_byte(tmp_path):
    outs = []
    for seed, threads in [("1", 1), ("77", 4)]:
        home = tmp_path / f"home-{seed}"
        pico_pair(home, side_files={"tokenizer.json": "{}", "sub/template.jinja": "{{ x }}"})
        command = ["extrapolate", "--sft", "sft", "--dpo", f"{home}/dpo", "-o", "out", "--alpha", "0.5"]
        done = subprocess.run(
            [sys.executable, "-m", "expo", *command, "--threads", str(threads), "--rounding", "stochastic"],
            cwd=home, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        outs.append(home / "out")
    one, two = ({str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()} for out in outs)
    assert one == two
    for name, content in one.items():
        assert str(tmp_path).encode() not in content, name
    assert not {"time", "host", "threads", "path"} & set(json.loads(one["expo.json"]))


def test_the_order_of_tensors_and_shards_on_the_other_side_changes_nothing(tmp_path):
    sft, dpo = pico_pair(tmp_path, shards=3)
    weights = {name: tensor for file in sorted(sft.glob("*.safetensors")) for name, tensor in load_file(file).items()}
    names = list(weights)[::-1]
    config = json.loads((sft / "config.json").read_text())
    other = write_checkpoint(tmp_path / "other", weights, shards=[names[0::2], names[1::2]], config=config)
    assert written({"sft": other, "dpo": dpo}) == written({"sft": sft, "dpo": dpo})


# --- stochastic rounding through a run -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs, dtype, unit",
    [("BF16", None, 2.0**-7), ("F16", None, 2.0**-10), ("F32", None, 2.0**-23), ("F8_E4M3", None, 2.0**-3),
     ("F8_E5M2", None, 2.0**-2), ("F32", "bfloat16", 2.0**-7), ("F64", "float32", 2.0**-23)],
)  # fmt: skip
def test_stochastic_rounding_writes_the_asked_multiple_of_a_one_step_delta_in_the_mean(tmp_path, inputs, dtype, unit):
    n = 100_000
    b = np.full(n, 1 + unit)
    paths = write_pair(tmp_path, {"w": (inputs, np.ones(n), inputs, b), "v": (inputs, np.ones(n), inputs, b)})
    stored = {value: key for key, value in TORCH_NAMES.items()}.get(dtype, inputs)
    first = written(paths, alpha=0.3, dtype=dtype, rounding="stochastic")
    steps = (decode(first["w"], stored) - b) / unit
    assert ((steps == 0) | (steps == 1)).all()
    assert abs(steps.mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / n)
    assert first == written(paths, alpha=0.3, dtype=dtype, rounding="stochastic")
    other = decode(written(paths, alpha=0.3, dtype=dtype, rounding="stochastic", seed=1)["w"], stored)
    for name, found in (("another seed", other), ("another tensor", decode(first["v"], stored))):
        agreeing = np.mean(found == decode(first["w"], stored))
        assert abs(agreeing - 0.58) < 5 * math.sqrt(0.58 * 0.42 / n), name
    nearest = decode(written(paths, alpha=0.3, dtype=dtype)["w"], stored)
    assert (nearest == b).all()


def test_stochastic_rounding_gives_tied_copies_the_same_bytes(tmp_path):
    head = draw(640, seed=0, dtype="BF16")
    body = {"model.embed_tokens.weight": head, "lm_head.weight": head, "model.norm.weight": head}
    tensors = {
        name: ("BF16", near(head, seed=1, dtype="BF16").reshape(40, 16), "BF16", head.reshape(40, 16)) for name in body
    }
    write_pair(tmp_path, tensors)
    for role in ("sft", "dpo"):
        (tmp_path / role / "config.json").write_text('{"tie_word_embeddings": true}')
    out = written({"sft": tmp_path / "sft", "dpo": tmp_path / "dpo"}, rounding="stochastic")
    assert out["lm_head.weight"] == out["model.embed_tokens.weight"] != out["model.norm.weight"]


# --- reference arithmetic --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.5, 1.0, -0.25, 0.0, 1 / 3, 8])
def test_reference_arithmetic_is_the_bfloat16_expression_of_torch_on_whole_tensors(tmp_path, dtype, alpha):
    noise = torch.Generator().manual_seed(0)
    sft = {
        str(shape): (torch.randn(shape, generator=noise) * 0.05).to(dtype)
        for shape in [(), (1,), (0,), (3,), (17, 31), (129, 257), (5, 3, 7, 2), (70_001,)]
    }
    sft["zeros"] = torch.tensor([0.0, -0.0, 0.0, -0.0], dtype=dtype)
    dpo = nudged(sft, relative=0.02) | {"zeros": torch.tensor([0.0, -0.0, -0.0, 0.0], dtype=dtype)}
    a, b = write_checkpoint(tmp_path / "a", sft), write_checkpoint(tmp_path / "b", dpo)
    recipe = expo.extrapolation(sft=a, dpo=b, alpha=alpha, arithmetic="reference")
    for tile in (1000, 65_536):
        out = streamed(recipe, tile=tile, threads=2)[0]
        for name in sft:
            p0, p1 = sft[name].to(torch.bfloat16), dpo[name].to(torch.bfloat16)
            right = p1 + alpha * (p1 - p0)
            assert out[name] == right.reshape(-1).view(torch.int16).numpy().tobytes(), name


def test_reference_arithmetic_switches_sampling_on_and_writes_bfloat16(tmp_path):
    sft, dpo = pico_pair(tmp_path, dtype=torch.float32)
    (dpo / "generation_config.json").write_text('{"top_p": 0.9,\r\n "do_sample": false, "eos_token_id": [2, 3]}')
    out = tmp_path / "out"
    expo.extrapolate(sft=sft, dpo=dpo, output=out, arithmetic="reference")
    assert json.loads((out / "generation_config.json").read_bytes()) == {
        "top_p": 0.9, "do_sample": True, "eos_token_id": [2, 3]
    }  # fmt: skip
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert {dtype for dtype, _, _ in read_stored(out).values()} == {"BF16"}
    for content in ("{}", '{"eos_token_id": 2}', '{"do_sample": true}', "{\n}\n"):
        (dpo / "generation_config.json").write_text(content)
        shutil.rmtree(out)
        expo.extrapolate(sft=sft, dpo=dpo, output=out, arithmetic="reference")
        right = json.loads(content) | {"do_sample": True}
        assert json.loads((out / "generation_config.json").read_text()) == right


def test_the_same_pair_of_names_reads_the_same_in_python_and_on_the_command_line(tmp_path, capsys):
    sft, dpo = pico_pair(tmp_path)
    expo.extrapolate(sft=sft, dpo=dpo, alpha=0.7, dtype="float16", output=tmp_path / "one")
    options = ["--base", sft, "--aligned", dpo, "--alpha", "0.7", "--dtype", "F16", "-o", tmp_path / "two", "--quiet"]
    assert command(capsys, "extrapolate", *options)[0] == 0
    assert read_stored(tmp_path / "one") == read_stored(tmp_path / "two")
