"""Physics of the film against closed forms, and support devices on the anatomy."""

import dataclasses

import cv2
import numpy as np
import pytest

from cxrkit.simulation import radiograph, support_devices


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
    disc = cv2.circle(np.zeros((256, 256), np.float32), (90, 120), 12, 1.0, -1)
    drawn = radiograph.draw_appearance(np.random.default_rng(3), np.random.default_rng(4))
    appearance = dataclasses.replace(drawn, angle=9.0, zoom=1.1, shift=(0.05, -0.04))
    integral, extent, right, left = radiograph.reposition(disc, disc, chest, appearance)
    assert np.array_equal(integral > 0.5, extent > 0.5)
    assert extent.sum() == pytest.approx(disc.sum() * 1.21, rel=0.12)
    assert np.abs(np.argwhere(extent > 0.5).mean(0) - np.argwhere(disc > 0.5).mean(0)).max() > 3
    assert not (cv2.dilate(right.astype(np.uint8), np.ones((3, 3), np.uint8)) & left).any()


def test_devices_follow_the_anatomy(chests):
    """The tip of a tube lies above the carina in both views, and shadows add attenuation only."""
    for chest in chests.values():
        for kind in support_devices.DEVICES:
            integral = support_devices.project_devices(chest, [(kind, 1)])
            assert integral.shape == (256, 256) and integral.min() >= 0 and integral.max() > 0.1
        tube = support_devices.project_devices(chest, [("tube", 1)])
        carina = chest.pixel_of([(200.0, support_devices.TRACHEA_Y, support_devices.TRACHEA_X)])[0]
        assert np.argwhere(tube > 0.05)[:, 0].max() < carina[1]
        assert np.abs(np.argwhere(tube > 0.05)[:, 1].mean() - carina[0]) < 12
