"""What is said of a severity score."""

import json

import pytest

from cxrkit.inference import trained
from cxrkit.inference.severity_statement import DEFINITION, NEVER_MEASURED, severity_statement
from tests.fakes.small_models import small_profile


def value(mean, low=None, high=None, n=9):
    return {"value": mean, "low": low, "high": high, "n": n}


def measured():
    read = [
        {"low": 0, "high": 0, "true": 0.0, "read": value(1.2, 0.9, 1.6)},
        {"low": 5, "high": 6, "true": 5.4, "read": value(3.7, 3.3, 4.0)},
    ]
    split = {"mse": value(3.64, 2.76, 4.5, 200), "constant": {"mse": value(3.91)}, "by_truth": read}
    test = {"mse": value(1.11, n=5)}
    return {"test": test, "external": split, "healthy": {"score": value(1.59, 1.46, 1.72, 300)}}


def test_the_shipped_model_is_stated_by_its_cross_validation():
    """Its card has the folds of a cross-validation, and they say more than its test split."""
    models = trained.load_models(weights=trained.SHIPPED)
    metrics = models.parts["severity"].metrics
    folds = metrics["folds"]["threshold1"]["model"]["mse"]
    assert folds["n"] > metrics["test"]["mse"]["n"]
    assert f"On {folds['n']} images of patients" in models.about


def test_every_number_is_the_models_own():
    said = severity_statement(measured())
    assert said == (
        f"{DEFINITION} On 200 images at hospitals that no training saw its mean squared error is "
        "3.64 [2.76, 4.50] (a constant guess: 3.91). It reads on average true 0 as 1.20 "
        "[0.90, 1.60]; true 5 to 6 as 3.70 [3.30, 4.00]; 300 normal images as 1.59 [1.46, 1.72]."
    )


def test_without_external_images_the_folds_speak_and_without_any_the_statement_says_so():
    metrics = measured()
    del metrics["external"], metrics["healthy"]
    assert "5 images of test patients" in severity_statement(metrics)
    # as `reader_study.run` gives them, at each threshold of a zone
    model, guess = {"mse": value(2.0, 1.0, 3.0, 131)}, {"mse": value(4.0)}
    read = [{"low": 3, "high": 4, "true": 3.5, "read": value(3.1, 2.8, 3.4)}]
    at_each = {
        "threshold1": {"model": model, "constant": guess, "by_truth": read},
        "threshold2": {"model": {"mse": value(5.0, n=77)}, "constant": guess},
    }
    said = severity_statement({**metrics, "folds": at_each})
    assert "131 images of patients that the model was not trained on" in said
    assert "is 2.00 [1.00, 3.00] (a constant guess: 4.00)" in said
    assert said.endswith("true 3 to 4 as 3.10 [2.80, 3.40].")
    assert "77 images" in severity_statement({**metrics, "folds": at_each}, threshold=2)
    assert severity_statement({}) == f"{DEFINITION} {NEVER_MEASURED}"


@pytest.mark.parametrize("beside", ["metrics.json", "card.json"])
def test_it_is_read_from_beside_the_weights_and_stands_in_about(weights, tmp_path, beside):
    """From the folder of a stage as from that of shipped files, which hold one card for all."""
    for path in weights.iterdir():
        (tmp_path / path.name).symlink_to(path)
    metrics = measured()
    text = metrics if beside == "metrics.json" else {"models": {"severity": {"metrics": metrics}}}
    (tmp_path / beside).write_text(json.dumps(text))
    found = trained.load_models(small_profile(), weights=tmp_path)
    assert severity_statement(metrics) in found.about
