"""Bootstrap against the closed form of a mean, whole patients, undefined draws, and DeLong's test
as a second implementation.
"""

import math

import numpy as np
import pytest

from cxrkit.evaluation import metrics, resampling


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_bootstrap_of_a_mean_is_the_closed_form(rng):
    x = rng.normal(size=200)
    value, low, high = resampling.bootstrap(np.mean, x, draws=4000)
    assert value == x.mean()
    np.testing.assert_allclose(
        [low, high], x.mean() + np.array([-1.96, 1.96]) * x.std() / math.sqrt(200), atol=0.01
    )
    assert resampling.bootstrap(np.mean, x, draws=50) == resampling.bootstrap(np.mean, x, draws=50)
    assert resampling.bootstrap(np.mean, x, draws=50, seed=1) != resampling.bootstrap(
        np.mean, x, draws=50
    )


def test_bootstrap_draws_whole_patients(rng):
    x, groups = np.repeat(rng.normal(size=40), 5), np.repeat(rng.permutation(40), 5)
    shuffled = rng.permutation(200)
    _, low, high = resampling.bootstrap(np.mean, x[shuffled], groups=groups[shuffled], draws=4000)
    assert high - low == pytest.approx(2 * 1.96 * x.std() / math.sqrt(40), rel=0.1)

    def whole(drawn_groups):
        return float((np.bincount(drawn_groups, minlength=40) % 5 == 0).all())

    assert (
        resampling.resample(whole, groups[shuffled], groups=groups[shuffled], draws=20) == 1
    ).all()


def test_bootstrap_leaves_undefined_draws_out():
    value, low, high = resampling.bootstrap(metrics.auc, [1, 0, 0, 0, 0], [2, 1, 3, 0, 0])
    assert value == 0.75 and 0 <= low <= value <= high <= 1
    assert math.isnan(
        resampling.bootstrap(lambda x: x[0] if x.sum() > 20 else math.nan, np.arange(5))[1]
    )


def test_one_patient_has_a_value_and_no_interval():
    value, low, high = resampling.bootstrap(np.mean, [1.0, 2.0, 6.0], groups=["a", "a", "a"])
    assert value == 3.0 and math.isnan(low) and math.isnan(high)
    assert math.isnan(
        resampling.paired_bootstrap(metrics.auc, [1, 0], [1, 0], [0, 1], groups=["a", "a"])["low"]
    )


def test_paired_bootstrap_agrees_with_delong(rng):
    y = rng.integers(0, 2, 200)
    a = y + rng.normal(size=200)
    b = a + 0.8 * rng.normal(size=200)
    boot, exact = resampling.paired_bootstrap(metrics.auc, y, a, b), metrics.delong_test(y, a, b)
    assert boot["difference"] == pytest.approx(exact["difference"])
    np.testing.assert_allclose(
        [boot["low"], boot["high"]], [exact["low"], exact["high"]], atol=0.01
    )
    assert boot["p_value"] == pytest.approx(exact["p_value"], abs=0.03)
    assert resampling.paired_bootstrap(metrics.auc, y, a, a)["p_value"] == 1
    assert all(
        math.isnan(v)
        for v in resampling.paired_bootstrap(metrics.auc, [1, 1], [1, 2], [2, 1]).values()
    )
