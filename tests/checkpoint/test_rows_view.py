"""A view over rows gives the bytes that a table of rows says, however the reader cuts them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expo.checkpoint.spec import TensorSpec
from expo.checkpoint.views.rows import Donor, RowTable, with_rows
from expo.checkpoint.views.widen import as_float64
from expo.dtypes import COMPUTED, DTYPES

TORCH = {name: getattr(torch, DTYPES[name].torch_name) for name in COMPUTED}


class Store:
    """Tensors in memory behind the door's `read`, which counts."""

    def __init__(self, tensors):
        self.tensors = tensors
        self.reads = []

    def spec(self, name):
        tensor = self.tensors[name]
        dtype = next(DTYPES[key] for key, value in TORCH.items() if value == tensor.dtype)
        return TensorSpec(name, dtype, tuple(tensor.shape), f"{name}.safetensors", 0, tensor.numel() * dtype.bits // 8)

    def read(self, out, spec, at):
        raw = self.tensors[spec.name].contiguous().view(torch.uint8).numpy().reshape(-1)
        self.reads.append((spec.file, at, len(out)))
        assert at + len(out) <= len(raw)
        out[:] = raw[at : at + len(out)].tobytes()

    def all_of(self, spec, cuts=()):
        """A spec's bytes, read in pieces that end at `cuts`."""
        out = bytearray(spec.n_bytes)
        ends = [*sorted(cuts), spec.n_bytes]
        begins = [0, *ends[:-1]]
        for begin, end in zip(begins, ends, strict=True):
            spec.view.read_into(memoryview(out)[begin:end], begin, self.read, {})
        return bytes(out)


def raw(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def test_rows_of_one_type_are_copied_as_bytes():
    nan = torch.tensor([[float("nan"), -0.0], [1.0, 2.0], [3.0, float("inf")]]).to(torch.bfloat16)
    store = Store({"a": nan, "b": torch.tensor([[7.0, 8.0]]).to(torch.bfloat16)})
    view = with_rows(
        store.spec("a"), RowTable([[(0, 2)], [(1, 0)], [], [(0, 0)]]), [Donor(store.spec(n)) for n in "ab"]
    )
    assert (view.dtype.name, view.shape, view.n_bytes, view.stored_dtype.name) == ("BF16", (4, 2), 16, "BF16")
    expected = torch.stack([nan[2], store.tensors["b"][0], torch.zeros(2).to(torch.bfloat16), nan[0]])
    assert store.all_of(view) == raw(expected)


def test_a_mean_is_summed_in_float64_and_rounded_once():
    a = torch.tensor([[1.0, 2.0**24]])
    b = torch.tensor([[2.0**-30, 1.0]])
    c = torch.tensor([[-1.0, 1.0]])
    store = Store({"a": a, "b": b, "c": c})
    donors = [Donor(store.spec(name)) for name in "abc"]
    view = with_rows(store.spec("a"), RowTable([[(0, 0), (1, 0), (2, 0)], [(0, 0), (1, 0)]]), donors)
    exact = [(a.double() + b.double() + c.double()) / 3, (a.double() + b.double()) / 2]
    assert store.all_of(view) == raw(torch.cat(exact).float())
    # In float32 the small number would be lost beside 1, and 2**24 + 1 does not exist.
    assert not torch.equal(torch.cat(exact).float(), torch.cat([(a + b + c) / 3, (a + b) / 2]))


@pytest.mark.parametrize(
    ("types", "logical"), [(("F16", "BF16"), "F32"), (("F8_E4M3", "F32"), "F32"), (("F32", "F64"), "F64")]
)
def test_rows_of_two_types_meet_in_one_that_holds_both(types, logical):
    values = torch.tensor([[0.5, -1.75, 240.0]])
    store = Store({"a": values.to(TORCH[types[0]]), "b": -values.to(TORCH[types[1]])})
    view = with_rows(store.spec("a"), RowTable([[(1, 0)], [(0, 0)]]), [Donor(store.spec(name)) for name in "ab"])
    assert (view.dtype.name, view.stored_dtype.name) == (logical, types[0])
    assert store.all_of(view) == raw(torch.cat([-values, values]).to(TORCH[logical]))


def test_rows_that_lie_together_are_read_at_once():
    store = Store({"a": torch.randn(100, 3), "b": torch.randn(100, 3)})
    table = RowTable([*([(0, row)] for row in range(20, 60)), *([(1, row)] for row in range(10)), [], [(1, 99)]])
    view = with_rows(store.spec("a"), table, [Donor(store.spec(name)) for name in "ab"])
    store.all_of(view)
    assert store.reads == [
        ("a.safetensors", 240, 480),
        ("b.safetensors", 0, 120),
        ("b.safetensors", 1188, 12),
    ]


def test_another_checkpoints_files_bear_its_prefix():
    store = Store({"a": torch.randn(2, 3), "b": torch.randn(2, 3)})
    donors = [Donor(store.spec("a")), Donor(store.spec("b"), "other::")]
    view = with_rows(store.spec("a"), RowTable([[(0, 0)], [(1, 1)]]), donors)
    assert [part.file for part in view.parts] == ["a.safetensors", "other::b.safetensors"]
    store.all_of(view)
    assert [file for file, _, _ in store.reads] == ["a.safetensors", "other::b.safetensors"]


def test_only_donors_that_give_a_row_are_parts():
    store = Store({"a": torch.randn(2, 3), "b": torch.randn(2, 3)})
    view = with_rows(store.spec("a"), RowTable([[(1, 1)], [(1, 0)]]), [Donor(store.spec(name)) for name in "ab"])
    assert [part.name for part in view.parts] == ["b"]


def test_a_view_may_stand_on_views():
    store = Store({"a": torch.randn(4, 3), "b": torch.randn(3, 3)})
    turned = with_rows(store.spec("b"), RowTable([[(0, 2)], [(0, 1)], [(0, 0)]]), [Donor(store.spec("b"))])
    outer = with_rows(
        store.spec("a"), RowTable([[(1, 0)], [(0, 3)], [(1, 2)]]), [Donor(store.spec("a")), Donor(turned, "x::")]
    )
    assert [part.file for part in outer.parts] == ["a.safetensors", "x::b.safetensors"]
    a, b = store.tensors["a"], store.tensors["b"]
    assert store.all_of(outer, cuts=[5, 17]) == raw(torch.stack([b[2], a[3], b[0]]))


def test_a_bias_over_the_vocabulary_has_rows_of_one_element():
    store = Store({"a": torch.tensor([1.0, 2.0, 3.0])})
    view = with_rows(store.spec("a"), RowTable([[(0, 2)], [], [(0, 0)]]), [Donor(store.spec("a"))])
    assert view.shape == (3,)
    assert store.all_of(view) == raw(torch.tensor([3.0, 0.0, 1.0]))


rows_of_tables = st.lists(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), max_size=3), min_size=1, max_size=12
)


