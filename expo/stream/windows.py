"""What a survey's pass keeps of one segment where it need not count everything: a sample, and what lies in a window."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expo.methods.windows import Sample, Window, Windows
from expo.ops import SEGMENT

_NO_VALUES, _NO_PLACES = np.empty(0, np.float32), np.empty(0, np.int32)


class SampleFold:
    """Some values of each term."""

    def __init__(self, request: Sample, tensor: int, segment: int):
        self.segment = segment
        self.parts: list[list[np.ndarray]] = [[_NO_VALUES] for _ in range(request.n_terms)]
        self.finite = True

    def add(self, terms: Sequence[Tensor], start: int) -> None:
        """Keep the terms of some elements."""
        for held, term in zip(self.parts, terms, strict=True):
            held.append(term.cpu().numpy().copy())

    def into(self, found: Any, index: int) -> None:
        """Keep the values."""
        found.windows[index, self.segment] = [np.concatenate(held) for held in self.parts]


class WindowsFold:
    """How many values lie above each window, and those inside with their places."""

    def __init__(self, request: Windows, tensor: int, segment: int):
        self.segment, self.windows, self.most = segment, request.windows, request.most
        self.dtype = torch.float64 if request.wide == 8 else torch.float32
        self.above = [0 for _ in self.windows]
        self.atoms = [[[] for _ in window.atoms] for window in self.windows]  # rows of (start, count)
        self.inner: list[list[np.ndarray] | None] = [[] for _ in self.windows]
        self.places: list[list[np.ndarray]] = [[] for _ in self.windows]
        self.finite = True

    def add(self, terms: Sequence[Tensor], start: int) -> None:
        """Count the terms of the elements from `start` on."""
        for i, (term, window) in enumerate(zip(terms, self.windows, strict=True)):
            # numpy compares and counts ten times faster than torch on a CPU.
            values = term.to(self.dtype)
            self._add(i, values.numpy() if values.device.type == "cpu" else values, window, start)

    def _add(self, i: int, values: Any, window: Window, start: int) -> None:
        count = np.count_nonzero if isinstance(values, np.ndarray) else torch.count_nonzero
        above = values > window.high
        inside = (values >= window.low) ^ above
        self.above[i] += int(count(above))
        for rows, atom in zip(self.atoms[i], window.atoms, strict=True):
            equal = values == atom
            rows.append((start, int(count(equal))))
            inside ^= equal
        held = self.inner[i]
        if held is not None and int(count(inside)) + sum(map(len, held)) > self.most:
            held = self.inner[i] = None
        if held is not None:
            places = np.flatnonzero(inside) if count is np.count_nonzero else inside.nonzero().flatten()
            held.append(_on_host(values[places]))
            self.places[i].append((_on_host(places) + start % SEGMENT).astype(np.int32))

    def into(self, found: Any, index: int) -> None:
        """Keep the counts, and what lies inside."""
        rows = []
        for above, atoms, inner, places in zip(self.above, self.atoms, self.inner, self.places, strict=True):
            counts = [np.array(atom, np.int64).reshape(-1, 2) for atom in atoms]
            if inner is None:
                rows.append((above, counts, None, None))
            else:
                held = np.concatenate([_NO_VALUES, *inner]), np.concatenate([_NO_PLACES, *places])
                rows.append((above, counts, *held))
        found.windows[index, self.segment] = rows


def _on_host(values: Any) -> np.ndarray:
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()
