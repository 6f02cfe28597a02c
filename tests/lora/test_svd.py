"""The decomposition is the best of its rank, whatever way is taken to it, and the same bits each time."""

import pytest
import torch

from expo.lora import svd
from expo.lora.svd import balanced_factors, first_triples, product_triples
from expo.ops import one_thread


@pytest.fixture(autouse=True)
def alone():
    """On one thread, as a run does it."""
    with one_thread():
        yield


@pytest.fixture
def iterating(monkeypatch):
    """Take the long way for small matrices too."""
    monkeypatch.setattr(svd, "_ALWAYS_WHOLE", 8)


def decaying(rows: int, columns: int, *, power: float, seed: int = 0) -> torch.Tensor:
    """A matrix whose singular values fall like k^-power."""
    noise = torch.Generator().manual_seed(seed)
    small = min(rows, columns)
    left = torch.linalg.qr(torch.randn(rows, small, generator=noise, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(columns, small, generator=noise, dtype=torch.float64))[0]
    return (left * torch.arange(1, small + 1, dtype=torch.float64) ** -power) @ right.T


def energy(values: torch.Tensor) -> float:
    return float(values.double().square().sum())


@pytest.mark.parametrize(("shape", "rank"), [((30, 20), 5), ((20, 30), 20), ((7, 1), 1), ((60, 70), 30)])
def test_decomposed_whole_it_is_torchs_own(shape, rank):
    matrix = decaying(*shape, power=0.5)
    left, values, right = first_triples(matrix.float(), rank, 0)
    assert (left.shape, values.shape, right.shape) == ((shape[0], rank), (rank,), (rank, shape[1]))
    assert torch.allclose(values, torch.linalg.svdvals(matrix)[:rank], rtol=1e-5)
    assert torch.allclose(left.T @ left, torch.eye(rank).double(), atol=1e-9)
    assert (right.gather(1, right.abs().argmax(1, keepdim=True)) > 0).all()


@pytest.mark.parametrize(("power", "share"), [(1.0, 0.9999), (0.5, 0.999), (0.0, 0.9)], ids=["steep", "mild", "flat"])
def test_by_iteration_it_holds_nearly_as_much_as_the_best(power, share, iterating):
    matrix, rank = decaying(300, 200, power=power), 12
    left, values, right = first_triples(matrix.float(), rank, 3)
    best = energy(torch.linalg.svdvals(matrix)[:rank])
    assert share * best <= energy(values) <= best * (1 + 1e-5)
    held = energy(matrix) - energy(matrix - (left * values) @ right)
    assert held == pytest.approx(energy(values), rel=1e-4)


def test_the_same_matrix_and_key_give_the_same_bits(iterating):
    matrix = decaying(300, 200, power=0.7).float()
    one, other = (first_triples(matrix, 16, 5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_matrix_of_the_wanted_rank_is_held_exactly(iterating):
    noise = torch.Generator().manual_seed(0)
    matrix = torch.randn(300, 6, generator=noise) @ torch.randn(6, 200, generator=noise)
    b, a = balanced_factors(*first_triples(matrix, 8, 1))
    assert torch.allclose(b @ a, matrix.double(), atol=1e-4)
    assert torch.allclose(b.norm(dim=0), a.norm(dim=1), rtol=1e-6)


def test_a_products_triples_are_those_of_the_product():
    noise = torch.Generator().manual_seed(0)
    b, a = torch.randn(40, 6, generator=noise), torch.randn(6, 50, generator=noise)
    left, values, right = product_triples(b, a, 4)
    wanted = torch.linalg.svdvals(b.double() @ a.double())
    assert torch.allclose(values, wanted[:4])
    assert energy(b.double() @ a.double() - (left * values) @ right) == pytest.approx(energy(wanted[4:]))
