"""Steps between stored values: neighbours are one apart, whatever their type; NaN has no place."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expo.analysis.steps import apart, steps
from expo.dtypes import DTYPES

TORCH = {"BF16": torch.bfloat16, "F16": torch.float16}


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_every_neighbour_of_a_16_bit_type_is_one_step_away(name):
    every = np.arange(1 << 16, dtype=np.uint16)
    values = torch.from_numpy(every.copy()).view(TORCH[name]).to(torch.float64)
    finite = torch.isfinite(values).numpy()
    words, values = every[finite], values.numpy()[finite]
    order = np.lexsort((~np.signbit(values), values))  # -0 before +0
    words, values = words[order], values[order]
    far = steps(words[:-1], words[1:], DTYPES[name])
    assert np.array_equal(far, np.where(values[:-1] == values[1:], 0, 1))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_steps_of_float64_are_exact_however_far(a, b):
    place = lambda w: -(w & (2**63 - 1)) if w >> 63 else w  # noqa: E731
    found = steps(np.array([a], np.uint64), np.array([b], np.uint64), DTYPES["F64"])
    assert int(found[0]) == abs(place(a) - place(b))


def test_nan_and_types_without_an_order_are_counted_apart():
    a = torch.tensor([1.0, 2.0, math.nan, 4.0], dtype=torch.bfloat16)
    b = torch.tensor([1.0, math.nan, math.nan, 4.03125], dtype=torch.bfloat16)
    views = [memoryview(t.view(torch.uint8).numpy()) for t in (a, b)]
    found = apart(*views, DTYPES["BF16"], 100)
    assert (found.n_elements, found.n_identical, found.n_uncomparable) == (4, 2, 1)
    assert (found.most_steps, found.worst) == (1, 103)
    whole = [memoryview(np.array(x, np.int64)).cast("B") for x in ([1, 2, 3], [1, 5, 3])]
    found = apart(*whole, DTYPES["I64"], 0)
    assert (found.n_identical, found.n_uncomparable, found.worst) == (2, 1, -1)
