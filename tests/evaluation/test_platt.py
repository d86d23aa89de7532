"""Platt scaling against lines that are known."""

import numpy as np
import pytest

from cxrkit.evaluation import platt


def drawn(n=20_000, slope=2.0, offset=-1.0, seed=0):
    """Values of zones and labels whose true chance is sigmoid(slope * logit(value) + offset)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 3, 2))
    labels = rng.random((n, 3, 2)) < 1 / (1 + np.exp(-(slope * logits + offset)))
    return 1 / (1 + np.exp(-logits)), labels.astype(float)


def test_the_line_that_drew_the_labels_is_found():
    array, labels = drawn()
    labels[::3, 1, 1] = np.nan  # unknown
    slope, offset = platt.fit_zones(array, labels, np.ones(len(array)))
    np.testing.assert_allclose(slope, 2.0, atol=0.15)
    np.testing.assert_allclose(offset, -1.0, atol=0.15)


def test_weights_count_as_copies():
    array, labels = drawn(600)
    weighted = platt.fit_zones(array, labels, np.where(np.arange(600) < 100, 3.0, 1.0))
    whole = np.concatenate([array, array[:100], array[:100]])
    labels = np.concatenate([labels, labels[:100], labels[:100]])
    repeated = platt.fit_zones(whole, labels, np.ones(800))
    np.testing.assert_allclose(weighted[0], repeated[0], atol=1e-3)
    np.testing.assert_allclose(weighted[1], repeated[1], atol=1e-3)


def test_a_higher_value_never_means_less():
    rng = np.random.default_rng(1)
    values = rng.uniform(0.1, 0.9, 200)
    slope, offset = platt.fit_line(values, (values < 0.3).astype(float), np.ones(200))
    assert slope == 0
    assert 1 / (1 + np.exp(-offset)) == pytest.approx((values < 0.3).mean())


def test_zones_that_are_absent_or_of_one_kind_stay_as_they_are():
    array, labels = drawn(400)
    array[:, 2, 0] = 0.0
    labels[:, 0, 0] = 0.0
    slope, offset = platt.fit_zones(array, labels, np.ones(400))
    for zone in ((2, 0), (0, 0)):
        assert slope[zone] == 1 and offset[zone] == 0
    assert slope[0, 1] != 1
