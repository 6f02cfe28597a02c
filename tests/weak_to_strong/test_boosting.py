"""Boosting's arithmetic is AdaBoost's: by hand, and beside scikit-learn on the same fixed learners."""

import math

import numpy as np
import pytest

from expo.weak_to_strong import boosting
from expo.weak_to_strong.errors import BoostingError


def test_a_round_by_hand():
    rule, wrong = boosting.rule_of("binary"), np.array([True, False, False, False])
    judged = boosting.judge(boosting.error_of(wrong, boosting.start(4)), rule, 4)
    assert judged.error == 0.25 and judged.alpha == pytest.approx(math.log(3) / 2)
    # 1/4 exp(a) to 3/4 exp(-a) is 1/2 to 1/2: the next expert sees the wrong one as often as all the others
    found = boosting.reweighted(boosting.start(4), wrong, judged.alpha, rule)
    assert found == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])


@pytest.fixture(
    scope="module", params=[(2, 1, 200), (3, 1, 200), (2, 3, 80)], ids=["stumps", "3 classes", "few mistakes"]
)
def scikit(request):
    """A fitted AdaBoostClassifier of small trees, its data, and the sample weights that each tree was given.

    The last has rounds whose error is below half a sample's equal share.
    """
    classes, depth, n = request.param
    ensemble = pytest.importorskip("sklearn.ensemble")
    from sklearn.tree import DecisionTreeClassifier

    given: list = []

    class Tree(DecisionTreeClassifier):
        def fit(self, X, y, sample_weight=None):
            given.append(np.array(sample_weight))
            return super().fit(X, y, sample_weight=sample_weight)

    draws = np.random.default_rng(7)
    x = draws.normal(size=(n, 4))
    y = (x[:, 0] + x[:, 1] ** 2 + 0.3 * draws.normal(size=n) > 0.7).astype(int)
    if classes == 3:
        y += (x[:, 2] + 0.5 * x[:, 3] > 0.4).astype(int)
    fitted = ensemble.AdaBoostClassifier(Tree(max_depth=depth), n_estimators=12, random_state=0).fit(x, y)
    assert len(fitted.estimators_) == 12 and set(y) == set(range(classes))
    return fitted, x, y, given


def test_weights_alphas_and_votes_are_scikit_learns(scikit):
    fitted = scikit[0]
    for prior in ("binary", "samme") if len(fitted.classes_) == 2 else ("samme",):
        check_beside(prior, *scikit)


def check_beside(prior, fitted, x, y, given):
    classes = len(fitted.classes_)
    rule, weights = boosting.rule_of(prior, classes=classes), boosting.start(len(y))
    alphas, votes = [], []
    for number, tree in enumerate(fitted.estimators_):
        assert np.abs(weights - given[number] / given[number].sum()).max() < 1e-6
        found = tree.predict(x)
        judged = boosting.judge(boosting.error_of(found != y, weights), rule, len(y))
        assert judged.verdict == "kept"
        alphas.append(judged.alpha)
        votes.append(np.eye(classes)[found])
        weights = boosting.reweighted(weights, found != y, judged.alpha, rule)
    factor = 2 if prior == "binary" else 1  # scikit-learn's alpha has no 1/2
    assert factor * np.array(alphas) == pytest.approx(fitted.estimator_weights_, abs=1e-9)
    together = boosting.combined(np.array(votes), alphas, discrete=True)
    assert (together.argmax(-1) == fitted.predict(x)).all()


def test_a_random_guess_as_reference_gives_sammes_alpha():
    ours = boosting.judge(0.3, boosting.rule_of("pretrained", measured=1 - 1 / 50, n=10_000), 100)
    assert ours.alpha == pytest.approx(math.log(0.7 / 0.3) + math.log(49))
    assert boosting.judge(0.3, boosting.rule_of(1 - 1 / 50), 100).alpha == pytest.approx(ours.alpha)
    assert boosting.judge(0.3, boosting.rule_of("samme", classes=50), 100).alpha == pytest.approx(ours.alpha)


