"""Priors that see no film."""

import numpy as np
import pytest

from cxrkit.evaluation import priors


def two_lungs(shape=(12, 20)):
    lung = np.zeros(shape, bool)
    lung[2:10, 3:8] = True
    lung[2:10, 12:17] = True
    return lung


def test_height_goes_from_0_at_the_apex_to_1_at_the_base():
    """Rows 2 to 9 of the lungs, by hand: sevenths."""
    lung = two_lungs()
    found = priors.height(lung)
    np.testing.assert_allclose(found[2:10, 4], np.arange(8) / 7)
    assert not found[~lung].any()


def test_distance_from_the_midline_is_the_same_on_both_sides():
    """The box is columns 3 to 16: the midline lies at 9.5, its sides 6.5 away."""
    lung = two_lungs()
    found = priors.from_midline(lung)
    np.testing.assert_allclose(found[5, [3, 7, 12, 16]], [1, 2.5 / 6.5, 2.5 / 6.5, 1])
    np.testing.assert_allclose(found, found[:, ::-1])
    assert not found[~lung].any()


def test_a_mean_lesion_lies_where_the_lesions_lay_in_lungs_of_another_size_and_place():
    """Always the lower quarter of the patient's right lung; the new lungs are larger and moved."""
    lungs, lesions = [], []
    for shift in (0, 2):
        lung = np.roll(two_lungs(), shift, axis=1)
        lesion = np.zeros_like(lung)
        lesion[8:10] = lung[8:10]
        lesion[:, 10:] = False
        lungs.append(lung)
        lesions.append(lesion)
    prior = priors.mean_lesion(np.stack(lesions), np.stack(lungs))
    new = np.kron(two_lungs(), np.ones((3, 3), bool))
    found = prior(new)
    hottest = np.unravel_index(found.argmax(), found.shape)
    assert hottest[0] >= 24 and hottest[1] < 24  # low, on the left of the image
    assert found[8, 12] < 0.01 and found.max() > 0.9 and not found[~new].any()


def test_an_empty_lung_and_no_lesion_are_refused():
    with pytest.raises(ValueError, match="empty"):
        priors.height(np.zeros((4, 4), bool))
    with pytest.raises(ValueError, match="at least one"):
        priors.mean_lesion(np.zeros((0, 4, 4), bool), np.zeros((0, 4, 4), bool))
