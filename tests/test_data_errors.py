"""A NaN, an infinity or an overflow stops the run, names tensor and lowest index, and leaves nothing behind."""

import math

import numpy as np
import pytest
import torch
from engine import streamed, tree
from oracle import FORMATS, TORCH_NAMES, decode, draw, near, read_stored, rounded, step, write_pair, write_stored

import expo
from expo.errors import CopyMismatch, NonFinite, Overflow
from expo.ops import SEGMENT
from expo.planning.budget import TILE

NARROW = [name for name, form in FORMATS.items() if form.bits <= 16]


def raw_of(values, dtype):
    """Bytes of a few values that may be NaN or infinite."""
    wide = torch.tensor(values, dtype=torch.float64)
    return wide.to(getattr(torch, TORCH_NAMES[dtype])).view(torch.uint8).numpy().tobytes()


def with_bad(stored, index, value):
    """A stored tensor with one element replaced."""
    dtype, shape, raw = stored
    width = FORMATS[dtype].bits // 8
    return dtype, shape, raw[: index * width] + raw_of([value], dtype) + raw[(index + 1) * width :]


def spoil(path, bad):
    """Replace elements of a checkpoint's file: (tensor, index, value)."""
    tensors = read_stored(path)
    for name, index, value in bad:
        tensors[name] = with_bad(tensors[name], index, value)
    write_stored(path, tensors)


def pair_of(folder, dtype, n=5000, names=("v", "w")):
    tensors = {}
    for i, name in enumerate(names):
        b = draw(n, seed=i, dtype=dtype, spread=2)
        tensors[name] = (dtype, near(b, seed=i + 9, dtype=dtype), dtype, b)
    return write_pair(folder, tensors)


def refused(error, folder, inputs, *words, **settings):
    """The run stops with this error, and the folder holds what it held before."""
    before = tree(folder)
    with pytest.raises(error) as caught:
        expo.extrapolate(**inputs, output=folder / "out", **settings)
    assert tree(folder) == before
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize("role", ["sft", "dpo"])
@pytest.mark.parametrize(
    "dtype, value", [(d, v) for d in FORMATS for v in ("nan", "inf", "-inf") if "E4M3" not in d or v == "nan"]
)
def test_a_value_that_is_not_finite_stops_the_run_and_is_named_with_its_place(tmp_path, dtype, value, role):
    inputs = pair_of(tmp_path, dtype)
    spoil(inputs[role], [("w", 4321, float(value)), ("w", 4400, float("nan"))])
    where = {"sft": "sft (sft)", "dpo": "dpo (dpo)"}[role]
    refused(NonFinite, tmp_path, inputs, f"w[4321] is {value} in {where}", "--allow-non-finite")


@pytest.mark.parametrize("settings", [{}, {"rounding": "stochastic"}, {"arithmetic": "reference"}, {"saturate": True}])
@pytest.mark.parametrize("alpha", [0.3, -0.3, 1e-300])
def test_no_way_of_rounding_lets_a_nan_or_a_shared_infinity_pass(tmp_path, settings, alpha):
    inputs = pair_of(tmp_path, "BF16")
    for value in (math.nan, math.inf):
        for role in inputs:
            spoil(inputs[role], [("w", 17, value)])
        refused(NonFinite, tmp_path, inputs, f"w[17] is {value}", alpha=alpha, **settings)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(
    "places", [[TILE - 1], [TILE], [SEGMENT - 1, SEGMENT], [SEGMENT], [2 * SEGMENT, SEGMENT + TILE]]
)
def test_the_lowest_of_several_is_named_across_tiles_segments_and_threads(tmp_path, places, threads):
    n = 2 * SEGMENT + 1
    b = np.ones(n)
    inputs = write_pair(tmp_path, {"w": ("F8_E5M2", b * 1.25, "F8_E5M2", b)})
    spoil(inputs["dpo"], [("w", place, math.nan) for place in places])
    with pytest.raises(NonFinite, match=rf"w\[{min(places)}\] is nan in dpo"):
        streamed(expo.extrapolation(**inputs), threads=threads)


