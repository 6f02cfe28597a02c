"""Boxed tensors in torch's clothes, on which transformers' conversions can be carried out. Loads torch late."""

from functools import cache
from typing import Any

from expo.checkpoint.views.boxes import Boxed, NotExpressible, joined


def symbolic(tensor: Boxed) -> Any:
    """A torch tensor without data that knows which stored elements its own ones are."""
    return _kind()(tensor)


def boxed(value: Any) -> Boxed:
    """What a symbolic tensor stands for; raises NotExpressible for any other value."""
    if not isinstance(value, _kind()):
        raise NotExpressible(f"a conversion gave {type(value).__name__}")
    return value.boxed


@cache
def _kind() -> type:
    import torch

    class Symbolic(torch.Tensor):
        """A tensor of which only shape and origin exist; it says that it lies in one piece, so reshape is a view."""

        @staticmethod
        def __new__(cls, tensor: Boxed):
            return torch.Tensor._make_wrapper_subclass(cls, tensor.shape, dtype=torch.float32, device="cpu")

        def __init__(self, tensor: Boxed):
            self.boxed = tensor

        def __repr__(self, **_: Any) -> str:
            return f"Symbolic{tuple(self.shape)}"

        @classmethod
        def __torch_dispatch__(cls, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
            name = function.overloadpacket.__name__
            if name not in _RULES:
                raise NotExpressible(f"a conversion uses {name}")
            found = _RULES[name](*args, **(kwargs or {}))
            return [cls(one) for one in found] if isinstance(found, list) else cls(found)

    return Symbolic


def _split(tensor: Any, size: Any, dim: int = 0) -> list[Boxed]:
    axis, n = dim % tensor.ndim, tensor.shape[dim]
    sizes = [min(size, n - at) for at in range(0, n, size)] if isinstance(size, int) else list(size)
    return tensor.boxed.split(sizes, axis)


def _slice(tensor: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Boxed:
    n = tensor.shape[dim]
    first, last, _ = slice(start, end).indices(n)
    if step != 1:
        raise NotExpressible("a conversion takes every n-th element")
    return tensor.boxed.narrowed(dim % tensor.ndim, first, max(first, last))


def _transposed(tensor: Any, one: int, other: int) -> Boxed:
    order = list(range(tensor.ndim))
    order[one], order[other] = order[other], order[one]
    return tensor.boxed.permuted(order)


def _squeezed(tensor: Any, dim: Any) -> Boxed:
    axes = [dim] if isinstance(dim, int) else list(dim)
    found = tensor.boxed
    for axis in sorted((axis % tensor.ndim for axis in axes), reverse=True):
        found = found.squeezed(axis) if found.shape[axis] == 1 else found
    return found


def _reshaped(tensor: Any, shape: Any) -> Boxed:
    known = 1
    for n in shape:
        known *= n if n != -1 else 1
    return tensor.boxed.reshaped([tensor.numel() // known if n == -1 else n for n in shape])


def _stacked(tensors: Any, dim: int = 0) -> Boxed:
    axis = dim % (tensors[0].ndim + 1)
    return joined([boxed(tensor).unsqueezed(axis) for tensor in tensors], axis)


def _same(tensor: Any, *_: Any, **__: Any) -> Boxed:
    return tensor.boxed


_RULES = {
    "cat": lambda tensors, dim=0: joined([boxed(tensor) for tensor in tensors], dim % tensors[0].ndim),
    "stack": _stacked,
    "split": _split,
    "split_with_sizes": _split,
    "slice": _slice,
    "select": lambda tensor, dim, index: _slice(tensor, dim, index, index + 1).squeezed(dim % tensor.ndim),
    "unbind": lambda tensor, dim=0: [part.squeezed(dim % tensor.ndim) for part in _split(tensor, 1, dim)],
    "transpose": _transposed,
    "t": lambda tensor: _transposed(tensor, 0, 1),
    "permute": lambda tensor, dims: tensor.boxed.permuted([dim % tensor.ndim for dim in dims]),
    "squeeze": _squeezed,
    "unsqueeze": lambda tensor, dim: tensor.boxed.unsqueezed(dim % (tensor.ndim + 1)),
    "view": _reshaped,
    "_unsafe_view": _reshaped,
    "reshape": _reshaped,
    "clone": _same,
    "detach": _same,
    "alias": _same,
    "contiguous": _same,
}
