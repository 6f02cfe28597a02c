"""Boxed tensors move elements exactly as torch does, however they are cut and read."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expo.checkpoint.spec import TensorSpec
from expo.checkpoint.views.boxes import Boxed, NotExpressible
from expo.checkpoint.views.gathered import Gathered, as_spec
from expo.checkpoint.views.symbolic import boxed, symbolic
from expo.dtypes import DTYPES

SHAPE = (4, 6, 8)


class Store:
    """Stored int32 tensors in memory, and how many bytes were asked for."""

    def __init__(self):
        self.values: dict[str, torch.Tensor] = {}

    def put(self, values: torch.Tensor) -> TensorSpec:
        name = f"t{len(self.values)}"
        self.values[name] = values
        return TensorSpec(name, DTYPES["I32"], tuple(values.shape), "f", 0, values.numel() * 4)

    def read(self, out, spec, at):
        out[:] = memoryview(self.values[spec.name].numpy()).cast("B")[at : at + len(out)]


def moves(tensors: list[torch.Tensor], draw) -> torch.Tensor:
    """A chain of moves that conversions use, on real tensors or on symbolic ones."""
    for kind, number in draw:
        first = tensors[0]
        axis = number % first.ndim
        half = first.shape[axis] // 2
        if kind == "stack" and first.ndim < 5:
            tensors = [torch.stack(tensors, dim=axis)]
        elif kind == "cat":
            tensors = [torch.cat(tensors, dim=axis)]
        elif kind == "chunk" and half and first.shape[axis] % 2 == 0:
            tensors = [piece for t in tensors for piece in torch.chunk(t, 2, dim=axis)]
        elif kind == "transpose":
            tensors = [t.transpose(0, axis).contiguous() for t in tensors]
        elif kind == "unbind" and first.ndim > 1:
            tensors = list(torch.unbind(first, dim=axis))
        elif kind == "interleave" and first.shape[axis] % 2 == 0 and first.shape[axis]:
            shape = [*first.shape[:axis], half, 2, *first.shape[axis + 1 :]]
            tensors = [t.reshape(shape).transpose(axis, axis + 1).reshape(first.shape).contiguous() for t in tensors]
        elif kind == "flatten":
            tensors = [t.reshape(first.shape[0], -1) for t in tensors]
        tensors = tensors[:3]
    return tensors[-1]


KINDS = ("stack", "cat", "chunk", "transpose", "unbind", "interleave", "flatten")
MOVES = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 4)), min_size=1, max_size=6)


def test_steps_that_do_not_fit_the_rows_are_cut_row_by_row():
    store = Store()
    chain = [("interleave", 1)] * 3  # a step of 3 over rows of 2
    real = [torch.arange(192, dtype=torch.int32).view(SHAPE)]
    spec = as_spec("x", boxed(moves([symbolic(Boxed.whole(store.put(real[0])))], chain)))
    out = bytearray(192 * 4)
    spec.view.read_into(memoryview(out), 0, store.read, {})
    assert bytes(out) == moves(real, chain).contiguous().numpy().tobytes()


@settings(max_examples=120, deadline=None)
@given(MOVES, st.data())
def test_any_chain_of_moves_gives_what_torch_gives_in_any_piece(chain, data):
    store = Store()
    real = [torch.arange(192, dtype=torch.int32).view(SHAPE) + 1000 * k for k in range(2)]
    fake = [symbolic(Boxed.whole(store.put(values))) for values in real]
    wanted, found = moves(real, chain), boxed(moves(fake, chain))
    assert found.shape == tuple(wanted.shape)
    spec, flat = as_spec("x", found), wanted.contiguous().view(-1).numpy().view(np.uint8)
    first = data.draw(st.integers(0, len(flat)))
    last = data.draw(st.integers(first, len(flat)))
    out = bytearray(last - first)
    if spec.view:
        spec.view.read_into(memoryview(out), first, store.read, {})
    else:
        store.read(memoryview(out), spec, first)
    assert bytes(out) == flat[first:last].tobytes()


def test_what_a_conversion_does_not_say_in_moves_is_refused():
    tensor = symbolic(Boxed.whole(Store().put(torch.zeros(4, 4, dtype=torch.int32))))
    with pytest.raises(NotExpressible, match="mul"):
        tensor * 2


def test_transposed_tensors_larger_than_a_window_come_out_whole():
    store = Store()
    values = torch.arange(3 * 700 * 1000, dtype=torch.int32).view(3, 700, 1000)
    view = Gathered(Boxed.whole(store.put(values)).permuted((0, 2, 1)), DTYPES["I32"])
    wanted = values.transpose(1, 2).contiguous().numpy().reshape(-1).view(np.uint8)
    for cut in (1 << 18, 999_996, len(wanted)):
        out, held = np.zeros_like(wanted), {}
        for at in range(0, len(wanted), cut):
            view.read_into(memoryview(out[at : at + cut]), at, store.read, held)
        assert (out == wanted).all()
    assert view.scratch_bytes < 64 * 2**20 and not view.strips.are_runs


def test_parts_of_several_types_are_not_one_tensor():
    two = [TensorSpec(n, DTYPES[t], (2,), "f", 0, DTYPES[t].n_bytes(2)) for n, t in (("a", "F32"), ("b", "BF16"))]
    stacked = torch.stack([symbolic(Boxed.whole(spec)) for spec in two])
    with pytest.raises(ValueError, match="BF16, F32"):
        as_spec("x", boxed(stacked))


@pytest.mark.parametrize(
    "moves",
    [
        lambda t: torch.cat(torch.chunk(t, 2, dim=1), dim=1),
        lambda t: torch.cat([torch.cat(torch.chunk(t[i : i + 1], 3, dim=2), dim=2) for i in range(4)]),
        lambda t: t.reshape(4, 3, 2, 8).transpose(1, 2).reshape(4, 2, 3, 8).transpose(1, 2).reshape(4, 6, 8),
        lambda t: t.transpose(0, 2).transpose(2, 0),
    ],
    ids=["halves", "row by row", "interleaved", "turned"],
)
def test_there_and_back_is_the_stored_tensor_itself(moves):
    spec = Store().put(torch.arange(192, dtype=torch.int32).view(SHAPE))
    assert as_spec("x", boxed(moves(symbolic(Boxed.whole(spec))))) is spec


def test_swapped_halves_are_not_the_stored_tensor():
    spec = Store().put(torch.arange(192, dtype=torch.int32).view(SHAPE))
    found = as_spec("x", boxed(torch.cat(torch.chunk(symbolic(Boxed.whole(spec)), 2, dim=1)[::-1], dim=1)))
    assert found is not spec and isinstance(found.view, Gathered)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 0, 1)])
def test_the_order_of_turned_axes_is_known(order):
    whole = Boxed.whole(Store().put(torch.zeros(4, 6, 1, dtype=torch.int32)))
    part, found = whole.permuted(order).turned()
    assert part is whole.boxes[0].part and whole.permuted(found).shape == whole.permuted(order).shape
    assert whole.split([2, 2], 0)[1].turned() is None and whole.reshaped((24,)).turned() is None
