"""Metrics against scikit-learn, closed forms, ties worked by hand, slow pairwise sums and simulated
coverage.
"""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from cxrkit.evaluation import metrics


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def sample(rng, n=60, signal=1.0, ties=False):
    y = np.r_[0, 1, 0, 1, rng.integers(0, 2, n - 4)]
    p = y * signal + rng.normal(size=n)
    return y, np.round(p) if ties else p


def slow_delong(y, *scores):
    """DeLong 1988, equations 4-6: every pair of a positive and a negative."""
    psi = np.array(
        [
            [[1.0 if a > b else 0.5 if a == b else 0.0 for b in p[y == 0]] for a in p[y == 1]]
            for p in scores
        ]
    )
    theta = psi.mean((1, 2))
    s10, s01 = np.atleast_2d(np.cov(psi.mean(2))), np.atleast_2d(np.cov(psi.mean(1)))
    return theta, s10 / psi.shape[1] + s01 / psi.shape[2]


# ranking


@pytest.mark.parametrize("ties", [False, True])
def test_delong_is_the_pairwise_sum(rng, ties):
    for _ in range(20):
        y, a = sample(rng, ties=ties)
        b = a + rng.normal(size=len(y))
        got, want = metrics.delong(y, a, b), slow_delong(y, a, b)
        np.testing.assert_allclose(got[0], want[0], rtol=1e-12)
        np.testing.assert_allclose(got[1], want[1], rtol=1e-9)
        assert metrics.auc(y, a) == pytest.approx(sk.roc_auc_score(y, a), abs=1e-12)
        assert metrics.auc_ci(y, a)[0] == pytest.approx(sk.roc_auc_score(y, a), abs=1e-12)


def test_ties_by_hand():
    # positives 3, 2, 2; negatives 2, 1: pairs 1+1, .5+1, .5+1 of 6 -> 5/6; V10 = 1, .75, .75; V01 =
    # 2/3, 1
    y, p = [1, 1, 1, 0, 0], [3, 2, 2, 2, 1]
    assert metrics.auc(y, p) == pytest.approx(5 / 6)
    variance = metrics.delong(y, p)[1][0, 0]
    assert variance == pytest.approx((1 / 48) / 3 + (1 / 18) / 2)
    half = 1.959964 * math.sqrt(variance) / (5 / 36)
    want = [1 / (1 + math.exp(-(math.log(5) + side * half))) for side in (-1, 1)]
    assert metrics.auc_ci(y, p)[1:] == pytest.approx(want, rel=1e-6)


