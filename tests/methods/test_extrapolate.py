"""extrapolate is aligned + alpha (aligned - base) on tiles, pure and elementwise, and declares itself so."""

import math

import pytest
import torch

from expo.errors import BadParameter, UnknownMethod, UnknownParameter
from expo.methods import find_method

EXTRAPOLATE = find_method("extrapolate")


def extrapolated(base, aligned, **parameters):
    return EXTRAPOLATE.apply(base.clone(), aligned, **parameters)


def tiles(n=4096, dtype=torch.float32):
    noise = torch.Generator().manual_seed(0)
    base = torch.randn(n, generator=noise, dtype=dtype)
    aligned = base + 0.1 * torch.randn(n, generator=noise, dtype=dtype)
    aligned[::7] = base[::7]
    return base, aligned


def test_it_declares_its_roles_parameter_donor_and_paper():
    assert EXTRAPOLATE.roles == ("base", "aligned") and EXTRAPOLATE.donor == "first"
    known = {name: (p.default, p.each) for name, p in EXTRAPOLATE.parameters.items()}
    assert known == {"alpha": (0.3, False), "weight": (1.0, True)}
    assert (EXTRAPOLATE.reads, EXTRAPOLATE.exact, EXTRAPOLATE.paper) == ("tile", "everywhere", "arXiv:2404.16792")
    assert "aligned + alpha * (aligned - base)" in EXTRAPOLATE.formula


def test_it_gives_what_the_hand_computes():
    base = torch.tensor([1.0, 2.0, 0.0, -1.0])
    aligned = torch.tensor([2.0, 2.0, 1.0, -2.0])
    assert extrapolated(base, aligned, alpha=0.5).tolist() == [2.5, 2.0, 1.5, -2.5]
    assert extrapolated(base, aligned, alpha=1.0).tolist() == [3.0, 2.0, 2.0, -3.0]
    assert extrapolated(base, aligned, alpha=-1.0).tolist() == [1.0, 2.0, 0.0, -1.0]
    assert extrapolated(base, aligned, alpha=-0.5).tolist() == [1.5, 2.0, 0.5, -1.5]


@pytest.mark.parametrize("tile", [1, 7, 64, 1000])
@pytest.mark.parametrize("alpha", [0.3, -0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_size_of_the_tile_never_changes_a_bit(tile, alpha, dtype):
    base, aligned = tiles(dtype=dtype)
    whole = extrapolated(base, aligned, alpha=alpha)
    pieces = zip(base.split(tile), aligned.split(tile), strict=True)
    assert torch.equal(whole, torch.cat([extrapolated(*piece, alpha=alpha) for piece in pieces]))


@pytest.mark.parametrize("alpha", [0.3, -0.3, 0.0])
def test_it_leaves_the_donor_alone(alpha):
    base, aligned = tiles()
    before = aligned.clone()
    EXTRAPOLATE.apply(base, aligned, alpha=alpha)
    assert torch.equal(aligned, before)


@pytest.mark.parametrize("alpha", [0.3, -0.3, 1e30, -1e30])
def test_shared_elements_come_back_bit_for_bit(alpha):
    base, aligned = tiles()
    zeros = torch.tensor([0.0, -0.0])
    base, aligned = torch.cat([base, zeros, zeros]), torch.cat([aligned, zeros, zeros.flip(0)])
    shared = base == aligned
    result = extrapolated(base, aligned, alpha=alpha)
    assert torch.equal(result[shared].view(torch.int32), aligned[shared].view(torch.int32))


def test_only_an_alpha_of_zero_means_nothing():
    assert EXTRAPOLATE.nothing(alpha=0, weight=(1.0,)) and EXTRAPOLATE.nothing(alpha=-0.0, weight=(1.0,))
    assert not EXTRAPOLATE.nothing(alpha=5e-324, weight=(1.0,))


def test_parameters_are_checked_by_name_kind_and_value():
    assert EXTRAPOLATE.known("alpha").checked(2) == 2.0
    with pytest.raises(UnknownParameter, match=r"no parameter 'alhpa'.*'alpha'"):
        EXTRAPOLATE.known("alhpa")
    for value in (math.nan, math.inf, -math.inf, True, "0.3", None, [0.3], 1j, 10**400):
        with pytest.raises(BadParameter, match="finite number"):
            EXTRAPOLATE.known("alpha").checked(value)


def test_an_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownMethod, match="'extrapolate'"):
        find_method("extrapolat")
