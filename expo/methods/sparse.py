"""Deltas made sparse: the largest kept, or a random part, and the factors that make up for the rest. Private.

A method's survey finds a `Sparse` for each tensor, and its `apply` finds that in `here.surveyed`.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from expo.methods.declare import Here, Surveyed
from expo.methods.survey import EVERYTHING, NOTHING, Cut, Sums, largest

if TYPE_CHECKING:
    from torch import Tensor

_TINY = 1e-7  # an L1 norm below it does not rescale
PASSES = 1 << 16  # probabilities are multiples of 1 / 65,536, as fine as 16 bits of noise


@dataclass(frozen=True, slots=True)
class Sparse:
    """What a survey found for one tensor: one value a model."""

    cuts: tuple[Cut, ...] = ()
    upper: tuple[Cut, ...] = ()  # what these keep is dropped again
    factors: tuple[float, ...] | None = None  # None: 1 for each


def is_nothing(weight: Sequence[float], density: Sequence[float], lambda_: float, **_: Any) -> bool:
    """Whether no delta has any weight."""
    return not (lambda_ and any(w * d for w, d in zip(weight, density, strict=True)))


# (delta, its model's number, what `apply` gets) -> the delta made sparse, in its place; magnitudes stay magnitudes
Sparsify = Callable[..., "Tensor"]


def deltas_of(base: Tensor, models: Sequence[Tensor]) -> Iterator[Tensor]:
    """model - base of each model, in the model's place."""
    return (model.sub_(base) for model in models)


def sparse_deltas(sparse: Sparsify, base: Tensor, models: Sequence[Tensor], **parameters: Any) -> Iterator[Tensor]:
    """Each model's delta, made sparse."""
    return (sparse(delta, i, **parameters) for i, delta in enumerate(deltas_of(base, models)))


def trimmed(delta: Tensor, i: int, *, here: Here, **_: Any) -> Tensor:
    """delta of model i, with zeros outside the survey's cuts."""
    found: Sparse = here.surveyed
    if found.upper and found.upper[i] != NOTHING:
        outliers = trim(delta.clone(), found.upper[i], here.start)
        return trim(delta, found.cuts[i], here.start).sub_(outliers)
    return trim(delta, found.cuts[i], here.start)


def trim(delta: Tensor, cut: Cut, start: int) -> Tensor:
    """delta, with zero where its magnitude does not pass the cut."""
    import torch

    if cut == EVERYTHING:
        return delta
    if cut == NOTHING:
        return delta.zero_()
    n, wide = delta.numel(), delta.element_size()
    n_ties = min(max(cut.before - start, 0), n)
    # hardshrink is one pass of compare and select: x where |x| > bound, else 0.
    if n_ties:
        part = delta if n_ties == n else delta[:n_ties]
        torch.hardshrink(part, _under(cut.value, wide, True), out=part)
    if n_ties < n:
        part = delta[n_ties:] if n_ties else delta
        torch.hardshrink(part, _under(cut.value, wide, False), out=part)
    return delta


@functools.lru_cache
def _under(value: float, wide: int, strict: bool) -> float:
    """The largest float of `wide` bytes that is at most `value`, or that is below it."""
    if wide == 8:
        return math.nextafter(value, -math.inf) if strict else value
    word = struct.unpack("<i", struct.pack("<f", value))[0]
    near = struct.unpack("<f", struct.pack("<f", value))[0]
    if near < value or (near == value and not strict):
        return near
    return struct.unpack("<f", struct.pack("<i", word - 1))[0] if word else -1.0


def keep_largest(
    tensors: Sequence[Surveyed], counts: Sequence[Sequence[int]]
) -> Generator[Any, Any, list[list[list[Cut]]]]:
    """[tensor][row][model] -> the cut that keeps counts[row][model] of the group's largest deltas of that model."""
    size = sum(tensor.n_elements for tensor in tensors)
    asked = [(row, i) for row, keep in enumerate(counts) for i, k in enumerate(keep) if 0 < k < size]

    def magnitudes(base: Tensor, *models: Tensor, **_: Any) -> list[Tensor]:
        found = {i: models[i].sub_(base).abs_() for i in dict.fromkeys(i for _, i in asked)}
        return [found[i] for _, i in asked]

    cuts = yield from largest(tensors, magnitudes, [counts[row][i] for row, i in asked])
    at = {key: place for place, key in enumerate(asked)}
    return [
        [
            [
                tensor_cuts[at[row, i]] if (row, i) in at else NOTHING if k <= 0 else EVERYTHING
                for i, k in enumerate(keep)
            ]
            for row, keep in enumerate(counts)
        ]
        for tensor_cuts in cuts
    ]


def trims(density: Sequence[float]) -> bool:
    """Whether a cut between kept and dropped elements must be found."""
    return any(0 < share < 1 for share in density)


def dropped(delta: Tensor, i: int, *, density: Sequence[float], here: Here, **_: Any) -> Tensor:
    """delta of model i, where its noise lets it pass: every element with probability `density`."""
    if density[i] < 1:
        keep_bits(delta, passing(here.noise(i, bits=16), n_passing(density[i]), delta.element_size()))
    return delta


def n_passing(density: float) -> int:
    """How many of 65,536 values of noise let an element pass."""
    return min(max(round(density * PASSES), density > 0), PASSES - (density < 1))


def passing(noise: Tensor, n: int | Tensor, wide: int) -> Tensor:
    """Words of all ones where the noise is among n of 65,536 values, else of zeros."""
    import numpy as np
    import torch

    kind = torch.int32 if wide == 4 else torch.int64
    if noise.device.type == "cpu" and isinstance(n, int):
        bits = np.less(noise.numpy(), n - PASSES // 2).view(np.int8)  # a byte an element costs less than a word
        return torch.from_numpy(np.negative(bits, out=bits)).to(kind)
    words = noise.to(kind)
    words -= n - PASSES // 2  # below zero where it is among them
    return words.bitwise_right_shift_(8 * wide - 1)


def keep_bits(delta: Tensor, words: Tensor) -> None:
    """Zero delta where the words are zero."""
    delta.view(words.dtype).bitwise_and_(words)


def rescaled(
    tensors: Sequence[Surveyed], sparse: Sparsify, known: Sequence[Sparse]
) -> Generator[Any, Any, list[Sparse]]:
    """`known` with the factors that give sparse deltas the L1 norm that they had before."""

    def norms(base: Tensor, *models: Tensor, **parameters: Any) -> Iterator[Tensor]:
        for i, delta in enumerate(deltas_of(base, models)):
            yield delta.abs_()
            yield sparse(delta, i, **parameters)

    sums = yield Sums(norms, known)
    factors = [[_factor(*row[i : i + 2]) for i in range(0, len(row), 2)] for row in sums]
    return [replace(found, factors=tuple(row)) for found, row in zip(known, factors, strict=True)]


def _factor(before: float, after: float) -> float:
    return before / after if before >= _TINY and after >= _TINY else 1.0