def test_one_class_is_nan_and_unknown_labels_are_left_out(rng):
    for method in ("delong", "bootstrap"):
        assert np.isnan(metrics.auc_ci([1, 1, 1], [1, 2, 3], method)).all()
        assert np.isnan(metrics.auc_ci([0, 0, np.nan], [1, 2, 3], method)).all()
    area, low, high = metrics.auc_ci([1, 0, 0], [1, 2, 0])
    assert area == 0.5 and math.isnan(low) and math.isnan(high)
    y, p = sample(rng)
    more = np.r_[y, [np.nan] * 5], np.r_[p, 1e9 * np.ones(5)]
    assert metrics.auc_ci(*more) == metrics.auc_ci(y, p)
    assert metrics.operating_point(*more) == metrics.operating_point(y, p)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="unequal lengths"):
        metrics.auc([0, 1], [1, 2, 3])
    with pytest.raises(ValueError, match="labels must be 0, 1 or NaN"):
        metrics.auc([0, 1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="finite"):
        metrics.auc([0, 1], [1, np.nan])
    with pytest.raises(ValueError, match="unknown method 'hanley'; known"):
        metrics.auc_ci([0, 1], [1, 2], method="hanley")


def test_perfect_auc_has_an_honest_interval(rng):
    y = np.r_[np.zeros(20), np.ones(10)]
    area, low, high = metrics.auc_ci(y, y)
    assert (area, high) == (1.0, 1.0) and 0.7 < low < 0.95
    assert metrics.auc_ci(y, -y) == pytest.approx((0.0, 0.0, 1 - low))
    larger = metrics.auc_ci(np.tile(y, 10), np.tile(y, 10))[1]
    assert low < larger < 1
    # the limit solves Newcombe's equation
    m, n, k = 10, 20, 14
    v = low * (1 - low) / (m * n) * (1 + k * (1 - low) / (2 - low) + k * low / (1 + low))
    assert 1 - low == pytest.approx(1.959964 * math.sqrt(v), rel=1e-5)


def test_interval_covers_the_truth_in_95_of_100(rng):
    """Binormal scores whose AUC is known; 40 positives, 60 negatives."""
    truth, y = stats.norm.cdf(1.2 / math.sqrt(2)), np.r_[np.ones(40), np.zeros(60)]
    limits = np.array([metrics.auc_ci(y, rng.normal(size=100) + 1.2 * y)[1:] for _ in range(1500)])
    assert np.mean((limits[:, 0] <= truth) & (truth <= limits[:, 1])) == pytest.approx(
        0.95, abs=0.02
    )


def clustered(rng, patients=50, images=4):
    """Films of a patient share the label and most of the noise."""
    y = np.repeat(np.arange(patients) % 2, images)
    patient = np.repeat(np.arange(patients), images)
    return y, 1.2 * y + rng.normal(size=patients)[patient] + 0.1 * rng.normal(size=len(y)), patient


def test_groups_widen_the_interval_to_the_truth(rng):
    """Four near-copies of a film are one piece of evidence: with groups the interval covers,
    without it does not.
    """
    truth = stats.norm.cdf(1.2 / math.sqrt(2 * 1.01))
    draws = [clustered(rng) for _ in range(600)]
    covered = {
        name: np.mean(
            [
                low <= truth <= high
                for _, low, high in (
                    metrics.auc_ci(y, p, groups=g if name == "groups" else None)
                    for y, p, g in draws
                )
            ]
        )
        for name in ("groups", "rows")
    }
    assert covered["groups"] > 0.92 and covered["rows"] < 0.75
    y, p, g = draws[0]
    np.testing.assert_allclose(
        metrics.auc_ci(y, p, groups=g), metrics.auc_ci(y, p, "bootstrap", groups=g), atol=0.03
    )


def test_groups_with_both_labels_correlate(rng):
    """A patient's sick and healthy films share an offset, which cancels in the AUC: the cross term
    narrows the interval.
    """
    areas, variances = [], []
    for _ in range(400):
        offset = np.repeat(rng.normal(size=30) * 2, 2)
        y, g = np.tile([0, 1], 30), np.repeat(np.arange(30), 2)
        area, cov = metrics.delong(y, y + offset + 0.5 * rng.normal(size=60), groups=g)
        areas.append(area[0])
        variances.append(cov[0, 0])
    assert np.mean(variances) == pytest.approx(np.var(areas), rel=0.2)


def test_groups_of_one_change_nothing(rng):
    y, p = sample(rng)
    names = rng.permutation([f"patient {i}" for i in range(60)])
    np.testing.assert_allclose(metrics.auc_ci(y, p, groups=names), metrics.auc_ci(y, p), rtol=1e-12)


def test_macro_auc_is_sklearns(rng):
    y = rng.integers(0, 3, 90)
    p = rng.dirichlet([1, 1, 1], 90) + 0.5 * np.eye(3)[y]
    p /= p.sum(1, keepdims=True)
    assert metrics.macro_auc(y, p) == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"))
    assert math.isnan(metrics.macro_auc(y[y < 2], p[y < 2]))
    assert metrics.macro_auc(y[y < 2], p[y < 2], classes=[0]) == pytest.approx(
        metrics.auc(y[y < 2] == 0, p[y < 2][:, 0])
    )
    assert metrics.macro_auc(np.r_[y, np.nan], np.r_[p, p[:1]]) == pytest.approx(
        metrics.macro_auc(y, p)
    )


# operating point


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("target", [0.07, 0.5, 0.8, 0.95, 1.0])
def test_operating_point_is_the_best_of_a_scan(rng, ties, target):
    for _ in range(10):
        y, p = sample(rng, n=37, ties=ties)
        point = metrics.operating_point(y, p, target)
        best = max(t for t in p if (p[y == 1] >= t).mean() >= target - 1e-12)
        (tn, fp), (fn, tp) = sk.confusion_matrix(y, p >= best)
        assert point == pytest.approx(
            {
                "threshold": best,
                "sensitivity": tp / (tp + fn),
                "specificity": tn / (tn + fp),
                "accuracy": (tp + tn) / len(y),
            }
        )


def test_operating_point_counts_exactly():
    y, p = np.r_[np.ones(100), np.zeros(1)], np.r_[np.arange(100), -1]
    # 0.07 * 100 > 7 in floating point
    assert metrics.operating_point(y, p, 0.07)["threshold"] == 93
    assert metrics.at_threshold([1, 1, 0, 0], [0.9, 0.2, 0.5, 0.1], 0.5) == {
        "threshold": 0.5,
        "sensitivity": 0.5,
        "specificity": 0.5,
        "accuracy": 0.5,
    }


def test_operating_point_without_a_class_is_nan():
    assert all(
        math.isnan(v)
        for y in ([1, 1], [0, 0], [np.nan, np.nan])
        for v in metrics.operating_point(y, [1, 2]).values()
    )
    point = metrics.at_threshold([1, 1], [0.2, 0.9], 0.5)
    assert (point["sensitivity"], point["accuracy"]) == (0.5, 0.5) and math.isnan(
        point["specificity"]
    )
    assert all(math.isnan(v) for v in metrics.at_threshold([1, 0], [0.2, 0.9], math.nan).values())
    with pytest.raises(ValueError, match="sensitivity must be"):
        metrics.operating_point([0, 1], [1, 2], 80)


# severity and agreement


def test_severity_metrics_are_sklearns(rng):
    y = rng.integers(0, 7, 50).astype(float)
    p = y + rng.normal(size=50)
    assert metrics.severity_metrics(y, p) == pytest.approx(
        {
            "mse": sk.mean_squared_error(y, p),
            "mae": sk.mean_absolute_error(y, p),
            "cc": stats.pearsonr(y, p)[0],
            "r2": sk.r2_score(y, p),
        }
    )


def test_undefined_severity_metrics_are_nan():
    got = metrics.severity_metrics([2, 2, 2], [1, 2, 3])
    assert got["mse"] == pytest.approx(2 / 3) and math.isnan(got["cc"]) and math.isnan(got["r2"])
    constant = metrics.severity_metrics([0, 1, 5], [2, 2, 2])
    assert math.isnan(constant["cc"]) and constant["r2"] == pytest.approx(0)
    assert all(math.isnan(v) for v in metrics.severity_metrics([np.nan], [1]).values())


def test_quadratic_kappa_is_sklearns(rng):
    for _ in range(5):
        a, b = rng.integers(0, 4, 40), rng.integers(0, 4, 40)
        assert metrics.quadratic_kappa(a, b) == pytest.approx(
            sk.cohen_kappa_score(a, b, weights="quadratic")
        )
    assert metrics.quadratic_kappa([0, 1, 3], [0, 1, 3]) == 1 and math.isnan(
        metrics.quadratic_kappa([2, 2], [2, 2])
    )


def test_bland_altman_by_hand():
    got = metrics.bland_altman([1, 2, 6], [0, 2, 4])  # differences 1, 0, 2
    assert got == pytest.approx(
        {"bias": 1, "sd": 1, "low": 1 - 1.959964, "high": 1 + 1.959964}, rel=1e-6
    )


# calibration and use


def test_calibration_by_hand():
    y, p = [0, 1, 1, 0, 1], [0.1, 0.15, 0.7, 1.0, 1.0]
    table = metrics.reliability(y, p, bins=5)
    np.testing.assert_array_equal(table["n"], [2, 0, 0, 1, 2])
    np.testing.assert_allclose(table["predicted"], [0.125, np.nan, np.nan, 0.7, 1.0])
    np.testing.assert_allclose(table["observed"], [0.5, np.nan, np.nan, 1.0, 0.5])
    assert metrics.ece(y, p, bins=5) == pytest.approx((2 * 0.375 + 0.3 + 2 * 0.5) / 5)
    assert metrics.brier(y, p) == pytest.approx(sk.brier_score_loss(y, p))
    with pytest.raises(ValueError, match="probabilities"):
        metrics.ece([0, 1], [-2.0, 3.0])
    assert math.isnan(metrics.ece([np.nan], [0.5])) and math.isnan(metrics.brier([np.nan], [0.5]))


def test_calibrated_probabilities_have_a_small_error(rng):
    p = rng.random(20_000)
    y = rng.random(20_000) < p
    assert metrics.ece(y, p) < 0.02 and metrics.ece(y, p**3) > 0.1


def test_decision_curve_by_hand():
    y, p = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.4, 0.6, 0.2, 0.1])
    curve = metrics.decision_curve(y, p, [0.0, 0.5, 0.8])
    np.testing.assert_allclose(curve["model"], [2 / 5, 1 / 5 - 1 / 5 * 1, 1 / 5])
    np.testing.assert_allclose(curve["all"], [2 / 5, 2 / 5 - 3 / 5, 2 / 5 - 3 / 5 * 4], rtol=1e-9)
    assert metrics.decision_curve(y, p)["thresholds"].shape == (99,)
    with pytest.raises(ValueError, match="thresholds"):
        metrics.decision_curve(y, p, [1.0])