@settings(max_examples=150, deadline=None)
@given(rows_of_tables, st.sampled_from(["F32", "BF16", "F16"]), st.sampled_from(["F32", "BF16"]), st.data())
def test_no_cut_changes_a_bit(rows, own, other, data):
    store = Store({"a": torch.randn(6, 3).to(TORCH[own]), "b": torch.randn(6, 3).to(TORCH[other])})
    view = with_rows(store.spec("a"), RowTable(rows), [Donor(store.spec(name)) for name in "ab"])
    wide = [store.tensors[name].double() for name in "ab"]
    expected = [
        sum(wide[donor][row] for donor, row in sources) / len(sources) if sources else torch.zeros(3).double()
        for sources in rows
    ]
    cuts = data.draw(st.lists(st.integers(0, view.n_bytes), max_size=6))
    got = torch.frombuffer(bytearray(store.all_of(view, cuts)), dtype=TORCH[view.dtype.name]).view(-1, 3)
    assert torch.equal(got, torch.stack(expected).to(TORCH[view.dtype.name]))
    assert store.all_of(view) == store.all_of(view, cuts)


def test_a_long_mean_is_widened_in_chunks(monkeypatch):
    monkeypatch.setattr("expo.checkpoint.views.rows._CHUNK", 5)
    store = Store({"a": torch.randn(3, 17), "b": torch.randn(3, 17)})
    table = RowTable([[(0, 1), (1, 2)], [(1, 0)], [(0, 2), (1, 0)]])
    view = with_rows(store.spec("a"), table, [Donor(store.spec(name)) for name in "ab"])
    a, b = (store.tensors[name].double() for name in "ab")
    expected = raw(torch.stack([(a[1] + b[2]) / 2, b[0], (a[2] + b[0]) / 2]).float())
    assert store.all_of(view) == store.all_of(view, cuts=[3, 70, 71, 150]) == expected


def test_the_description_tells_tables_apart():
    store = Store({"a": torch.randn(3, 2)})
    spec = store.spec("a")
    one, same, other = (
        with_rows(spec, RowTable(rows), [Donor(spec)]).view
        for rows in ([[(0, 1)], [(0, 0)]], [[(0, 1)], [(0, 0)]], [[(0, 0)], [(0, 1)]])
    )
    assert repr(one) == repr(same) != repr(other)
    assert repr(one) != repr(with_rows(spec, RowTable([[(0, 1)], [(0, 0)]]), [Donor(spec, "x::")]).view)


@pytest.mark.parametrize("name", ["BF16", "F16", "F8_E4M3", "F8_E5M2"])
def test_every_code_of_a_narrow_type_is_widened_to_torchs_number(name):
    codes = np.arange(1 << DTYPES[name].bits, dtype=np.uint16)
    codes = codes.astype(np.uint8) if DTYPES[name].bits == 8 else codes
    with_torch = torch.from_numpy(codes.view(np.int16 if DTYPES[name].bits == 16 else np.uint8)).view(TORCH[name])
    ours, theirs = as_float64(codes.view(np.uint8), DTYPES[name]), with_torch.double().numpy()
    assert np.array_equal(ours, theirs, equal_nan=True)
    number = ~np.isnan(ours)
    assert np.array_equal(np.signbit(ours[number]), np.signbit(theirs[number]))
