"""What della and della_linear share: the larger an element in its row, the likelier it is kept. Private."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from expo.methods.declare import Each, Here, Surveyed
from expo.methods.sparse import PASSES, Sparse, keep_bits, n_passing, passing, rescaled

if TYPE_CHECKING:
    from torch import Tensor


def check(density: Each, epsilon: Each, **_: Any) -> str | None:
    """What is wrong with a density and an epsilon that lead to no probability."""
    for p, spread in zip(density, epsilon, strict=True):
        if p not in (0, 1) and not (p > spread and p + spread < 1):
            return f"density {p:g} +/- epsilon {spread:g} must lie between 0 and 1"
    return None


def survey(tensors: Sequence[Surveyed]) -> Generator[Any, Any, list[Sparse]]:
    """The factors that give each dropped delta the L1 norm it had before, where that is asked for."""
    given = tensors[0].parameters
    found = [Sparse() for _ in tensors]
    return (yield from rescaled(tensors, ranked, found)) if given["rescale"] is True else found


def ranked(delta: Tensor, i: int, *, density: Each, epsilon: Each, rescale: bool | str, here: Here, **_: Any) -> Tensor:
    """delta of model i, where its noise lets it pass: the larger in its row, the more likely."""
    if density[i] == 0:
        delta.zero_()
    elif density[i] < 1:
        counts = [n_passing(p) for p in probabilities(density[i], epsilon[i], here.width)]
        passes = _by_rank(delta, counts, here.width)
        keep_bits(delta, passing(here.noise(i, bits=16), passes, delta.element_size()))
        if rescale == "density":
            delta *= PASSES / passes.to(delta.dtype)
    return delta


def probabilities(density: float, epsilon: float, width: int) -> list[float]:
    """That of each rank in a row, the smallest magnitude first."""
    if width == 1:
        return [density]
    return [density - epsilon + 2 * epsilon * rank / (width - 1) for rank in range(width)]


def _by_rank(delta: Tensor, counts: list[int], width: int) -> Tensor:
    """For each element the count that belongs to its rank in its row, (n,); of equal magnitudes the first is lower."""
    import torch

    rows = delta.abs().view(-1, width)
    order = rows.sort(dim=1, stable=True).indices
    words = torch.int32 if delta.element_size() == 4 else torch.int64
    wanted = torch.tensor(counts, dtype=words, device=delta.device).expand_as(order)
    return torch.empty_like(wanted, memory_format=torch.contiguous_format).scatter_(1, order, wanted).view(-1)
