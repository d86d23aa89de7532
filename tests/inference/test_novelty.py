"""How far a film lies from the training: against closed forms."""

import json

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from cxrkit.inference import novelty

RNG_SEED = 4


def drawn(count, rng, shift=0.0):
    """Features of six numbers with a known covariance: two strong directions, four weak ones."""
    mixing = np.linalg.qr(np.random.default_rng(9).normal(size=(6, 6)))[0]
    scales = np.array([5.0, 3.0, 0.5, 0.5, 0.5, 0.5])
    return (rng.normal(size=(count, 6)) * scales + shift) @ mixing.T + 7


def test_with_all_axes_the_distance_is_that_of_scipy():
    rng = np.random.default_rng(RNG_SEED)
    train, other = drawn(400, rng), drawn(50, rng)
    known = novelty.statistics(train, other, axes=6)
    inverse = np.linalg.inv(np.cov(train.T))
    want = [mahalanobis(one, train.mean(0), inverse) for one in other]
    np.testing.assert_allclose(novelty.distance(other, known), want, rtol=1e-4)


def test_with_the_strong_axes_alone_it_is_that_of_the_true_covariance():
    """The four weak directions share one variance, as they do in truth."""
    rng = np.random.default_rng(RNG_SEED)
    known = novelty.statistics(drawn(4000, rng), drawn(50, rng), axes=2)
    assert known["rest"] == pytest.approx(0.25, rel=0.1)
    assert known["variances"] == pytest.approx([25, 9], rel=0.1)
    squared = novelty.distance(drawn(4000, rng), known) ** 2  # chi-square of six degrees
    assert squared.mean() == pytest.approx(6, rel=0.1)
    assert squared.var() == pytest.approx(12, rel=0.2)


def test_novelty_is_even_over_films_of_the_same_kind_and_one_over_others():
    rng = np.random.default_rng(RNG_SEED)
    known = novelty.statistics(drawn(500, rng), drawn(2000, rng), axes=2)
    same = novelty.novelty(drawn(2000, rng), known)
    assert np.quantile(same, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.06)
    assert (same > novelty.SEEN).mean() == pytest.approx(0.01, abs=0.01)
    others = novelty.novelty(drawn(100, rng, shift=[0, 0, 5, 0, 0, 0]), known)
    assert others.min() == 1
    # as long a step along a direction in which films differ is nothing new
    along = novelty.novelty(drawn(500, rng, shift=[5, 0, 0, 0, 0, 0]), known)
    assert np.median(along) < 0.8


def test_statistics_survive_json_and_say_what_is_wrong():
    rng = np.random.default_rng(RNG_SEED)
    train, other = drawn(60, rng), drawn(30, rng)
    known = novelty.statistics(train, other)
    again = json.loads(json.dumps(known))
    np.testing.assert_array_equal(novelty.novelty(other, again), novelty.novelty(other, known))
    assert known["films"] == {"train": 60, "val": 30} and len(known["axes"]) == 6
    with pytest.raises(ValueError, match="at least 20"):
        novelty.statistics(train[:5], other)
    with pytest.raises(ValueError, match="do not fit"):
        novelty.statistics(train, other[:, :3])
    with pytest.raises(ValueError, match="not finite"):
        novelty.statistics(np.where(train > 8, np.nan, train), other)


def test_what_is_said_of_a_film():
    assert novelty.warning(0.5) == novelty.warning(0.99) == novelty.warning(np.nan) == ""
    assert novelty.warning(1.0).startswith("not seen before: farther")
