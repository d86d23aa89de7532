"""Two-level intervals against the slow bootstrap, closed forms, and each of the four words."""

import math

import numpy as np
import pytest
from scipy import stats

from cxrkit.evaluation import metrics, trained_seeds


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def test_set(rng):
    """Labels, scores of three seeds with ties, and groups of unequal size."""
    y = rng.integers(0, 2, 90)
    groups = rng.integers(0, 11, 90)
    scores = np.round(0.5 * y + rng.normal(size=(3, 90)), 1)
    return y, scores, groups


def test_pairs_of_all_groups_are_the_auc(test_set):
    y, scores, groups = test_set
    in_order, positives, negatives = trained_seeds.pair_counts(y, scores[0], groups)
    assert in_order.sum() / (positives.sum() * negatives.sum()) == pytest.approx(
        metrics.auc(y, scores[0])
    )
    assert in_order.shape == (11, 11)
    assert (positives.sum(), negatives.sum()) == (y.sum(), (1 - y).sum())


def test_draws_are_those_of_rows_that_are_written_out(test_set):
    """The same draws, group by group, with every row of a group as often as it was drawn."""
    y, scores, groups = test_set
    fast = trained_seeds.auc_draws(y, scores, groups, draws=20, seed=5)
    times = np.random.default_rng(5).multinomial(11, np.full(11, 1 / 11), size=20)
    for draw, slow in zip(times, fast, strict=True):
        rows = np.concatenate([np.tile(np.flatnonzero(groups == g), k) for g, k in enumerate(draw)])
        expected = [metrics.auc(y[rows], one[rows]) for one in scores]
        np.testing.assert_allclose(slow, expected)


def test_a_draw_with_one_class_is_undefined():
    drawn = trained_seeds.auc_draws([0, 1], [[0.1, 0.9]], ["a", "b"], draws=50)
    assert np.isnan(drawn).any() and (drawn[np.isfinite(drawn)] == 1).all()


def test_seeds_alone_spread_as_the_standard_error_of_their_mean(rng):
    """Without the stretch three seeds would spread by the divisor S instead of S - 1."""
    seeds = np.array([0.80, 0.84, 0.91])
    drawn = trained_seeds.draw_seeds(np.tile(seeds, (40_000, 1)))
    assert drawn.mean() == pytest.approx(seeds.mean(), abs=1e-3)
    assert drawn.std() == pytest.approx(seeds.std(ddof=1) / math.sqrt(3), rel=0.02)
    one = rng.random((7, 1))
    np.testing.assert_array_equal(trained_seeds.draw_seeds(one), one[:, 0])


def test_interval_of_an_auc_stays_in_the_unit_interval(rng):
    y = np.tile([0, 1], 20)
    perfect = y + 0.01 * rng.random((2, 40))
    poor = rng.random((1, 40))
    found = trained_seeds.auc_of_seeds(y, np.concatenate([perfect, poor]), np.arange(40))
    assert 0 <= found["low"] < found["value"] < found["high"] <= 1
    sure = trained_seeds.auc_of_seeds(y, perfect, np.arange(40))
    assert sure == {"value": 1, "low": 1, "high": 1}


def test_difference_is_paired_by_seed_and_patient(test_set, rng):
    y, scores, groups = test_set
    same = trained_seeds.auc_difference_of_seeds(y, scores, scores, groups)
    assert same == {"difference": 0, "low": 0, "high": 0, "p_value": 1}
    worse = rng.normal(size=scores.shape)
    found = trained_seeds.auc_difference_of_seeds(y, scores, worse, groups)
    swapped = trained_seeds.auc_difference_of_seeds(y, worse, scores, groups)
    assert found["low"] <= found["difference"] <= found["high"]
    for one, other in (("difference", "difference"), ("low", "high"), ("high", "low")):
        assert found[one] == pytest.approx(-swapped[other])
    alone = trained_seeds.auc_of_seeds(y, scores, groups)["value"]
    assert found["difference"] == pytest.approx(
        alone - trained_seeds.auc_of_seeds(y, worse, groups)["value"]
    )
    with pytest.raises(ValueError, match="not paired"):
        trained_seeds.auc_difference_of_seeds(y, scores, worse[:2], groups)


