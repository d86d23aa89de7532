"""Physics of the film against closed forms, and support devices on the anatomy."""

import dataclasses

import cv2
import numpy as np
import pytest

from cxrkit.simulation import anatomy, radiograph, support_devices
from cxrkit.simulation.atlases import SOURCES, load_atlas


def test_transmission_is_beer_lambert():
    """Without scatter, noise or blur, the log signal is the hardened line integral."""
    integral = np.linspace(0, 5, 64 * 64, dtype=np.float32).reshape(64, 64)
    ideal = radiograph.Detector(blur=1e-3, photons=1e30, scatter=0.0)
    log_signal = radiograph.detect(integral, ideal, np.random.default_rng(0))
    assert np.allclose(log_signal, integral / (1 + 0.03 * integral), atol=1e-4)


def test_noise_is_that_of_counted_photons():
    """The variance of a log of N counted photons is 1 / N.

    That is e^t times that of open air behind an integral of t.
    """
    detector = radiograph.Detector(blur=1e-3, photons=1e5, scatter=0.0)

    def variance(t):
        integral = np.full((256, 256), t, np.float32)
        return radiograph.detect(integral, detector, np.random.default_rng(0)).var()

    assert variance(2.0) / variance(0.0) == pytest.approx(np.exp(2.0 / 1.06), rel=0.03)


def test_film_and_truth_move_by_the_same_map(chests):
    """A bright disc on the film and the same disc in the truth land on the same pixels."""
    chest = chests["PA"]
    disc = cv2.circle(np.zeros((256, 256), np.float32), (90, 120), 14, 1.0, -1)
    drawn = radiograph.draw_appearance(np.random.default_rng(3), np.random.default_rng(4))
    appearance = dataclasses.replace(drawn, angle=9.0, width=0.9, aspect=1.0, shift=(0.05, -0.04))
    integral, extent, right, left = radiograph.reposition(disc, disc, chest, appearance)
    assert integral.shape == extent.shape == right.shape == (128, 128)
    assert ((integral > 0.5) != (extent > 0.5)).sum() < 0.06 * (extent > 0.5).sum()
    # a pixel of the film is 1.8 of the map
    assert extent.sum() == pytest.approx(disc.sum() / 1.8**2, rel=0.12)
    away = np.argwhere(extent > 0.5).mean(0) - np.argwhere(disc > 0.5).mean(0) / 2
    assert np.abs(away).max() > 2
    assert not (cv2.dilate(right.astype(np.uint8), np.ones((3, 3), np.uint8)) & left).any()


def test_the_films_greys_are_those_of_real_sources():
    """The middle of a film has the quantiles that were drawn for it, without equalisation."""
    levels = radiograph._tones()["levels"]
    signal = np.random.default_rng(0).gamma(3.0, 1.0, (128, 128)).astype(np.float32)
    signal = cv2.GaussianBlur(signal, (0, 0), 2)
    for tone in ("nih", "hannover", "cohen", "shenzhen", "nih_large"):
        detector = radiograph.Detector(tone=tone, equalize=0.0, sharpen=0.0)
        rng = np.random.default_rng(5)
        grey = radiograph.develop(signal, detector, "PA", rng)
        again = np.random.default_rng(5)
        again.uniform()
        want = radiograph.draw_tone(tone, again)
        middle = grey[round(0.12 * 128) : round(0.85 * 128), round(0.12 * 128) : round(0.88 * 128)]
        assert np.abs(np.percentile(middle, levels) - want).max() < 0.03
        assert (np.diff(want) > 0).mean() > 0.7 and 0 <= want.min() and want.max() <= 1


def test_the_tip_of_a_tube_lies_in_the_windpipe():
    """In every CT and both views, for bent bodies; and at most 65 mm above the carina."""
    for source in SOURCES:
        line = load_atlas(source).trachea
        carina = line[-1, 0]
        for seed, view in enumerate(("PA", "AP")):
            body = anatomy.make_body(np.random.default_rng(seed), source)
            chest = anatomy.project(body, view, size=256)
            for number in range(5):
                path = support_devices.tube_path(source, np.random.default_rng(number))
                assert path[-1][0] - carina <= 65 and path[-1][0] < line[0, 0]
                column, row = np.round(chest.pixel_of([path[-1]])[0]).astype(int)
                assert chest.trachea[row, column]


def test_devices_add_attenuation(chests):
    for chest in chests.values():
        for kind in support_devices.DEVICES:
            integral = support_devices.project_devices(chest, [(kind, 1)])
            assert integral.shape == (256, 256)
            assert integral.min() > -0.03 and integral.max() > 0.1
