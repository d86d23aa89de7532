"""What is said of the probabilities of a model."""

from cxrkit.inference.calibration_statement import NEVER_MEASURED, calibration_statement


def test_what_was_measured_is_said_and_nothing_else():
    assert calibration_statement({}) == NEVER_MEASURED
    assert calibration_statement({"test": {"ece": float("nan")}}) == NEVER_MEASURED
    metrics = {"images": {"test": 76}, "test": {"ece": 0.106}, "external": {"ece": 0.344}}
    found = calibration_statement(metrics)
    assert "off by 0.11 on 76 test films of the hospitals of training and by 0.34 on films" in found
    assert "0.34" not in calibration_statement({**metrics, "external": {}})


def test_calibrated_probabilities_are_called_so_and_their_own_error_is_said():
    metrics = {
        "temperature": 1.5,
        "images": {"test": 76},
        "test": {"ece": 0.11, "ece_calibrated": 0.04},
    }
    found = calibration_statement(metrics)
    assert "calibrated on validation films (temperature 1.50)" in found
    assert "not calibrated" not in found and "off by 0.04 on 76" in found and "0.11" not in found
