"""Geometry of the projection against closed forms."""

import cv2
import numpy as np
import pytest

from cxrkit.simulation import anatomy
from tests.fakes.chests import UNBENT


def test_magnification_is_that_of_a_point_source(chests):
    """The image of two points 60 mm apart is larger by SDD / (SDD - distance to the detector).

    Therefore AP magnifies what lies in front.
    """
    _, yc, _ = anatomy.load_atlas().centre
    for view, chest in chests.items():
        for y in (100.0, 160.0):
            y = chest.y[np.abs(chest.y - y).argmin()]
            a, b = chest.pixel_of([(190.0, y, 150.0), (190.0, y, 210.0)])
            distance = anatomy.SOURCE_DISTANCE[view]
            to_detector = 150.0 - (1 if view == "PA" else -1) * (y - yc)
            at_middle = distance / (distance - 150.0)
            want = 60.0 * (distance / (distance - to_detector)) / at_middle * 256 / 270.0
            assert b[0] - a[0] == pytest.approx(want, rel=2e-3)


def test_heart_is_larger_in_ap(chests):
    """The heart lies in front; on AP, where the detector is behind, its shadow is wider."""

    def width(chest):
        atlas = anatomy.load_atlas()
        (z, y, x), reach = atlas.heart, atlas.heart_reach
        a, b = chest.pixel_of([(z, y, x - reach[2]), (z, y, x + reach[2])])
        return b[0] - a[0]

    assert width(chests["AP"]) > 1.03 * width(chests["PA"])


def test_projection_is_the_sum_along_the_ray(monkeypatch):
    """With a distant source and no bending, the film is the sum of the atlas over depth."""
    atlas = anatomy.load_atlas()
    monkeypatch.setitem(anatomy.SOURCE_DISTANCE, "PA", 1e9)
    # a pixel is 1.5 mm, as a voxel
    chest = anatomy.project(UNBENT, "PA", size=180, field_mm=270.0)
    total = atlas.channels[:86].astype(np.float64).sum(axis=(0, 3))  # (Z, X)
    plain = total * anatomy.WATER / 100 * anatomy.SLICE_SPACING
    zc, _, xc = atlas.centre
    rows = (zc + 134.25 - 1.5 * np.arange(180)) / atlas.spacing
    columns = (xc - 134.25 + 1.5 * np.arange(180)) / atlas.spacing
    maps = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    want = cv2.remap(plain, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    # of up to 6: rounding of uint8 slices
    assert np.abs(chest.integrals.sum(axis=0) - want)[2:-2, 2:-2].max() < 0.02


def test_left_is_on_the_right_of_the_image(chests):
    for chest in chests.values():
        assert np.where(chest.left)[1].mean() > np.where(chest.right)[1].mean() + 60
        hearts = chest.pixel_of([anatomy.load_atlas().heart])[0]
        # the heart points to the left
        assert hearts[0] > (np.where(chest.right)[1].max() + np.where(chest.left)[1].min()) / 2


def test_bodies_differ_and_repeat():
    def chest(seed):
        return anatomy.project(anatomy.make_body(np.random.default_rng(seed)), "PA", size=64)

    a, b, again = chest(1), chest(2), chest(1)
    assert np.array_equal(a.integrals, again.integrals) and np.array_equal(a.right, again.right)
    assert np.abs(a.integrals - b.integrals).mean() > 0.05
    overlap = (a.right & b.right).sum() / (a.right | b.right).sum()
    assert 0.4 < overlap < 0.97
