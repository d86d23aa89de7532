"""Figures of severity: what they say is what they were given."""

import numpy as np
import pytest

from cxrkit.config import choices
from cxrkit.data import lung_zones
from cxrkit.viz import curves, overlays


def lungs(size=64):
    right, left = np.zeros((2, size, size), bool)
    right[8:56, 8:28] = left[8:56, 36:56] = True
    return right, left


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def test_zone_lines_count_the_zones_that_the_lesion_reaches():
    right, left = lungs()
    lesion = np.zeros((64, 64), bool)
    # rows 26 and 27 in the upper zone, 28 and 29 in the middle one: the line is at 28
    lesion[26:30, 10:20] = True
    image = np.full((64, 64), 90, np.uint8)
    same = overlays.plot_zone_lines(image, right, left, lesion, 5 / 12, 2 / 3, False, "x")
    assert titles(same)[:2] == ["as the paper cuts: score 2", "your lines: score 2"]
    lower = overlays.plot_zone_lines(image, right, left, lesion, 0.5, 2 / 3, False, "x")
    assert titles(lower)[1] == "your lines: score 1"
    slipped = overlays.plot_zone_lines(image, right, left, lesion, 5 / 12, 2 / 3, True, "x")
    zones = lung_zones.zones_of_sides(right, left, choices.Choices(zone_origin="row0"))
    reached = (lung_zones.coverage(lesion, zones) >= 0.01).sum()
    assert titles(slipped)[1] == f"your lines: score {reached}"


def test_severity_figure_says_read_and_true():
    lung = np.logical_or(*lungs())
    heat = np.zeros((1, 32, 32))
    heat[0, 8:12, 8:12] = 0.9
    array = np.array([[[0.9, 0], [0.4, 0], [0, 0]]])
    figure = overlays.plot_severity(
        np.full((1, 64, 64), 90, np.uint8), heat, lung[None], array, [1.0], ["elm"], "x", 0.5
    )
    assert titles(figure)[3] == "read 1.3, true 1"
    assert titles(figure)[2] == "contours at 0.5"
    assert len(figure.axes[2].lines) == 1  # one contour


def test_agreement_draws_bias_and_limits():
    figure = curves.plot_agreement([0, 2, 4], [1, 3, 5], "x")
    heights = sorted(
        line.get_ydata()[0] for line in figure.axes[1].lines if len(line.get_ydata()) == 2
    )
    assert heights == pytest.approx([1, 1, 1])  # every prediction one too high: bias 1, no spread


def test_followup_rings_changes_beyond_the_limit():
    figure = curves.plot_followup(
        [np.arange(3)], [np.array([1.0, 1.5, 4.0])], [np.array([1, 1, 4])], 1.0, "x"
    )
    ring = figure.axes[0].lines[-1]
    assert ring.get_xdata().tolist() == [2] and ring.get_ydata().tolist() == [4.0]
