"""Calibration of zones against its formula."""

import numpy as np
import torch

from cxrkit.models.zone_calibration import ZoneCalibration


def test_it_begins_as_the_identity():
    array = torch.rand(5, 3, 2)
    torch.testing.assert_close(ZoneCalibration()(array), array, atol=1e-4, rtol=0)


def test_each_zone_has_a_line_of_its_own_and_an_absent_one_stays_absent():
    rng = np.random.default_rng(0)
    array = rng.uniform(0.01, 0.99, (4, 3, 2))
    array[1, 2, 0] = 0.0
    slope, offset = rng.uniform(0.5, 2, (3, 2)), rng.normal(size=(3, 2))
    calibration = ZoneCalibration()
    calibration.set_lines(slope, offset)
    found = calibration(torch.from_numpy(array).float()).numpy()
    for image, row, column in np.ndindex(4, 3, 2):
        value = array[image, row, column]
        if value == 0:
            assert found[image, row, column] == 0
            continue
        odds = np.exp(offset[row, column]) * (value / (1 - value)) ** slope[row, column]
        np.testing.assert_allclose(found[image, row, column], odds / (1 + odds), atol=1e-5)


def test_lines_are_kept_with_the_weights():
    calibration, again = ZoneCalibration(), ZoneCalibration()
    calibration.set_lines(np.full((3, 2), 2.0), np.full((3, 2), -1.0))
    again.load_state_dict(calibration.state_dict())
    assert again.lines() == {"slope": [[2.0] * 2] * 3, "offset": [[-1.0] * 2] * 3}