@pytest.mark.parametrize("prior", ["binary", "samme", 0.4])
def test_after_a_round_the_expert_is_as_wrong_as_the_prior(prior):
    rule, wrong = boosting.rule_of(prior, classes=7), np.arange(50) % 5 == 0
    judged = boosting.judge(boosting.error_of(wrong, boosting.start(50)), rule, 50)
    again = boosting.error_of(wrong, boosting.reweighted(boosting.start(50), wrong, judged.alpha, rule))
    assert again == pytest.approx(rule.reference)


@pytest.mark.parametrize("prior", ["binary", "samme", 0.2])
def test_an_expert_without_a_mistake_gets_a_finite_alpha_and_ends_boosting(prior):
    judged = boosting.judge(0.0, boosting.rule_of(prior), 100)
    assert judged.verdict == "perfect" and math.isfinite(judged.alpha) and "boosting ends" in judged.said
    assert judged.alpha > boosting.judge(0.01, boosting.rule_of(prior), 100).alpha


@pytest.mark.parametrize("prior", ["binary", "samme", 0.2])
def test_a_mistake_on_less_weight_than_half_a_sample_counts_as_it_is(prior):
    rule = boosting.rule_of(prior)
    judged = boosting.judge(1e-4, rule, 100)
    expected = math.log((1 - 1e-4) / 1e-4) + math.log(rule.reference / (1 - rule.reference))
    assert judged.verdict == "kept" and judged.alpha == pytest.approx(rule.scale * expected)


@pytest.mark.parametrize("error", [0.5, 0.51, 1.0])
def test_an_expert_not_better_than_the_prior_is_left_out(error):
    judged = boosting.judge(error, boosting.rule_of("binary"), 100)
    assert judged.alpha == 0 and judged.verdict == "not better than the prior" and "left out" in judged.said


def test_probabilities_are_added_by_weight_and_discrete_counts_votes():
    votes = np.array([[[0.9, 0.1]], [[0.4, 0.6]], [[0.4, 0.6]]])
    assert boosting.combined(votes, [2, 1, 1]) == pytest.approx(np.array([[0.65, 0.35]]))
    assert boosting.combined(votes, [1, 1, 1], discrete=True) == pytest.approx(np.array([[1 / 3, 2 / 3]]))


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, math.nan], [1.0, math.inf]])
def test_weights_that_make_no_ensemble_are_refused(weights):
    with pytest.raises(BoostingError, match="finite numbers of at least 0, not all of them 0"):
        boosting.combined(np.full((2, 1, 2), 0.5), weights)


@pytest.mark.parametrize(
    ("prior", "how", "words"),
    [
        (0.0, {}, "between 0 and 1"),
        ("samme", {"classes": 1}, "at least 2 classes"),
        ("pretrained", {}, "needs the error"),
        ("pretrained", {"measured": 0.0}, "makes no mistake"),
    ],
)
def test_priors_that_cannot_be_are_refused(prior, how, words):
    with pytest.raises(BoostingError, match=words):
        boosting.rule_of(prior, **how)


def test_resampling_follows_the_weights_and_the_seed():
    weights = np.array([0.0, 1.0, 3.0])
    drawn = np.concatenate([boosting.resampled(weights, seed) for seed in range(2000)])
    assert 0 not in drawn and (drawn == 2).mean() == pytest.approx(0.75, abs=0.02)
    assert (boosting.resampled(weights, 5) == boosting.resampled(weights, 5)).all()


def test_the_best_round_is_the_first_of_equals_and_patience_counts_from_it():
    assert boosting.best_round([0.5, 0.7, 0.7, 0.6]) == 1
    assert not boosting.exhausted([0.5, 0.7, 0.7], 2) and boosting.exhausted([0.5, 0.7, 0.7, 0.6], 2)