def test_the_first_tensor_in_the_outputs_order_is_named_when_several_are_bad(tmp_path):
    inputs = pair_of(tmp_path, "F32", names=[f"t{i}" for i in range(8)])
    spoil(inputs["sft"], [(f"t{i}", 5, math.inf) for i in (7, 3, 5)])
    for threads in (1, 4):
        refused(NonFinite, tmp_path, inputs, "t3[5]", threads=threads)


@pytest.mark.parametrize("settings", [{"alpha": 0}, {"alpha": 0, "dtype": "float32"}, {"on_mismatch": "copy"}])
@pytest.mark.parametrize("dtype", FORMATS)
def test_a_copied_tensor_is_checked_too(tmp_path, dtype, settings):
    inputs = pair_of(tmp_path, dtype)
    tensors = read_stored(inputs["dpo"])
    write_stored(inputs["dpo"], tensors | {"only": with_bad(tensors["w"], 3210, math.nan)})
    write_stored(inputs["sft"], read_stored(inputs["sft"]) | ({"only": tensors["w"]} if "alpha" in settings else {}))
    refused(NonFinite, tmp_path, inputs, "only[3210] is nan in dpo", **settings)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("dtype", FORMATS)
def test_allowed_values_that_are_not_finite_pass_and_change_nothing_else(tmp_path, dtype, rounding):
    inputs = pair_of(tmp_path, dtype)
    clean = streamed(expo.extrapolation(**inputs, rounding=rounding))[0]
    bad = {10: math.nan} if dtype == "F8_E4M3" else {10: math.nan, 11: math.inf, 4999: -math.inf}
    spoil(inputs["dpo"], [("w", place, value) for place, value in bad.items()])
    recipe = expo.extrapolation(**inputs, rounding=rounding, allow_non_finite=True)
    found, right = (decode(run["w"], dtype) for run in (streamed(recipe)[0], clean))
    for place, value in bad.items():
        assert found[place] == value or (math.isnan(value) and math.isnan(found[place]))
    kept = ~np.isin(np.arange(len(found)), list(bad))
    assert np.array_equal(found[kept], right[kept])
    report = expo.extrapolate(**inputs, rounding=rounding, allow_non_finite=True, output=tmp_path / "out")
    assert 0 < report.effective_alpha < 1 and np.array_equal(
        decode(read_stored(tmp_path / "out")["w"][2], dtype), found, equal_nan=True
    )


def test_an_allowed_infinity_never_turns_into_a_number(tmp_path):
    inputs = {
        "sft": write_stored(tmp_path / "a.safetensors", {"w": ("BF16", (2,), raw_of([math.inf, 1.0], "BF16"))}),
        "dpo": write_stored(tmp_path / "b.safetensors", {"w": ("BF16", (2,), raw_of([-math.inf, 2.0], "BF16"))}),
    }
    for dtype in NARROW:
        recipe = expo.extrapolation(**inputs, dtype=TORCH_NAMES[dtype], allow_non_finite=True)
        first = decode(streamed(recipe)[0]["w"], dtype)[0]
        assert not math.isfinite(first), f"-inf became {first} in {dtype}"


# --- overflow --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("dtype", FORMATS)
def test_a_result_beyond_the_range_stops_the_run_unless_it_is_clamped(tmp_path, dtype, rounding):
    top = FORMATS[dtype].largest
    b = np.array([1.0, top, -top, top])
    a = np.array([1.0, top, top / 2, top / 2])
    inputs = write_pair(tmp_path, {"w": (dtype, a, dtype, b)})
    words = ["w[2] would be -", f"beyond the largest {dtype}", "--saturate"]
    refused(Overflow, tmp_path, inputs, *words, rounding=rounding, alpha=0.5)
    recipe = expo.extrapolation(**inputs, rounding=rounding, alpha=0.5, saturate=True)
    assert decode(streamed(recipe)[0]["w"], dtype).tolist() == [1.0, top, -top, top]


@pytest.mark.parametrize("dtype", NARROW)
def test_a_value_that_the_output_type_cannot_hold_stops_the_run_even_when_copied(tmp_path, dtype):
    wide = np.array([1.0, FORMATS[dtype].largest * 1.5 if dtype != "BF16" else 3.4e38])
    inputs = write_pair(tmp_path, {"w": ("F32", wide * 0.99, "F32", wide)})
    for alpha in (0, 0.01):
        settings = {"alpha": alpha, "dtype": TORCH_NAMES[dtype]}
        refused(Overflow, tmp_path, inputs, "w[1]", **settings)
        held = streamed(expo.extrapolation(**inputs, **settings, saturate=True))[0]
        assert decode(held["w"], dtype)[1] == FORMATS[dtype].largest