def test_mean_of_seeds_is_the_bootstrap_that_is_drawn(rng):
    """Seeds drawn with replacement and stretched, then the patients of each, 400,000 times."""
    values, errors = np.array([0.03, -0.01, 0.05, 0.02]), np.array([0.02, 0.01, 0.015, 0.03])
    found = trained_seeds.mean_of_seeds(values, errors)
    taken = rng.integers(4, size=(400_000, 4))
    seeds = values.mean() + math.sqrt(4 / 3) * (values[taken].mean(axis=1) - values.mean())
    drawn = seeds + (errors[taken] * rng.normal(size=taken.shape)).mean(axis=1)
    assert found["value"] == pytest.approx(values.mean())
    for name, percent in (("low", 2.5), ("high", 97.5)):
        assert found[name] == pytest.approx(np.percentile(drawn, percent), abs=3e-4)
    assert found["standard_error"] == pytest.approx(drawn.std(), rel=0.01)
    assert found["p_value"] == pytest.approx(2 * (drawn < 0).mean(), rel=0.05)


def test_of_the_same_patients_the_mean_of_seeds_evens_out_the_trainings_alone(rng):
    """Drawn: seeds as above, and one draw of patients that moves all of them alike."""
    values, errors = np.array([0.03, -0.01, 0.05, 0.02]), np.array([0.02, 0.01, 0.015, 0.03])
    found = trained_seeds.mean_of_seeds(values, errors, same_patients=True)
    taken = rng.integers(4, size=(400_000, 4))
    seeds = values.mean() + math.sqrt(4 / 3) * (values[taken].mean(axis=1) - values.mean())
    drawn = seeds + errors[taken].mean(axis=1) * rng.normal(size=len(taken))
    for name, percent in (("low", 2.5), ("high", 97.5)):
        assert found[name] == pytest.approx(np.percentile(drawn, percent), abs=3e-4)
    alike = trained_seeds.mean_of_seeds([0.1] * 3, [0.02] * 3, same_patients=True)
    assert alike["high"] == pytest.approx(0.1 + 1.959964 * 0.02, abs=1e-6), "as one seed"


def test_mean_of_one_seed_is_the_interval_of_its_patients():
    found = trained_seeds.mean_of_seeds([0.1], [0.02])
    assert found["low"] == pytest.approx(0.1 - 1.959964 * 0.02, abs=1e-6)
    assert found["high"] == pytest.approx(0.1 + 1.959964 * 0.02, abs=1e-6)
    sure = trained_seeds.mean_of_seeds([0.1, 0.1, 0.1], [0, 0, 0])
    assert sure["low"] == pytest.approx(0.1) == sure["high"]
    assert sure["p_value"] == pytest.approx(0)
    for values, errors in (([], []), ([1.0], [1.0, 2.0]), (np.zeros(11), np.zeros(11))):
        with pytest.raises(ValueError, match="for 1 to 10 seeds"):
            trained_seeds.mean_of_seeds(values, errors)


@pytest.mark.parametrize(("trainings", "covers"), [(0, 0.985), (1, 0.95), (2, 0.90), (4, 0.83)])
def test_how_often_the_interval_of_three_seeds_holds_the_truth(rng, trainings, covers):
    """`trainings` is how much trainings differ, as a multiple of what patients do."""
    held, width, width_of_t = [], [], []
    for _ in range(1500):
        values = trainings * rng.normal(size=3) + rng.normal(size=3)
        found = trained_seeds.mean_of_seeds(values, np.ones(3))
        held.append(found["low"] < 0 < found["high"])
        width.append(found["high"] - found["low"])
        width_of_t.append(2 * stats.t.ppf(0.975, 2) * values.std(ddof=1) / math.sqrt(3))
    assert np.mean(held) == pytest.approx(covers, abs=0.02)
    assert 1.3 < np.mean(width_of_t) / np.mean(width) < 2.3


@pytest.mark.parametrize(
    ("difference", "low", "high", "p_value", "word"),
    [
        (0.05, 0.02, 0.08, 0.001, "better"),
        (-0.05, -0.08, -0.02, 0.001, "worse"),
        (0.001, -0.006, 0.008, 0.8, "equivalent"),
        (0.02, -0.001, 0.04, 0.06, "undecided"),
        (0.02, 0.001, 0.04, 0.09, "undecided"),  # an interval above 0 that Holm takes back
        (math.nan, math.nan, math.nan, math.nan, "undecided"),
    ],
)
def test_the_word_of_a_difference(difference, low, high, p_value, word):
    assert trained_seeds.conclude(difference, low, high, p_value, margin=0.01) == word
    assert word in trained_seeds.CONCLUSIONS
