"""Each element of the output is B + alpha (B - A), computed exactly enough, rounded once. Authority: support/oracle."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from engine import streamed
from oracle import (
    FORMATS,
    TORCH_NAMES,
    decode,
    draw,
    encode,
    near,
    read_stored,
    rounded,
    rounded_exactly,
    step,
    values,
    write_pair,
    write_stored,
)

import expo
from expo.ops import SEGMENT
from expo.planning.budget import TILE

NARROW = [name for name, form in FORMATS.items() if form.bits <= 16]


def extrapolated(folder, tensors, alpha=0.3, **settings):
    """name -> the written elements as float64, after a run through files."""
    expo.extrapolate(**write_pair(folder, tensors), alpha=alpha, output=folder / "out", threads=2, **settings)
    return {name: values(stored) for name, stored in read_stored(folder / "out").items()}


def wanted(a, b, alpha, dtype):
    return rounded(b + alpha * (b - a), dtype)


def share_right(found, a, b, alpha, dtype):
    right = wanted(a, b, alpha, dtype)
    assert found.shape == right.shape
    return np.mean(found == right) if found.size else 1.0


def test_the_authority_agrees_with_numpy_and_torch_about_every_pattern():
    for name, form in FORMATS.items():
        if form.bits > 16:
            raw = np.random.default_rng(0).bytes(8 * 4096)
        else:
            raw = np.arange(1 << form.bits).astype(f"<u{form.bits // 8}").tobytes()
        mine = decode(raw, name)
        theirs = torch.frombuffer(bytearray(raw), dtype=getattr(torch, TORCH_NAMES[name])).double().numpy()
        assert np.array_equal(mine, theirs, equal_nan=True)
        finite = mine[np.isfinite(mine)]
        assert decode(encode(finite, name), name).tobytes() == finite.tobytes()
    x = np.random.default_rng(1).standard_normal(20_000) * 2.0 ** np.random.default_rng(2).integers(-26, 15, 20_000)
    assert np.array_equal(rounded(x, "F16"), x.astype(np.float16).astype(np.float64))
    assert np.array_equal(rounded(x, "F32"), x.astype(np.float32).astype(np.float64))
    for name in FORMATS:
        assert [rounded_exactly(Fraction(v), name) for v in x[:50]] == rounded(x[:50], name).tolist()


def test_a_matrix_of_four_by_four_comes_out_as_computed_by_hand(tmp_path):
    a = np.array([[1, 2, 3, 4], [0, 0, 0, 0], [-1, -2, -3, -4], [1, 1, 1, 1]], np.float64)
    b = np.array([[2, 2, 2, 2], [1, -1, 0.5, 0], [-1, -1, -1, -1], [1, 1.0078125, 1.015625, 0.9921875]])
    # alpha 0.5; the last row moves by half a step of bfloat16 (ties: to even), by one step, and below 1 by one step
    out = [[2.5, 2, 1.5, 1], [1.5, -1.5, 0.75, 0], [-1, -0.5, 0, 0.5], [1, 1.015625, 1.0234375, 0.98828125]]
    found = extrapolated(tmp_path, {"w": ("BF16", a, "BF16", b, (4, 4))}, alpha=0.5)
    assert found["w"].reshape(4, 4).tolist() == out


@pytest.mark.parametrize("dtype", [None, *FORMATS])
def test_every_pair_of_input_types_is_rounded_once_into_every_output_type(tmp_path, dtype):
    tensors = {}
    for i, ta in enumerate(FORMATS):
        for j, tb in enumerate(FORMATS):
            b = draw(1501, seed=6 * i + j, dtype=tb)
            tensors[f"{ta}.{tb}"] = (ta, near(b, seed=100 + 6 * i + j, dtype=ta), tb, b, (19, 79))
    found = extrapolated(tmp_path, tensors, dtype=dtype and TORCH_NAMES[dtype])
    for name, (ta, a, tb, b, _) in tensors.items():
        share = share_right(found[name], a, b, 0.3, dtype or tb)
        wide = {ta, tb, dtype or tb} & {"F64", "F32"}
        assert share == 1 if wide else share >= 0.999, name


@pytest.mark.parametrize("dtype", FORMATS)
def test_scalars_empty_tensors_and_odd_sizes_are_computed_like_any_other(tmp_path, dtype):
    shapes = [(), (0,), (0, 4), (3, 0, 2), (1,), (7,), (1, 1, 1), (3, 5), (13, 17, 3)]
    tensors = {}
    for i, shape in enumerate(shapes):
        b = draw(int(np.prod(shape)), seed=i, dtype=dtype)
        tensors[str(shape)] = (dtype, near(b, seed=50 + i, dtype=dtype), dtype, b, shape)
    found = extrapolated(tmp_path, tensors)
    stored = read_stored(tmp_path / "out")
    for name, (_, a, _, b, shape) in tensors.items():
        assert stored[name][:2] == (dtype, shape)
        assert found[name].tolist() == wanted(a, b, 0.3, dtype).tolist(), name


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_tensor_one_element_longer_than_a_tile_or_a_segment_is_whole(tmp_path, dtype):
    tensors = {}
    for n in (TILE - 1, TILE, TILE + 1, SEGMENT + 1):
        b = draw(n, seed=n, dtype=dtype)
        tensors[str(n)] = (dtype, near(b, seed=n + 1, dtype=dtype), dtype, b, (n,))
    found = extrapolated(tmp_path, tensors)
    for name, (_, a, _, b, _) in tensors.items():
        right = wanted(a, b, 0.3, dtype)
        assert found[name].size == right.size and found[name][-1] == right[-1]
        assert np.mean(found[name] == right) >= (0.999 if dtype in NARROW else 1), name


@pytest.mark.parametrize("dtype, relative, bar", [("BF16", 0.03, 0.9999), ("BF16", 3.0, 0.999), ("F16", 0.3, 0.999)])
@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.5, 1.0, -0.3])
def test_the_share_of_correctly_rounded_elements_meets_the_bar(tmp_path, dtype, relative, bar, alpha):
    n = 300_000
    b = rounded(np.random.default_rng(3).standard_normal(n) * 0.02, dtype)
    a = near(b, seed=4, dtype=dtype, relative=relative)
    small = np.abs(b - a) <= 0.1 * np.abs(b) if relative < 0.1 else np.full(n, True)
    written, _ = streamed(expo.extrapolation(**write_pair(tmp_path, {"w": (dtype, a, dtype, b)}), alpha=alpha))
    right = decode(written["w"], dtype) == wanted(a, b, alpha, dtype)
    assert right[small].mean() >= bar


@pytest.mark.parametrize("dtype", NARROW)
def test_values_from_the_smallest_subnormal_up_are_rounded_correctly(tmp_path, dtype):
    raw = np.random.default_rng(5).bytes(4 * 20_000)
    x = decode(raw, dtype)
    x = x[np.isfinite(x) & (np.abs(x) < FORMATS[dtype].largest / 8)]
    a, b = x[: len(x) // 2], x[len(x) // 2 : len(x) // 2 * 2]
    written, _ = streamed(expo.extrapolation(**write_pair(tmp_path, {"w": (dtype, a, dtype, b)}), alpha=0.7))
    found, right = decode(written["w"], dtype), wanted(a, b, 0.7, dtype)
    # A and B are unrelated here, and 0.7 a or 1.7 b alone is often as good as a tie, which float32 may miss.
    assert np.mean(found == right) >= 0.99
    assert (np.abs(found - right) <= step(right, dtype)).all()
    tiny = (np.abs(a) < 2.0 ** FORMATS[dtype].min_exponent) & (np.abs(b) < 2.0 ** FORMATS[dtype].min_exponent)
    assert tiny.any() or FORMATS[dtype].exponent == 8


@pytest.mark.parametrize("dtype", FORMATS)
def test_subnormal_inputs_are_not_flushed_to_zero(tmp_path, dtype):
    least = 2.0 ** (FORMATS[dtype].min_exponent - FORMATS[dtype].mantissa)
    b = np.array([1, 2, 3, -1, 3, 1]) * least
    a = np.array([0, 1, 3, 1, 0, 1]) * least
    written, _ = streamed(expo.extrapolation(**write_pair(tmp_path, {"w": (dtype, a, dtype, b)}), alpha=1.0))
    assert (decode(written["w"], dtype) / least).tolist() == [2, 3, 3, -3, 6, 1]


@pytest.mark.parametrize("alpha", [0.3, -0.3, 1 / 3, 1e-9, 1e-300, 7])
@pytest.mark.parametrize("dtype", [*NARROW, "F32"])
def test_no_element_is_more_than_one_step_from_the_rational_result(tmp_path, dtype, alpha):
    b = draw(400, seed=11, dtype=dtype, spread=2)
    a = near(b, seed=12, dtype=dtype, relative=0.2)
    written, _ = streamed(expo.extrapolation(**write_pair(tmp_path, {"w": (dtype, a, dtype, b)}), alpha=alpha))
    right = [
        rounded_exactly(Fraction(y) + Fraction(alpha) * (Fraction(y) - Fraction(x)), dtype)
        for x, y in zip(a, b, strict=True)
    ]
    right = np.array(right)
    assert (np.abs(decode(written["w"], dtype) - right) <= step(right, dtype)).all()


def test_float64_weights_whose_sum_of_squares_overflows_between_tiles_are_still_written(tmp_path):
    b = np.full(3 * TILE, 1.5e152)
    found = extrapolated(tmp_path, {"w": ("F64", 0 * b, "F64", b)}, alpha=0.3)
    assert (found["w"] == 1.5e152 + 0.3 * 1.5e152).all()


def test_float64_weights_whose_squares_overflow_are_still_written(tmp_path):
    b = np.array([1e200, -3e250, 1e300, 2.0, 1e-300, 4e307, 4e307])
    a = np.array([1.1e200, -2e250, 0.9e300, 1.0, 3e-300, -4e307, 3e307])
    found = extrapolated(tmp_path, {"w": ("F64", a, "F64", b), "v": ("F64", b, "F64", a)}, alpha=0.5)
    assert found["w"].tolist() == wanted(a, b, 0.5, "F64").tolist()

    def refuse(word):
        raise AssertionError(f"expo.json is not JSON: {word}")

    json.loads((tmp_path / "out" / "expo.json").read_text(), parse_constant=refuse)


@pytest.mark.parametrize("dtype, relative", [("BF16", 1e-3), ("BF16", 1e-2), ("F32", 1e-2), ("F16", 1e-3)])
def test_effective_alpha_and_cosine_are_the_least_squares_ones(tmp_path, dtype, relative):
    a, b = {}, {}
    for i, name in enumerate(["model.layers.0.w", "model.layers.1.w", "model.norm"]):
        a[name] = rounded(np.random.default_rng(i).standard_normal(70_001) * 0.02, dtype)
        b[name] = near(a[name], seed=i + 10, dtype=dtype, relative=relative)
    inputs = write_pair(tmp_path, {name: (dtype, a[name], dtype, b[name]) for name in a})
    report = expo.extrapolate(**inputs, alpha=0.3, output=tmp_path / "out")
    out = {name: values(stored) for name, stored in read_stored(tmp_path / "out").items()}

    def figures(names):
        exact = np.concatenate([0.3 * (b[name] - a[name]) for name in names])
        moved = np.concatenate([out[name] - b[name] for name in names])
        cosine = (exact @ moved) / np.sqrt((exact @ exact) * (moved @ moved)) if moved.any() else 0.0
        return 0.3 * (exact @ moved) / (exact @ exact), cosine

    alpha, cosine = figures(a)
    assert report.effective_alpha == pytest.approx(alpha, rel=2e-3)
    assert report.fidelity.cosine == pytest.approx(cosine, rel=2e-3)
    assert set(report.groups) == {"model.layers.*.w", "model.norm"}
    layers = report.groups["model.layers.*.w"]
    alpha, cosine = figures(["model.layers.0.w", "model.layers.1.w"])
    assert (0.3 * layers.multiple, layers.cosine) == (pytest.approx(alpha, rel=2e-3), pytest.approx(cosine, rel=2e-3))
    assert bool(report.warnings) == (abs(report.fidelity.multiple - 1) > 0.1)
    assert all("--dtype float32" in text and "--rounding stochastic" in text for text in report.warnings)


def test_two_equal_models_give_the_model_itself_and_no_figures(tmp_path):
    b = draw(1000, seed=1, dtype="BF16")
    inputs = write_pair(tmp_path, {"w": ("BF16", b, "BF16", b)})
    report = expo.extrapolate(**inputs, alpha=0.3, output=tmp_path / "out")
    assert read_stored(tmp_path / "out")["w"][2] == encode(b, "BF16")
    assert report.effective_alpha is None and report.fidelity.multiple is None


def test_a_checkpoint_of_nothing_but_empty_tensors_and_integers_is_written(tmp_path):
    for role in ("sft", "dpo"):
        tensors = {"e": ("BF16", (0, 3), b""), "i": ("I32", (2,), bytes(8)), "f": ("F4", (0,), b"")}
        write_stored(tmp_path / role / "model.safetensors", tensors)
    report = expo.extrapolate(sft=tmp_path / "sft", dpo=tmp_path / "dpo", output=tmp_path / "out")
    assert read_stored(tmp_path / "out") == {name: tensors[name] for name in read_stored(tmp_path / "out")}
    assert report.tensors == 3 and report.effective_alpha is None and json.loads(json.dumps(report.record()))


@pytest.mark.parametrize("name", ["", " ", "ünï.codé", 'a"b\\c', "new\nline", "x" * 5000, "../../etc/passwd", "数.0.w"])
def test_a_tensor_may_have_any_name(tmp_path, name):
    b = np.array([1.0, 2.0])
    found = extrapolated(tmp_path, {name: ("F32", b / 2, "F32", b), "w": ("F32", b, "F32", b)}, alpha=1)
    assert found[name].tolist() == [1.5, 3.0] and set(found) == {name, "w"}
    assert name in json.loads((tmp_path / "out" / "expo.json").read_text())["tensors"]