@pytest.mark.parametrize("wide", ["F32", "F64"])
@pytest.mark.parametrize("dtype", NARROW)
def test_a_value_that_rounds_to_the_largest_is_written_and_the_next_one_stops(tmp_path, dtype, wide):
    top = FORMATS[dtype].largest
    half = float(step(np.array(top), dtype)) / 2
    for x in (top, top + half / 2, top + half, top + half * 1.5):
        inputs = write_pair(tmp_path, {"w": (wide, np.array([0.5]), wide, np.array([x]))})
        settings = {"alpha": 0, "dtype": TORCH_NAMES[dtype]}
        if rounded(np.array(x), dtype) > top:
            refused(Overflow, tmp_path, inputs, "w[0]", **settings)
        else:
            assert decode(streamed(expo.extrapolation(**inputs, **settings))[0]["w"], dtype) == [top]


@pytest.mark.parametrize("dtype", NARROW)
def test_stochastic_rounding_never_takes_a_number_out_of_the_range(tmp_path, dtype):
    top = FORMATS[dtype].largest
    half = float(step(np.array(top), dtype)) / 2
    x = np.full(1000, top + half * 0.9)  # to nearest: `top`; upwards: beyond the range
    inputs = write_pair(tmp_path, {"w": ("F32", x * 0.5, "F32", x)})
    recipe = expo.extrapolation(**inputs, alpha=0, dtype=TORCH_NAMES[dtype], rounding="stochastic")
    try:
        found = decode(streamed(recipe)[0]["w"], dtype)
    except Overflow:
        return
    assert np.isfinite(found).all(), f"{np.mean(~np.isfinite(found)):.0%} of finite values became {found.max()}"


# --- copies that differ ----------------------------------------------------------------------------------------------


def test_integers_that_differ_stop_the_run_and_leave_nothing(tmp_path):
    inputs = pair_of(tmp_path, "BF16")
    ids = np.arange(100_000, dtype="<i8")
    for role in inputs:
        ids[77_777] += 1
        write_stored(inputs[role], read_stored(inputs[role]) | {"ids": ("I64", ids.shape, ids.tobytes())})
    refused(CopyMismatch, tmp_path, inputs, "ids is I64", "differs between sft and dpo", "--on-mismatch copy")
    refused(CopyMismatch, tmp_path, inputs, "ids is I64", alpha=0)
    found = streamed(expo.extrapolation(**inputs, on_mismatch="copy"))[0]
    assert found["ids"] == ids.tobytes()


def test_a_failed_run_leaves_no_parent_folders_that_it_made(tmp_path):
    inputs = pair_of(tmp_path, "BF16")
    spoil(inputs["dpo"], [("w", 0, math.nan)])
    before = tree(tmp_path)
    with pytest.raises(NonFinite):
        expo.extrapolate(**inputs, output=tmp_path / "new" / "deep" / "out")
    assert tree(tmp_path) == before


def test_after_a_data_error_the_same_command_runs_once_the_data_is_right(tmp_path):
    inputs = pair_of(tmp_path, "BF16")
    whole = read_stored(inputs["dpo"])
    spoil(inputs["dpo"], [("w", 1, math.nan)])
    refused(NonFinite, tmp_path, inputs, "w[1]")
    write_stored(inputs["dpo"], whole)
    expo.extrapolate(**inputs, output=tmp_path / "out")
    assert read_stored(tmp_path / "out")["v"][2] == streamed(expo.extrapolation(**inputs))[0]["v"]


@pytest.mark.parametrize(("dtype", "wider"), [("BF16", "float32"), ("F32", "float64"), ("F64", None)])
def test_overflow_advises_a_type_that_is_wider(dtype, wider):
    text = str(Overflow("x", 0, 1e39, dtype, 3e38))
    assert "--saturate" in text and (f"--dtype {wider}." in text if wider else "--dtype" not in text)
