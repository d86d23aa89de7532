"""Geometry of the projection against closed forms."""

import cv2
import numpy as np
import pytest

from cxrkit.simulation import anatomy, atlases
from tests.fakes.chests import UNBENT


def test_magnification_is_that_of_a_point_source(chests):
    """The image of two points 60 mm apart is larger by SDD / (SDD - distance to the detector).

    The field is fixed at the detector. Therefore AP magnifies the middle of the chest more than PA.
    """
    atlas = atlases.load_atlas()
    yc = atlas.origin[1] + atlas.stretch[1] * atlas.centre[1]
    for view, chest in chests.items():
        for y in (100.0, 160.0):
            y = chest.y[np.abs(chest.y - y).argmin()]
            a, b = chest.pixel_of([(190.0, y, 150.0), (190.0, y, 210.0)])
            distance = anatomy.SOURCE_DISTANCE[view]
            own = (y - yc) / atlas.stretch[1]
            to_detector = anatomy.DETECTOR_DISTANCE - (1 if view == "PA" else -1) * own
            across = 60.0 / atlas.stretch[2]
            want = across * (distance / (distance - to_detector)) * 256 / anatomy.FIELD
            assert b[0] - a[0] == pytest.approx(want, rel=3e-3)


def test_ap_enlarges_the_heart_by_what_is_published(chests):
    """The width of the heart's shadow on AP over that on PA is 1.11 (bar: 1.09 to 1.13)."""
    widths = {view: np.ptp(np.where(c.heart.any(axis=0))[0]) for view, c in chests.items()}
    assert 1.09 <= widths["AP"] / widths["PA"] <= 1.13


def test_projection_is_the_sum_along_the_ray(monkeypatch):
    """With a distant source and no bending, the coarse channels are sums of the atlas over depth.

    The map is resampled at the voxels of the atlas, so that nothing is lost by interpolation.
    """
    atlas = atlases.load_atlas()
    monkeypatch.setitem(anatomy.SOURCE_DISTANCE, "PA", 1e9)
    dz, dx = atlas.pitch
    D = len(atlas.labels) // 2 * 2
    total = atlas.soft[:D].astype(np.float64).sum(axis=0)  # (Z', X', 2)
    plain = total * anatomy.WATER / 100 * anatomy.SLICE_SPACING
    H = 128  # of 3 mm each
    chest = anatomy.project(UNBENT, "PA", size=2 * H, field_mm=3.0 * H)
    axis = (np.arange(H) + 0.5 - H / 2) * 3.0
    zc, _, xc = atlas.centre
    rows = (zc - axis + atlas.margin[0]) / dz
    columns = (xc + axis + atlas.margin[1] - atlas.spacing / 2) / dx
    maps = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    for row, channel in ((0, 0), (2, 1)):  # soft tissue and spine
        want = cv2.remap(plain[..., channel], *maps, cv2.INTER_LINEAR)
        want = cv2.resize(want, (2 * H, 2 * H), interpolation=cv2.INTER_CUBIC)
        # of up to 6: rounding of uint8 slices
        assert np.abs(chest.integrals[row] - want)[8:-8, 8:-8].max() < 0.03


def test_left_is_on_the_right_of_the_image(chests):
    for chest in chests.values():
        assert np.where(chest.left)[1].mean() > np.where(chest.right)[1].mean() + 50
        # the heart points to the left
        gap = (np.where(chest.right)[1].max() + np.where(chest.left)[1].min()) / 2
        assert np.where(chest.heart)[1].mean() > gap


@pytest.mark.parametrize("source", atlases.SOURCES)
def test_hearts_are_no_wider_than_half_the_thorax(source):
    """Median of five bodies of each CT on PA: 0.42 to 0.50."""
    ratios = []
    for seed in range(5):
        body = anatomy.make_body(np.random.default_rng(seed), source)
        chest = anatomy.project(body, "PA", size=128)
        heart = np.ptp(np.where(chest.heart.any(axis=0))[0])
        ratios.append(heart / np.ptp(np.where((chest.right | chest.left).any(axis=0))[0]))
    assert 0.40 <= np.median(ratios) <= 0.50


def test_bodies_differ_and_repeat():
    def chest(seed):
        return anatomy.project(anatomy.make_body(np.random.default_rng(seed)), "PA", size=64)

    a, b, again = chest(1), chest(2), chest(1)
    assert np.array_equal(a.integrals, again.integrals) and np.array_equal(a.right, again.right)
    assert np.abs(a.integrals - b.integrals).mean() > 0.05
    overlap = (a.right & b.right).sum() / (a.right | b.right).sum()
    assert 0.4 < overlap < 0.97
