"""pass@k, intervals and differences against counting, published examples and simulation."""

import itertools
import math

import numpy as np
import pytest

from expo.evaluate.statistics import (
    mean,
    normal_quantile,
    paired,
    pass_at_k,
    sign_test,
    student,
    t_quantile,
    tango,
    wilson,
)


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


def test_quantiles_are_scipy_s():
    stats = pytest.importorskip("scipy.stats")
    for degrees in (1, 2, 3, 4, 5, 9, 10, 99, 500, 1999, 20_001):
        for level in (0.5, 0.95, 0.99375):
            assert t_quantile(level, degrees) == pytest.approx(stats.t.ppf(0.5 + level / 2, degrees), rel=3e-6)
    assert t_quantile(0.95, 10) == pytest.approx(stats.t.ppf(0.975, 10), rel=1e-12)
    assert normal_quantile(0.99) == pytest.approx(stats.norm.ppf(0.995), rel=1e-12)
    with pytest.raises(ValueError, match="level"):
        t_quantile(1.0, 5)


@pytest.mark.parametrize("level", [0.95, 0.99])
def test_the_difference_of_real_scores_is_the_paired_t_test_s(level):
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(4)
    before = random.normal(-3, 2, 57)
    after = before + random.normal(0.3, 1, 57)
    found = paired(before.tolist(), after.tolist(), level=level)
    wanted = stats.ttest_rel(after, before).confidence_interval(level)
    assert found.difference.method == "Student's t" and found.difference.n == 57
    assert (found.difference.low, found.difference.high) == pytest.approx((wanted.low, wanted.high), rel=1e-9)
    assert found.difference.value == pytest.approx(np.mean(after - before), rel=1e-12)
    assert found.won + found.lost == 57


def test_the_bootstrap_of_real_scores_is_near_the_t_interval_and_the_same_for_the_same_seed():
    random = np.random.default_rng(5)
    before = random.normal(0, 1, 900).tolist()
    after = [score + float(more) for score, more in zip(before, random.normal(0.1, 1, 900), strict=True)]
    boot = paired(before, after, method="bootstrap", seed=3).difference
    student_s = paired(before, after, method="t").difference
    assert (boot.low, boot.high) == pytest.approx((student_s.low, student_s.high), abs=0.008)
    assert boot == paired(before, after, method="bootstrap", seed=3).difference
    assert boot != paired(before, after, method="bootstrap", seed=4).difference


def test_few_shares_get_student_s_interval_and_two_equal_gains_are_not_distinguishable():
    """A bootstrap of a handful is too narrow: it never leaves what was seen."""
    before, after = [0.25, 0.5, 0.25, 0.75, 0.5], [0.5, 0.75, 0.25, 1.0, 0.5]
    assert paired(before, after).difference.method == "Student's t"
    assert paired(before * 4, after * 4).difference.method == "paired bootstrap"
    two, ten = paired([0.25] * 2, [0.5] * 2), paired([0.25] * 10, [0.5] * 10)
    assert two.difference.low == 0.25 and not two.distinguishable and ten.distinguishable


def test_wider_levels_hold_narrower_ones():
    before, after = [0, 1, 1, 0, 1, 0] * 8, [1, 1, 0, 1, 1, 0] * 8
    for method in ("tango", "t", "bootstrap"):
        narrow, wide = (paired(before, after, method=method, level=level).difference for level in (0.9, 0.99))
        assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    assert wilson(5, 20, level=0.99).low < wilson(5, 20).low


def test_the_mean_of_one_model_s_scores():
    stats = pytest.importorskip("scipy.stats")
    shares = mean([0.0, 1.0, 0.5, 1.0])
    assert shares.method == "Wilson" and shares.value == 0.625
    values = [3.0, -1.5, 2.25, 8.0, 0.0]
    found = mean(values)
    wanted = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(wanted, rel=1e-9)
    assert student([2.0]).low == -math.inf
    with pytest.raises(ValueError, match="no number"):
        mean([])


def test_scores_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="no finite number"):
        paired([0.0, math.nan], [1.0, 1.0])
    with pytest.raises(ValueError, match="by 'tango'"):
        paired([0.5], [1.0], method="tango")
    with pytest.raises(ValueError, match="by 'normal'"):
        paired([0.5], [1.0], method="normal")