# model against model


def test_paired_delong_is_the_z_test_of_the_pairwise_sum(rng):
    y, a = sample(rng, n=80)
    b = a + rng.normal(size=80)
    theta, cov = slow_delong(y, a, b)
    sd = math.sqrt(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
    got = metrics.delong_test(y, a, b)
    assert got == pytest.approx(
        {
            "auc_a": theta[0],
            "auc_b": theta[1],
            "difference": theta[0] - theta[1],
            "low": theta[0] - theta[1] - 1.959964 * sd,
            "high": theta[0] - theta[1] + 1.959964 * sd,
            "p_value": math.erfc(abs(theta[0] - theta[1]) / sd / math.sqrt(2)),
        },
        rel=1e-6,
    )
    same = metrics.delong_test(y, a, 2 * a + 1)
    assert (same["difference"], same["p_value"]) == (0, 1)
    missing = metrics.delong_test([1, 1], [1, 2], [2, 1])
    assert math.isnan(missing["p_value"]) and math.isnan(missing["low"])


def test_paired_tests_keep_their_level(rng):
    """Two equally good models: p < 0.05 in 5 of 100."""
    p_values = []
    for _ in range(800):
        y, a = sample(rng, n=100, signal=0.0)
        p_values.append(
            metrics.delong_test(y, a + y + rng.normal(size=100), a + y + rng.normal(size=100))[
                "p_value"
            ]
        )
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.025)


def slow_holm(p):
    """Step down: adjusted p = the smallest level at which the hypothesis falls, found from the
    definition.
    """

    def rejected(level):
        out = set()
        for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
            if p[i] > level / (len(p) - rank):
                break
            out.add(i)
        return out

    levels = sorted(
        {min(1.0, x * k) for x, k in itertools.product(p, range(1, len(p) + 1))} | {1.0}
    )
    return [next((a for a in levels if i in rejected(a * (1 + 1e-12))), 1.0) for i in range(len(p))]


def test_holm(rng):
    np.testing.assert_allclose(metrics.holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(metrics.holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
    for _ in range(20):
        p = rng.random(6) ** 3
        np.testing.assert_allclose(metrics.holm(p), slow_holm(p))
