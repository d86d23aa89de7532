"""Clean masks: the two largest pieces without holes, against SciPy."""

import numpy as np
import pytest
from scipy import ndimage

from cxrkit.data.masks import clean_mask


def test_clean_mask_keeps_the_two_largest_and_fills_their_holes():
    mask = np.zeros((20, 30), np.uint8)
    mask[2:16, 2:12] = 255
    mask[3:18, 16:28] = 255
    wanted = mask > 0
    mask[6:9, 4:7] = 0  # a hole
    mask[18:20, 0:3] = 255  # debris
    for form in (mask, mask > 0, (mask > 0).astype(np.uint8)):
        out = clean_mask(form)
        assert out.dtype == bool  # a filled hole can be no other value than lung
        np.testing.assert_array_equal(out, wanted)


def test_a_bay_at_the_border_is_no_hole():
    mask = np.ones((9, 9), bool)
    mask[3:6, 0:4] = False
    np.testing.assert_array_equal(clean_mask(mask), mask)


@pytest.mark.parametrize("seed", range(4))
def test_clean_mask_agrees_with_scipy(seed):
    mask = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(60, 60)), 2.5) > 0.02
    labels, n = ndimage.label(mask)
    sizes = ndimage.sum_labels(mask, labels, range(1, n + 1))
    kept = np.isin(labels, 1 + np.argsort(-sizes, kind="stable")[:2])
    np.testing.assert_array_equal(clean_mask(mask), ndimage.binary_fill_holes(kept))


@pytest.mark.parametrize("mask", [np.zeros((5, 5), bool), np.ones((5, 5), bool)])
def test_empty_and_full_masks_stay(mask):
    np.testing.assert_array_equal(clean_mask(mask), mask)


@pytest.mark.parametrize("mask", [np.full((4, 4), 127, np.uint8), np.zeros((2, 4, 4), bool)])
def test_clean_mask_refuses_what_is_no_mask(mask):
    with pytest.raises(ValueError, match="clean_mask takes one mask"):
        clean_mask(mask)
