"""The picture of a severity map over its film."""

import cv2
import numpy as np
import pytest
from PIL import ImageFont

from cxrkit.config.choices import Choices
from cxrkit.inference import overlay

CHOICES = Choices()


def film(shape=(600, 500)):
    """A grey ramp with two lungs, and a hot disc in the patient's right one (image left)."""
    h, w = shape
    pixels = np.tile(np.linspace(30, 200, w).astype(np.uint8), (h, 1))
    lungs = np.zeros(shape, bool)
    lungs[h // 6 : 5 * h // 6, w // 10 : 4 * w // 10] = True
    lungs[h // 6 : 5 * h // 6, 6 * w // 10 : 9 * w // 10] = True
    disc = cv2.circle(np.zeros(shape, np.float32), (w // 4, h // 2), w // 12, 1.0, -1)
    return pixels, lungs, disc


def picture(threshold=0.5, shape=(600, 500)):
    pixels, lungs, disc = film(shape)
    return overlay.severity_overlay(pixels, lungs, disc, 1.0, threshold, CHOICES), disc


def test_the_film_is_untouched_where_there_is_no_lung():
    shown, _ = picture()
    corner = shown[:60, :40].astype(int)
    assert (np.ptp(corner, axis=2) == 0).all()


def test_the_white_line_goes_around_the_lesion_and_nowhere_else():
    """Every white pixel of the film lies within the width of a line from the edge of the disc."""
    shown, disc = picture()
    white = (shown[:600] > 250).all(axis=2) & film()[1]  # the film has white of its own beside
    edge = disc.astype(np.uint8) - cv2.erode(disc.astype(np.uint8), np.ones((3, 3), np.uint8))
    distance = cv2.distanceTransform((edge == 0).astype(np.uint8), cv2.DIST_L2, 3)
    assert white.any() and distance[white].max() <= 3
    reached = cv2.dilate(white.astype(np.uint8), np.ones((7, 7), np.uint8))
    assert reached[edge > 0].all()


def test_no_white_line_where_the_map_stays_below_the_threshold():
    pixels, lungs, disc = film()
    shown = overlay.severity_overlay(pixels, lungs, 0.4 * disc, 0.4, 0.5, CHOICES)
    assert not ((shown[:600] > 250).all(axis=2) & lungs).any()


def test_the_middle_of_the_lesion_has_the_colour_of_the_map():
    """OPACITY of the magma colour of 1 over the grey of the film, by hand."""
    shown, _ = picture()
    colour = cv2.applyColorMap(np.array([[255]], np.uint8), cv2.COLORMAP_MAGMA)[0, 0, ::-1]
    grey = np.linspace(30, 200, 500).astype(np.uint8)
    stretched = np.rint(255 * (grey[125] - 30.0) / 170)
    wanted = (1 - overlay.OPACITY) * stretched + overlay.OPACITY * colour
    np.testing.assert_allclose(shown[300, 125], wanted, atol=2)


@pytest.mark.parametrize("shape", [(40, 64), (2000, 3000), (3000, 500), (700, 700)])
def test_any_film_becomes_a_picture_of_a_readable_size_with_its_notice(shape):
    shown, _ = picture(shape=shape)
    scale = shown.shape[1] / shape[1]
    height = round(shape[0] * scale)
    assert shown.dtype == np.uint8
    assert overlay.SMALLEST <= max(height, shown.shape[1]) <= overlay.LONGEST + 1 / scale
    below = shown[height + 2 :]  # white letters on black, none cut off at the right edge
    assert below.max() > 200 and not below[:, -2:].any()


def test_lines_are_broken_between_words():
    font = ImageFont.load_default(12)
    words = "not for the care of a patient"
    lines = overlay._broken(words, font, 60)
    assert " ".join(lines) == words and len(lines) > 2
    assert all(font.getlength(line) <= 60 for line in lines)
