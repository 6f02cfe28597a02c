"""Each loss against its formula in float64 numpy, and at the points where its value is known."""

import math

import numpy as np
import pytest
import torch

from expo.train import losses

RNG = np.random.default_rng(0)
MARGINS = RNG.normal(size=64) * 3
CHOSEN, REJECTED = -RNG.exponential(size=64) * 2 - 1e-3, -RNG.exponential(size=64) * 2 - 1e-3


def tensor(x):
    return torch.tensor(x, dtype=torch.float32)


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_sigmoid_dpo_is_its_formula(beta, smoothing):
    expected = -(1 - smoothing) * log_sigmoid(beta * MARGINS) - smoothing * log_sigmoid(-beta * MARGINS)
    found = losses.sigmoid_dpo(tensor(MARGINS), beta=beta, label_smoothing=smoothing)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_without_a_margin_dpo_costs_log_two_whatever_the_smoothing():
    for smoothing in (0.0, 0.2, 0.4):
        found = losses.sigmoid_dpo(torch.zeros(1), beta=0.1, label_smoothing=smoothing)
        assert found.item() == pytest.approx(math.log(2))


def test_smoothing_is_least_where_the_preference_equals_its_share():
    # cDPO: d/dm = 0 where sigmoid(beta m) = 1 - e.
    margin = torch.tensor(math.log(0.9 / 0.1), requires_grad=True)
    losses.sigmoid_dpo(margin, beta=1.0, label_smoothing=0.1).backward()
    assert margin.grad.item() == pytest.approx(0, abs=1e-7)


def test_ipo_averages_over_a_completions_tokens_before_the_square():
    n, m = RNG.integers(1, 9, size=64), RNG.integers(1, 9, size=64)
    expected = (CHOSEN / n - REJECTED / m - 1 / (2 * 0.2)) ** 2
    found = losses.ipo(tensor(CHOSEN), tensor(REJECTED), tensor(n), tensor(m), beta=0.2)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
    assert losses.ipo(*map(torch.tensor, (6.0, 2.0, 2.0, 4.0)), beta=0.2).item() == 0.0  # 3 - 0.5 = 1 / 0.4


def test_the_odds_ratio_is_its_formula():
    odds = np.exp(CHOSEN) / (1 - np.exp(CHOSEN)), np.exp(REJECTED) / (1 - np.exp(REJECTED))
    expected = -log_sigmoid(np.log(odds[0] / odds[1]))
    found = losses.odds_ratio(tensor(CHOSEN), tensor(REJECTED))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_log1mexp_is_exact_near_zero_and_far_from_it():
    x = np.array([-1e-6, -1e-3, -0.5, -math.log(2), -1.0, -30.0])
    np.testing.assert_allclose(losses.log1mexp(tensor(x)).numpy(), np.log(-np.expm1(x)), rtol=1e-5, atol=1e-12)


def test_odds_of_certain_and_of_impossible_completions_have_finite_gradients():
    chosen = torch.tensor([0.0, -1e-9, -80.0], requires_grad=True)
    losses.odds_ratio(chosen, torch.full((3,), -0.7)).sum().backward()
    assert torch.isfinite(chosen.grad).all()


def test_token_cross_entropy_weights_each_token():
    logps, weights = torch.tensor([[-1.0, -2.0, 0.0]]), torch.tensor([[0.5, 2.0, 0.0]])
    assert losses.token_cross_entropy(logps, weights).tolist() == [[0.5, 4.0, 0.0]]


def test_soft_labels_are_cross_entropy_with_a_distribution():
    logits, targets = torch.randn(5, 3), torch.rand(5, 3).softmax(-1)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(losses.soft_cross_entropy(logits, targets), expected)
    hard = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 0, 1]), 3).float()
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1]), reduction="none")
    torch.testing.assert_close(losses.soft_cross_entropy(logits, hard), expected)
