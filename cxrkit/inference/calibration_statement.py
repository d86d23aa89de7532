"""What a probability of a diagnosis model is worth: how far it is off where the truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NEVER_MEASURED = "how far the probabilities are off was not recorded."
SPLITS = {
    "test": "test films of the hospitals of training",
    "external": "films of hospitals that no training saw",
}


def calibration_statement(metrics: Mapping[str, Any]) -> str:
    """How far the probabilities of a model are off, in a sentence.

    Args:
        metrics: Of the trained model, as its metrics.json holds them; {} = unknown.

    Returns:
        Whether a temperature calibrates them, and the expected calibration error on each of SPLITS
        of what `predict` says; what was not measured is left out.
    """
    temperature = metrics.get("temperature")
    key = "ece" if temperature is None else "ece_calibrated"
    parts = []
    for split, words in SPLITS.items():
        error = metrics.get(split, {}).get(key)
        count = metrics.get("images", {}).get(split)
        if error is not None and error == error:  # NaN where nothing was counted
            of = f"{count} " if count else ""
            parts.append(f"{error:.2f} on {of}{words}")
    if not parts:
        return NEVER_MEASURED
    how = "not calibrated"
    if temperature is not None:
        how = f"calibrated on validation films (temperature {temperature:.2f})"
    return (
        f"the probabilities are {how}; on average they are off by "
        f"{' and by '.join(parts)} (expected calibration error)."
    )
