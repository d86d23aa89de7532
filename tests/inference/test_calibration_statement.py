"""What is said of the probabilities of a model."""

from cxrkit.inference.calibration_statement import NEVER_MEASURED, calibration_statement


def test_what_was_measured_is_said_and_nothing_else():
    assert calibration_statement({}) == NEVER_MEASURED
    assert calibration_statement({"test": {"ece": float("nan")}}) == NEVER_MEASURED
    metrics = {"images": {"test": 76}, "test": {"ece": 0.106}, "external": {"ece": 0.344}}
    found = calibration_statement(metrics)
    assert "off by 0.11 on 76 test films of the hospitals of training and by 0.34 on films" in found
    assert "0.34" not in calibration_statement({**metrics, "external": {}})
