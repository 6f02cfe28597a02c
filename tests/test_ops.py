"""Rounding is to nearest even or unbiased, once, whatever the way in; noise is a uniform function of key and index."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from oracle import FORMATS, TORCH_NAMES, decode, encode, rounded, step

from expo import ops
from expo.dtypes import BY_TORCH_NAME, COMPUTED, DTYPES
from expo.ops import SEGMENT, beyond, clamp_to, counter_noise, noise_key, round_nearest, round_stochastic

NARROW = [name for name, form in FORMATS.items() if form.bits <= 16]
BELOW_FLOAT64 = [*NARROW, "F32"]


def held(name, n=0):
    return torch.empty(n, dtype=getattr(torch, TORCH_NAMES[name]))


def bits_of(t):
    return t.contiguous().view(torch.uint8).numpy().tobytes()


def test_the_table_of_types_states_what_the_formats_are():
    assert set(COMPUTED) == set(FORMATS)
    for name, form in FORMATS.items():
        dtype = DTYPES[name]
        assert (dtype.bits, dtype.mantissa, dtype.min_exponent) == (form.bits, form.mantissa, form.min_exponent)
        assert dtype.largest == form.largest and BY_TORCH_NAME[TORCH_NAMES[name]] is dtype


def awkward(name, *, wide):
    """Values of a wide type on, just beside and between ties, near every power of two of a narrow one; +-0."""
    form = FORMATS[name]
    base = decode(encode(np.array([1.0, 1.5, 2 - 2.0**-form.mantissa]), name), name)
    scales = 2.0 ** np.arange(form.min_exponent - form.mantissa - 3, math.floor(math.log2(form.largest)) - 1)
    grid = np.concatenate([(base[:, None] * scales).ravel(), [0.0]])
    if name in ("BF16", "F32"):
        grid = grid[np.abs(grid) > (2.0**-147 if wide == "F32" else 0)]
    half = step(grid, name) / 2
    ties = np.concatenate([grid + k * half for k in (-3, -2, -1, 0, 1, 2, 3)])
    nudges = [0.0, 2.0**-20, -(2.0**-20)] + ([2.0**-44, -(2.0**-44)] if wide == "F64" else [])
    x = np.concatenate([ties * (1 + nudge) for nudge in nudges])
    x = rounded(np.concatenate([x, -x, [0.0, -0.0]]), wide)
    return x[np.abs(rounded(x, name)) <= form.largest]


@pytest.mark.parametrize("wide", ["F32", "F64"])
@pytest.mark.parametrize("name", BELOW_FLOAT64)
def test_rounding_to_nearest_is_exact_at_ties_and_does_not_round_twice(name, wide):
    x = awkward(name, wide=wide)
    out = held(name, len(x))
    round_nearest(torch.from_numpy(x).to(getattr(torch, TORCH_NAMES[wide])), out)
    right = encode(x, name)
    wrong = [i for i in range(len(x)) if bits_of(out[i : i + 1]) != right[i * out.itemsize : (i + 1) * out.itemsize]]
    assert not wrong, [(x[i], float(out[i])) for i in wrong[:5]]


@pytest.mark.parametrize("name", ["F16", "BF16", "F8_E5M2", "F32"])
def test_infinities_and_nan_stay_what_they_are_in_either_rounding(name):
    x = torch.tensor([math.inf, -math.inf, math.nan], dtype=torch.float64)
    for wide in (x, x.float()) if name != "F32" else (x,):
        out = held(name, 3)
        round_nearest(wide, out)
        assert (float(out[0]), float(out[1])) == (math.inf, -math.inf) and math.isnan(out[2])
        round_stochastic(wide[:2], out[:2], DTYPES[name], 1, 0)
        assert (float(out[0]), float(out[1])) == (math.inf, -math.inf)


# --- stochastic rounding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wide", ["F32", "F64"])
@pytest.mark.parametrize("name", BELOW_FLOAT64)
def test_a_value_that_the_type_holds_never_moves(name, wide):
    if (name, wide) == ("F32", "F32"):
        return
    raw = np.random.default_rng(0).bytes(40_000) if name == "F32" else np.arange(1 << FORMATS[name].bits)
    x = decode(raw if name == "F32" else raw.astype(f"<u{FORMATS[name].bits // 8}").tobytes(), name)
    x = x[np.isfinite(x)]
    for seed in range(3):
        out = held(name, len(x))
        round_stochastic(torch.from_numpy(x).to(getattr(torch, TORCH_NAMES[wide])), out, DTYPES[name], seed, 0)
        assert bits_of(out) == encode(x, name)


@pytest.mark.parametrize("fraction", [0.5, 0.9, 1 / 256])
@pytest.mark.parametrize(
    "name, wide",
    [("BF16", "F32"), ("BF16", "F64"), ("F16", "F32"), ("F8_E4M3", "F32"), ("F8_E5M2", "F64"), ("F32", "F64")],
)
def test_stochastic_rounding_is_unbiased_and_takes_one_of_the_two_neighbours(name, wide, fraction):
    n = 50_000
    for at in (1.0, -1.25, 2.0 ** FORMATS[name].min_exponent * 0.5, 2 - 2.0 ** -FORMATS[name].mantissa):
        unit = float(step(np.array(at), name))
        x = float(rounded(np.array(at + math.copysign(fraction * unit, at)), wide))
        out = held(name, n)
        values = torch.full((n,), x, dtype=getattr(torch, TORCH_NAMES[wide]))
        round_stochastic(values, out, DTYPES[name], noise_key(0, "rounding", "w"), 0)
        steps = (out.double() - at).numpy() / math.copysign(unit, at)
        assert ((steps == 0) | (steps == 1)).all()
        p = (x - at) / math.copysign(unit, at)
        assert abs(steps.mean() - p) < 4 * math.sqrt(p * (1 - p) / n)
        # Blocks of 50 neighbours scatter like independent draws do.
        blocks = steps.reshape(-1, 50).sum(1)
        assert abs(blocks.var() / (50 * p * (1 - p)) - 1) < 5 * math.sqrt((2 + 1 / (50 * p * (1 - p))) / len(blocks))


@pytest.mark.parametrize("name", BELOW_FLOAT64)
def test_stochastic_rounding_of_a_random_tensor_has_its_mean(name):
    x = np.random.default_rng(1).standard_normal(100_000)
    out = held(name, len(x))
    round_stochastic(torch.from_numpy(x), out, DTYPES[name], 7, 0)
    error = out.double().numpy() - x
    unit = step(x, name)
    assert (np.abs(error) < unit * (1 + 1e-9)).all()
    below = np.floor(x / unit) * unit
    p = (x - below) / unit
    assert abs(error.sum()) < 4 * math.sqrt((unit**2 * p * (1 - p)).sum())


# --- noise -----------------------------------------------------------------------------------------------------------


def words(key, start, n, bits=32):
    return counter_noise(key, start, n, bits=bits).numpy()


def z_of_chi_square(counts):
    expected = counts.sum() / len(counts)
    free = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - free) / math.sqrt(2 * free)


@pytest.mark.parametrize("key", [0, 1, noise_key(0, "rounding", "model.embed_tokens.weight"), (1 << 64) - 1])
def test_noise_is_uniform_in_both_halves_of_its_words_and_in_every_bit(key):
    w = words(key, 0, SEGMENT).view(np.uint32)
    for half in (w & 0xFFFF, w >> 16):
        assert abs(z_of_chi_square(np.bincount(half, minlength=65536))) < 5
    for bit in range(32):
        assert abs((w >> bit & 1).mean() - 0.5) < 5 * 0.5 / math.sqrt(SEGMENT)
    narrow = words(key, 0, SEGMENT, bits=16).view(np.uint16)
    assert abs(z_of_chi_square(np.bincount(narrow, minlength=65536))) < 5


def correlation(x, y):
    return abs(np.corrcoef(x.astype(np.float64), y.astype(np.float64))[0, 1]) * math.sqrt(len(x))


@pytest.mark.parametrize("bits", [16, 32])
def test_noise_of_neighbours_segments_names_and_seeds_is_uncorrelated(bits):
    n = 100_000
    key = noise_key(0, "rounding", "model.layers.0.w")
    w = words(key, 0, n, bits)
    for lag in (1, 2, 3, 16, 4096):
        assert correlation(w[:-lag], w[lag:]) < 4.5, lag
        # No bit predicts the same bit of its neighbour, nor the next one.
        for bit in (0, 7, bits - 1):
            assert correlation(w[:-lag] >> bit & 1, w[lag:] >> bit & 1) < 4.5, (lag, bit)
            assert correlation(w[:-lag] >> bit & 1, w[lag:] >> (bit + 1) % bits & 1) < 4.5, (lag, bit)
    others = {
        "the next segment": words(key, SEGMENT, n, bits),
        "a far segment": words(key, 1000 * SEGMENT, n, bits),
        "another layer": words(noise_key(0, "rounding", "model.layers.1.w"), 0, n, bits),
        "another seed": words(noise_key(1, "rounding", "model.layers.0.w"), 0, n, bits),
        "another purpose": words(noise_key(0, "mask", "model.layers.0.w"), 0, n, bits),
        "another input": words(noise_key(0, "rounding", "model.layers.0.w", 1), 0, n, bits),
        "a key of one bit more": words(key ^ 1, 0, n, bits),
        "a key of one high bit more": words(key ^ 1 << 63, 0, n, bits),
    }
    for name, other in others.items():
        assert correlation(w, other) < 4.5, name
        assert np.mean(w == other) < 10 * 2.0**-bits + 1e-4, name


@pytest.mark.parametrize("bits", [16, 32])
def test_noise_depends_on_key_and_index_alone_not_on_how_it_is_cut(bits):
    for base in (0, 5 * SEGMENT):
        whole = words(123, base, 5000, bits)
        for cuts in ([0, 1, 2, 5, 1000, 1001, 5000], [0, 999, 2500, 4999, 5000]):
            parts = [words(123, base + i, j - i, bits) for i, j in itertools.pairwise(cuts)]
            assert np.array_equal(np.concatenate(parts), whole)
    assert len(words(123, 7, 0, bits)) == 0
    last = words(123, SEGMENT - 3, 3, bits)
    assert np.array_equal(last, words(123, SEGMENT - 1000, 1000, bits)[-3:])


def test_noise_is_pinned_so_that_recipes_keep_their_bytes_from_version_to_version():
    key = noise_key(0, "rounding", "w")
    assert key == 1759340713818322847
    assert words(key, SEGMENT + 5, 3).tolist() == [1017811652, -1493865802, 1593857661]
    assert words(key, SEGMENT + 5, 3, 16).tolist() == [-3859, 7144, -2986]


# --- range -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [0, 5, 0x0123456789ABCDEF, (1 << 64) - 1])
def test_numpy_and_torch_give_the_same_noise(key):
    for first, last in ((0, 70_001), (999, 1000), (ops.SEGMENT - 5, ops.SEGMENT)):
        by_torch = ops._hashed_by_torch(key, first, last, "cpu")
        assert torch.equal(ops._hashed_by_numpy(key, first, last), by_torch)


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_clamping_ends_at_the_largest_value_and_keeps_nan(name, wide):
    top = FORMATS[name].largest
    x = torch.tensor([top, top * 0.5, -top, math.inf, -math.inf, math.nan], dtype=wide)
    assert clamp_to(x, DTYPES[name])[:5].tolist() == [top, top * 0.5, -top, top, -top]
    assert math.isnan(clamp_to(x, DTYPES[name])[5])


@pytest.mark.parametrize("name", NARROW)
def test_a_value_is_beyond_the_range_by_its_magnitude_and_nan_is_not(name):
    top = FORMATS[name].largest
    x = torch.tensor([0.0, top, -top, -top * 1.125, math.inf, math.nan], dtype=torch.float64)
    assert beyond(x, DTYPES[name]).tolist() == [False, False, False, True, True, False]
    assert beyond(x * 1.01, DTYPES[name], stochastic=True).tolist() == [False, True, True, True, True, False]


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_a_value_is_beyond_the_range_exactly_when_rounding_to_nearest_takes_it_there(name, wide):
    form = FORMATS[name]
    edge = torch.tensor(form.largest + float(step(np.array(form.largest), name)) / 2, dtype=wide)
    for x in (edge, edge.nextafter(torch.zeros((), dtype=wide)), edge.nextafter(edge * 2)):
        leaves = rounded(np.array(float(x)), name) > form.largest
        for signed in (x, -x):
            found = bool(beyond(signed, DTYPES[name]))
            assert found == leaves, f"{float(signed)!r} rounds to {'more than' if leaves else ''} {form.largest}"


FIRST_CALLS = """
import os, threading
import torch
from expo.ops import one_thread

numbers = torch.rand(61) + 0.1

def differ():
    with one_thread():
        start, found = threading.Barrier(2), [None, None]
        def call(k):
            start.wait()
            found[k] = numbers.sqrt()
        threads = [threading.Thread(target=call, args=(k,)) for k in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return any(not torch.equal(own, numbers.sqrt()) for own in found)

wrong = 0
for _ in range(150):
    pid = os.fork()
    if not pid:
        os._exit(differ())
    wrong += os.waitpid(pid, 0)[1] != 0
print(wrong)
"""


def test_the_first_vector_functions_of_a_process_are_right_in_every_thread():
    """Found as different bits in one run of a thousand; without `one_thread` 0.3 % of these forks differ."""
    done = subprocess.run([sys.executable, "-c", FIRST_CALLS], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_one_thread_makes_the_first_vector_call_before_it_yields():
    code = """
import torch
calls = []
sqrt = torch.Tensor.sqrt_
torch.Tensor.sqrt_ = lambda self: calls.append(1) or sqrt(self)
from expo.ops import one_thread
with one_thread():
    assert calls
with one_thread():
    assert len(calls) == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)
