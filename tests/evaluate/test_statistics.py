"""pass@k, intervals and differences against counting, published examples and simulation."""

import itertools
import math

import numpy as np
import pytest

from expo.evaluate.statistics import paired, pass_at_k, sign_test, tango, wilson


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (5, 2, 3), (6, 0, 4), (6, 6, 2), (7, 3, 5), (7, 3, 7)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n, c, k):
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-15)


def test_pass_at_k_of_many_samples_is_exact_and_refuses_nonsense():
    assert pass_at_k(1000, 1, 500) == pytest.approx(0.5, abs=1e-15)
    for n, c, k in ((3, 4, 1), (3, 1, 4), (3, 1, 0), (3, -1, 1)):
        with pytest.raises(ValueError, match="not defined"):
            pass_at_k(n, c, k)


def test_wilson_solves_its_own_equation_and_knows_the_ends():
    for correct, n in ((7, 10), (1, 50), (260, 1319)):
        found = wilson(correct, n)
        for bound in (found.low, found.high):  # |share - p| is z standard errors of p
            assert abs(correct / n - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / n), rel=1e-5)
    assert wilson(0, 20).low == 0 and wilson(20, 20).high == 1
    assert wilson(0, 20).high == pytest.approx(1.959964**2 / (20 + 1.959964**2), rel=1e-5)
    with pytest.raises(ValueError, match="no share"):
        wilson(3, 2)


def test_wilson_by_hand():
    # Newcombe (1998), table I: 81 of 263 and 0 of 20.
    for counts, bounds in (((81, 263), (0.2553, 0.3662)), ((0, 20), (0.0, 0.1611))):
        found = wilson(*counts)
        assert (found.low, found.high) == pytest.approx(bounds, abs=5e-5)


def test_tango_s_interval_of_a_published_example():
    # Fagerland, Lydersen, Laake (2014), airway hyper-responsiveness: 1 and 7 discordant pairs of 21.
    found = tango(1, 7, 21)
    assert (round(found.low, 3), round(found.high, 3)) == (-0.517, -0.026)


def test_tango_s_interval_without_any_difference_is_not_empty():
    found = tango(0, 0, 100)
    z2 = 1.959964**2
    assert found.high == pytest.approx(-found.low) == pytest.approx(z2 / (100 + z2), rel=1e-4)


def test_tango_s_interval_covers_the_truth():
    random = np.random.default_rng(0)
    covered = 0
    for won, lost, _ in random.multinomial(80, [0.15, 0.05, 0.8], size=1000):
        found = tango(int(won), int(lost), 80)
        covered += found.low <= 0.10 <= found.high
    assert 0.93 < covered / 1000 < 0.975


def test_the_bootstrap_s_interval_covers_the_truth():
    random = np.random.default_rng(1)
    covered = 0
    for seed in range(80):
        before = random.binomial(4, 0.5, 150) / 4
        after = random.binomial(4, 0.6, 150) / 4
        found = paired(before.tolist(), after.tolist(), seed=seed).difference
        covered += found.low <= 0.10 <= found.high
    assert found.method == "paired bootstrap" and 0.88 < covered / 80 <= 1


def test_the_sign_test_by_hand():
    assert sign_test(0, 0) == 1 and sign_test(3, 3) == 1
    assert sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(1, 7) == pytest.approx(2 * (1 + 8) / 256)


def test_paired_counts_and_chooses_its_interval():
    found = paired([0, 1, 1, 0], [1, 1, 0, 1])
    assert (found.won, found.lost, found.difference.value, found.difference.method) == (2, 1, 0.25, "Tango score")
    assert paired([0.5, 1], [0.5, 0.25]).difference.value == -0.375
    with pytest.raises(ValueError, match="cannot be paired"):
        paired([1], [1, 0])
